"""A release of four arms with vectors, and the room of a service that serves it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segue.runs.catalog_files import write_plays
from segue.runs.session_vectors import SessionVectors
from segue.serving.release import Release
from segue.serving.room.release_view import ReleaseView
from tests.conftest import make_catalog, make_vectors
from tests.serving.conftest import arm, lists_of, make_release

ARTIST_OF = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
"""Of tracks 100 to 109."""
PLAYS = [5, 50, 7, 30, 30, 2, 0, 11, 12, 1]
ALPHA = 0.3


def cosine_vectors(alpha: float = ALPHA, seed: int = 0) -> SessionVectors:
    """As `model=convex` exports them: unit vectors of tracks and artists, times √α and √(1 − α)."""
    rng = np.random.default_rng(seed)
    tracks, artists = rng.standard_normal((len(ARTIST_OF), 4)), rng.standard_normal((5, 3))
    parts = [table / np.linalg.norm(table, axis=1, keepdims=True) for table in (tracks, artists[ARTIST_OF])]
    both = np.hstack([parts[0] * alpha**0.5, parts[1] * (1 - alpha) ** 0.5]).astype(np.float32)
    return make_vectors(
        len(ARTIST_OF),
        queries=both,
        items=both,
        ends=np.array([4, 7]),
        shares=np.array([alpha, 1 - alpha], np.float32),
        age_weights=np.ones((2, 1), np.float32),
        skipped=1.0,
        context="last",
    )


@pytest.fixture
def release(tmp_path: Path) -> Release:
    catalog = make_catalog(ARTIST_OF)
    vectors = cosine_vectors()
    vectors.write(tmp_path / "vectors.npz", catalog)
    write_plays(catalog, np.array(PLAYS), tmp_path / "plays.npz")
    (tmp_path / "config.yaml").write_text("run_name: convex α=learned seed=2", encoding="utf-8")
    scores = vectors.queries @ vectors.items.T
    np.fill_diagonal(scores, -np.inf)
    best = np.argsort(-scores, axis=1)[:, :4]
    lists = lists_of(best, np.take_along_axis(scores, best, 1))
    lists.write(tmp_path / "r.jsonl", catalog, format="botify")
    arms = {
        "C": arm(pick="ranked").model_copy(update={"recommender": str(tmp_path / "r.jsonl")}),
        "T1": arm(pick="ranked", context="session", num_lists=2),
        "T2": arm("popular"),
        "T3": arm("random"),
    }
    of_session = replace(vectors, context="session", age_weights=np.array([[1, 0.5], [1, 0.5]], np.float32))
    return make_release(
        tmp_path / "release",
        catalog=catalog,
        arms=arms,
        lists={"C": lists, "T1": lists},
        vectors={"T1": of_session},
        top_tracks=[1, 3, 4],
    )


def locate(name: str) -> Path:
    raise AssertionError(name)


@pytest.fixture
def view(release: Release, tmp_path: Path) -> ReleaseView:
    return ReleaseView(release, [str(tmp_path / "r.jsonl"), str(tmp_path / "gone.jsonl")], locate)
