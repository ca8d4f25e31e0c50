"""A world for the tracks of a run, with the tastes of a model."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.recommendations import Recommendations
from segue.simulation.catalogue_world import of_catalogue
from segue.simulation.policies import make_policies
from segue.simulation.world import World
from segue.simulation.world_files import read_world, write_world
from tests.conftest import make_catalog, make_vectors
from tests.simulation.test_policies import TEMPLATES

NUM_TRACKS = 600


def write_run(folder: Path, catalog: Catalog, *, gap: int = 1, plays: bool = True, **vectors: Any) -> Path:
    """A run folder whose lists are the tracks after each track; the plays of row r are r % 7, and 1,000 of the first.

    Artists have four tracks; the vector of a track is one of its artist and one of its own. The last track is unknown.
    """
    num_tracks = len(catalog)
    folder.mkdir(parents=True)
    rows = (np.arange(num_tracks)[:, None] + gap * np.arange(1, 5)) % num_tracks
    counts = np.where(np.arange(num_tracks) == 0, 1000, np.arange(num_tracks) % 7) if plays else None
    lists = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32), plays=counts)
    lists.write(folder / "recommendations.jsonl", catalog, format="botify")
    rng = np.random.default_rng(7)
    items = rng.normal(size=(catalog.num_artists, 41))[catalog.artist_of] + rng.normal(size=(num_tracks, 41))
    items[-1, :40] = 0
    items = items.astype(np.float32)
    given: dict[str, Any] = {"items": items, "queries": items, "ends": np.array([20, 40])}
    make_vectors(num_tracks, **{**given, **vectors}).write(folder / "vectors.npz", catalog)
    return folder


def catalog_of(num_tracks: int = NUM_TRACKS) -> Catalog:
    """Ids as an app has them, in no order."""
    catalog = make_catalog(row // 4 for row in range(num_tracks))
    ids = [f"track:{row * 7919 % num_tracks:04}" for row in range(num_tracks)]
    return replace(catalog, track_ids=np.array(ids, object))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "A", catalog_of())


def world_of(tracks: Path | str | None, **settings: Any) -> World:
    given: dict[str, Any] = {"num_listeners": 200, "locate": Path} | settings
    return of_catalogue(tracks=None if tracks is None else str(tracks), **given)


def test_the_same_seed_gives_the_same_world_also_from_its_files(run: Path, tmp_path: Path) -> None:
    first, again, other = (world_of(run, seed=seed) for seed in (3, 3, 4))
    assert first.digest() == again.digest() != other.digest()
    write_world(first, tmp_path)
    assert read_world(path=str(tmp_path), taste=None).digest() == first.digest()


def test_ids_artists_and_popularity_are_those_of_the_run(run: Path) -> None:
    world, given = world_of(run, num_listeners=4000), catalog_of()
    rows = given.rows_of(world.catalog.track_ids)
    assert sorted(rows.tolist()) == list(range(NUM_TRACKS))
    assert world.catalog.titles.tolist() == given.titles[rows].tolist()
    assert world.catalog.artists[world.catalog.artist_of].tolist() == given.artists[given.artist_of[rows]].tolist()
    plays = np.where(rows == 0, 1000, rows % 7)
    assert (np.diff(plays[world.top_tracks]) <= 0).all()
    loved = np.bincount(world.listeners.interests.ravel(), minlength=NUM_TRACKS)
    assert not loved[plays == 0].any()
    assert loved[rows == 0] / loved.sum() == pytest.approx(1000 / plays.sum(), abs=0.02)
    assert world.listeners.user_ids.tolist() == list(range(4000))


def test_near_vectors_of_the_model_are_near_tastes(tmp_path: Path) -> None:
    """Two artists of each pair have the same vectors in the model; listeners of one like the other."""
    catalog = catalog_of()
    vectors = np.random.default_rng(5).normal(size=(NUM_TRACKS // 8, 40))[np.arange(NUM_TRACKS) // 8]
    vectors[3] = 0
    run = write_run(tmp_path / "run", catalog, items=vectors.astype(np.float32), queries=vectors.astype(np.float32))
    world = world_of(run)
    lengths = np.linalg.norm(world.embeddings, axis=1)
    assert lengths[row := int(world.catalog.rows_of([catalog.track_ids[3]])[0])] == 0, "it has no vector"
    assert np.delete(lengths, row) == pytest.approx(4.4, rel=1e-6)
    pair_of = catalog.rows_of(world.catalog.track_ids) // 8
    same_pair = (pair_of[:, None] == pair_of) & (pair_of[:, None] > 0)
    cosine = world.embeddings @ world.embeddings.T / 4.4**2
    assert cosine[same_pair].mean() == pytest.approx(1, abs=0.01)
    assert abs(cosine[~same_pair].mean()) < 0.05


def test_the_tastes_can_be_those_of_another_run_of_the_same_tracks(run: Path, tmp_path: Path) -> None:
    own, catalog = world_of(run), catalog_of()
    vectors = make_vectors(NUM_TRACKS, seed=9)
    other = write_run(tmp_path / "B", catalog, gap=2, queries=vectors.queries, items=vectors.items, ends=vectors.ends)
    world = world_of(run, model=str(other))
    assert world.catalog.track_ids.tolist() == own.catalog.track_ids.tolist()
    assert world.model is not None
    assert world.model.name == str(other)
    assert world.digest() != own.digest()


def test_the_model_of_the_tastes_cannot_be_an_arm(run: Path, tmp_path: Path) -> None:
    world = world_of(run)
    make = partial(make_policies, templates=TEMPLATES, world=world, locate=Path)
    message = "arms.T1: .* is the run whose vectors are the tastes of the listeners of this world"
    for copied in (run, shutil.copytree(run, tmp_path / "copy")):
        with pytest.raises(InputError, match=message):
            make({"C": "popular", "T1": f"{copied}/recommendations.jsonl"})
    other = write_run(tmp_path / "B", catalog_of(), gap=2)
    assert list(make({"C": "popular", "T1": f"{other}/recommendations.jsonl"})) == ["C", "T1"]


def test_a_run_is_found_by_its_name(run: Path) -> None:
    named = world_of("run:12ab", locate={"run:12ab": run / "recommendations.jsonl"}.__getitem__)
    assert named.digest() == world_of(run).digest()
    assert named.model is not None
    assert named.model.caution.startswith("listeners of this world have the tastes of run:12ab: it shows whether ids")


def test_a_run_that_cannot_be_a_world_is_refused(run: Path, tmp_path: Path) -> None:
    catalog = catalog_of()
    few = write_run(tmp_path / "few", catalog_of(50))
    bare = write_run(tmp_path / "bare", catalog)
    (bare / "vectors.npz").unlink()
    without_plays = write_run(tmp_path / "without", catalog, plays=False)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (None, {}, "world=catalogue needs the run whose tracks it has: world.tracks= takes the path of a recommend"),
        ("yes", {}, "world.tracks=yes does not name a run; it takes the path of a recommendations.jsonl or"),
        (run, {"model": "popular"}, "world.model=popular does not name a run; it takes the path"),
        (bare, {}, "bare has no vectors.npz and therefore no tastes; name the run of a head, such as model=convex"),
        (without_plays, {}, "without: the run has no plays of its tracks; train it again"),
        (few, {}, "few has 50 tracks, and a world needs 100 or more"),
        (run, {"model": str(few)}, "vectors.npz has vectors of 50 tracks, and the catalogue has 600; use the vectors"),
        (tmp_path / "none", {}, "cannot read recommendations from .*none"),
    ]
    for tracks, settings, message in cases:
        with pytest.raises(InputError, match=message):
            world_of(tracks, **settings)


def test_the_ids_of_a_world_are_in_its_digest(run: Path) -> None:
    world = world_of(run)
    ids = np.array([f"{track}x" for track in world.catalog.track_ids], object)
    assert replace(world, catalog=replace(world.catalog, track_ids=ids)).digest() != world.digest()
