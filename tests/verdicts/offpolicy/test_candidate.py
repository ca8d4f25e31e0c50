"""The recommender that is estimated: its name, and that its probabilities are those of the arm that serves it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.runs.catalog_files import write_catalog
from segue.runs.profiles import DAY_MS
from segue.runs.session_vectors import FILE
from segue.simulation.policies import Lists, Policy, Popular, Random, StickyArtist
from segue.simulation.world import World
from segue.verdicts.offpolicy.candidate import Candidate, candidate_of, catalog_of_logs
from tests.conftest import make_catalog, make_vectors
from tests.odd_ids import with_texts
from tests.simulation.running import MIDNIGHT
from tests.simulation.test_arm_profiles import an_arm, write_profiles, write_run
from tests.test_control_2026 import POLICY
from tests.verdicts.offpolicy.played import DEFAULTS, estimated, neighbours, opened, simulate

CATALOG = make_catalog([0, 1, 2])
NOTHING = np.empty(0, np.int64)


def candidate(given: Any) -> Candidate:
    where: dict[str, Any] = {"locate": lambda name: Path("found", name), "catalog": CATALOG, "popular": NOTHING}
    return candidate_of(given, defaults=DEFAULTS, **where)


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "recommendations.jsonl").write_text('{"track": 100, "recommendations": [101]}\n')
    return str(tmp_path / "recommendations.jsonl")


def test_a_candidate_answers_as_its_run_was_trained(tmp_path: Path, file: str) -> None:
    assert candidate(file).picker.search is None
    make_vectors(3).write(tmp_path / FILE, CATALOG)
    assert candidate(file).picker.search is not None
    assert candidate({"recommender": file, "context": "last"}).picker.search is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "candidate must name a recommender, got 7"),
        ("oracle", "candidate: 'oracle' is not a recommender; choose one of popular, random, sticky_artist"),
        ("http://localhost:5001", "candidate: 'http://localhost:5001' is not a recommender; choose one of popular"),
        ("popular", "candidate=popular: there is no top_tracks.json beside the catalogue"),
        ("run:1", "cannot read recommendations from found/run:1"),
        ({"recommender": "random", "pick": "ranked"}, "candidate: pick applies to lists, and random has a rule"),
        ({"depth": 3}, "candidate has no key 'depth'"),
        ({"pick": "best"}, r"candidate: pick: String should match pattern .*uniform\|ranked\|weighted.*, got 'best'"),
        ({"familiar": 0.5}, "candidate: familiar=0.5 needs context=listener, which knows the listener"),
        ({"num_lists": 21}, "candidate: num_lists: Input should be less than or equal to 20, got 21"),
        ({"num_lists": 3, "context": "last"}, "candidate: num_lists=3 needs context=session or listener; this arm has"),
        ({"context": "listener"}, "candidate: context=listener, and the run of .* was trained with context=session"),
        ({"policy": POLICY, "pick": "ranked"}, "candidate: pick applies to lists, and .*Control has a rule of its own"),
    ],
)
def test_what_is_no_candidate_is_refused(tmp_path: Path, file: str, given: Any, message: str) -> None:
    make_vectors(3).write(tmp_path / FILE, CATALOG)
    with pytest.raises(InputError, match=message):
        candidate({"recommender": file, **given} if isinstance(given, dict) and "recommender" not in given else given)


def test_lists_of_another_catalogue_are_refused(world: World, tmp_path: Path) -> None:
    """Other ids, and the same ids for other songs."""
    file = str(neighbours(world, tmp_path / "recommendations.jsonl"))
    songs = replace(world.catalog, titles=np.roll(world.catalog.titles, 1))
    for catalog, message in (
        (with_texts(world.catalog), "line 1: track 0 is not in the catalogue of 400 tracks"),
        (songs, "track 0 is .* in.*; use the catalogue that these recommendations were"),
    ):
        with pytest.raises(InputError, match=message):
            candidate_of(file, locate=Path, defaults=DEFAULTS, catalog=catalog, popular=NOTHING)


LISTS: dict[str, Any] = {"pick": "weighted", "artist_gap": 1, "exploration": 0.2}
LISTS["context"] = "last"
OWN: dict[str, Any] = {"policy": POLICY}
SESSION: dict[str, Any] = {"pick": "weighted", "artist_gap": 1, "num_lists": 2}
LISTENER: dict[str, Any] = {**SESSION, "familiar": 0.5}

ARMS: dict[str, tuple[Any, Callable[[World, Path], Policy]]] = {
    "random": ("random", lambda world, _: Random(world=world)),
    "popular": ("popular", lambda world, _: Popular(num_tracks=100, world=world)),
    "sticky_artist": ("sticky_artist", lambda world, _: StickyArtist(world=world)),
    "lists": (LISTS, lambda world, folder: Lists.of(path=str(folder / "r.jsonl"), **LISTS, world=world)),
    "of one's own": (OWN, lambda world, folder: Lists.of(path=str(folder / "r.jsonl"), **OWN, world=world)),
    "session": (SESSION, lambda world, folder: Lists.of(path=str(folder / "r.jsonl"), **SESSION, world=world)),
    "listener": (LISTENER, lambda world, folder: an_arm(world, folder, **LISTENER)),
}


@pytest.mark.parametrize("name", ARMS)
def test_the_estimate_of_an_arm_of_the_log_is_its_mean(world: World, tmp_path: Path, name: str) -> None:
    """All weights are 1: each propensity is that of the picker that served, whatever the listeners heard before."""
    own, make = ARMS[name]
    if name == "listener":
        write_run(world, tmp_path, heard=1.0, share=2.0, last_day=-1.0, artist_plays=0.3)
        write_profiles(world, tmp_path, 0, (211, 1.0, MIDNIGHT - 3 * DAY_MS), (214, 0.9, MIDNIGHT - 3 * DAY_MS))
    else:
        neighbours(world, tmp_path / "r.jsonl", num=20)
        make_vectors(len(world.catalog)).write(tmp_path / FILE, world.catalog)
    run = tmp_path / "run"
    simulate(world, run, {"C": make(world, tmp_path)}, sessions=700, days=2)
    given = {"recommender": str(tmp_path / "r.jsonl"), **own} if isinstance(own, dict) else own
    found = estimated(run, given)
    assert found.num_sessions == 1400
    assert found.first_step_snips.effective_sample_size == pytest.approx(1400, rel=1e-6)
    assert found.share_without_support == pytest.approx(0, abs=1e-6)
    assert found.first_step_snips.value == pytest.approx(found.arms["C"].mean, abs=1e-6)
    assert found.first_step_dr.value == pytest.approx(found.arms["C"].mean, abs=0.05)


def test_what_a_run_learned_from_the_log_itself_is_no_past_of_a_candidate(world: World, tmp_path: Path) -> None:
    folder = write_run(world, tmp_path, heard=1.0)
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=50)
    for days, num in ((-3, 1), (5, 0)):
        write_profiles(world, folder, 0, (211, 1.0, MIDNIGHT + days * DAY_MS))
        log, found = opened(tmp_path / "run", str(folder / "r.jsonl"))
        user = log.where(log.of("user_id") == world.listeners.user_ids[0])
        first = user.where(np.array([0])).profiles(found.before)
        assert (first["plays"] > 0).sum() == num


def test_the_catalogue_of_logs_is_beside_them_or_named(world: World, tmp_path: Path) -> None:
    simulate(world, tmp_path / "run", {"C": Random(world=world)}, sessions=20)
    catalog, popular, is_served = catalog_of_logs(tmp_path / "run" / "logs" / "day-1", None)
    assert (len(catalog), popular.tolist(), is_served) == (len(world.catalog), world.top_tracks.tolist(), False)
    (tmp_path / "run/store/1").mkdir(parents=True)
    (tmp_path / "run/store/1/release.json").touch()
    assert catalog_of_logs(tmp_path / "run" / "logs", None)[2]
    shutil.move(tmp_path / "run" / "logs", tmp_path / "elsewhere")
    write_catalog(world.catalog, tmp_path / "tracks.json.here")
    for folder, message in (
        ("elsewhere", r"no tracks.json in it or beside it; name the catalogue, tracks=<file>"),
        ("nowhere", r"logs=.*: no such folder; name a folder with data.json files"),
    ):
        with pytest.raises(InputError, match=message):
            catalog_of_logs(tmp_path / folder, None)
    named, popular, _ = catalog_of_logs(tmp_path / "elsewhere", tmp_path / "tracks.json.here")
    assert (len(named), len(popular)) == (len(world.catalog), 0)
