"""A run with context=listener, from its words to its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from segue.catalog import key_of
from segue.runs.profiles import FILE, Profiles
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE as VECTORS
from segue.runs.session_vectors import SessionVectors
from tests.conftest import event, write_lines, write_tracks
from tests.e2e.running import run_verb

NUM_TRACKS, NUM_LISTENERS = 40, 25
START = 1_700_000_000_000
OTHERS = ("logger=none", "callbacks.plots=null", "trainer.accelerator=cpu")
WORDS = (
    *("datamodule=botify", "datamodule.path=logs", "recipe=playlists", "context=listener", "model.dim=8"),
    *("trainer.max_epochs=1", "datamodule.batch_size=256", "callbacks.export.k=10", *OTHERS),
)


def write_days(folder: Path, first: int, end: int) -> None:
    """Listeners who hear one of five tracks of their own, or else any track."""
    write_tracks(folder, (row // 2 for row in range(NUM_TRACKS)))
    own = np.random.default_rng(0).integers(0, NUM_TRACKS, (NUM_LISTENERS, 5))
    for day in range(first, end):
        rng, lines = np.random.default_rng(day + 1), []
        for user in range(NUM_LISTENERS):
            for step in range(6):
                track = int(rng.choice(own[user]) if rng.random() < 0.6 else rng.integers(NUM_TRACKS))
                time = START + day * 86_400_000 + user * 60_000 + step * 1000
                lines.append(event(user, time, 100 + track, 1.0, "last" if step == 5 else "next"))
        write_lines(folder / "logs" / f"day-{day}" / "data.json", lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the logs of 24 days, and a run in it; what it printed."""
    folder = tmp_path_factory.mktemp("listeners")
    write_days(folder / "logs", 0, 24)
    return folder, run_verb("train.py", folder, *WORDS, "hydra.run.dir=first").stdout


def plays_of(folder: Path, user: int) -> dict[int, float]:
    [own] = Profiles.read(folder / FILE).of_listeners(np.array([user]))
    return {int(one["track"]): float(one["plays"]) for one in own if one["plays"] > 0}


def test_it_says_what_it_has_and_writes_vectors_and_profiles(run: tuple[Path, str]) -> None:
    folder, printed = run
    metrics = json.loads((folder / "first" / "metrics.json").read_text())
    assert "listener     heard" in printed
    assert "listeners    profiles.npz has what each has heard" in printed
    assert "profiles.npz" in (folder / "first" / "model_card.md").read_text()
    assert metrics["listener_plays"] != 0
    assert metrics["test/ndcg_at_10_own_floor"] > 1.5 * metrics["test/ndcg_at_10_popular_floor"]
    catalog = Recommendations.read_with_catalog(folder / "first" / "recommendations.jsonl")[1]
    vectors = SessionVectors.read(folder / "first" / VECTORS, catalog)
    assert vectors.context == "listener"
    assert vectors.listener is not None
    assert vectors.listener.any()
    profiles = Profiles.read(folder / "first" / FILE)
    assert profiles.listeners.tolist() == list(range(NUM_LISTENERS))
    assert max(plays_of(folder / "first", 3).values()) > 5, "the favourites of a listener"


def test_listeners_of_a_file_are_not_learned(run: tuple[Path, str]) -> None:
    folder, _ = run
    (folder / "some.txt").write_text("3\n7\n")
    words = (*WORDS, "datamodule.policies.without=some.txt", "hydra.run.dir=without", "refit=none")
    printed = run_verb("train.py", folder, *words).stdout
    assert "by without" in printed
    assert not {3, 7} & set(Profiles.read(folder / "without" / FILE).listeners.tolist())
    assert key_of(3) == 3


def test_a_source_without_a_past_is_refused_before_a_run_exists(tmp_path: Path) -> None:
    write_tracks(tmp_path / "logs", range(5))
    lines = [event(user, START + 1000 * step, 100 + step) for user in range(40) for step in range(3)]
    write_lines(tmp_path / "logs" / "logs" / "data.json", lines)
    found = run_verb("train.py", tmp_path, *WORDS, "hydra.run.dir=refused", code=2)
    assert "context=listener looks at what a listener heard in earlier sessions" in found.stdout + found.stderr
    assert not (tmp_path / "refused" / "config.yaml").exists()
