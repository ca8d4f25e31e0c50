"""Lists with the session as the query: the policy and its settings."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.picking.session_query import SessionQuery
from segue.runs.session_vectors import FILE
from segue.simulation.listener import Crowd, listen, start
from segue.simulation.policies import Lists, SessionLists, hints, make_policies, recommended
from segue.simulation.world import World
from tests.conftest import make_catalog, make_vectors, write_lines
from tests.simulation.test_policies import crowd_of, lists_file

SETTINGS: dict[str, Any] = {"pick": "uniform", "artist_gap": 0, "context": None, "num_lists": 3}


def policy(world: World, folder: Path, **changes: Any) -> Lists:
    return recommended(path=str(folder / "r.jsonl"), world=world, **SETTINGS | changes)


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    lists_file(world, tmp_path / "r.jsonl", num_kept=6)
    make_vectors(len(world.catalog)).write(tmp_path / FILE, world.catalog)
    return tmp_path


def test_the_run_decides_the_context_unless_the_arm_does(world: World, folder: Path) -> None:
    arms = {
        "C": str(folder / "r.jsonl"),
        "T1": {"recommender": str(folder / "r.jsonl"), "context": "last"},
        "T2": {"recommender": str(folder / "r.jsonl"), "context": "session", "num_lists": 2, "pick": "ranked"},
    }
    templates = {"recommendations": partial(recommended, **SETTINGS)}
    made = make_policies(arms, templates=templates, world=world, locate=Path)
    assert [type(one) for one in made.values()] == [SessionLists, Lists, SessionLists]
    described = [made[arm].description for arm in ("C", "T2")]
    assert [one["policy"] for one in described] == ["session_lists"] * 2
    assert [one["num_lists"] for one in described] == [3, 2]
    assert described[0]["vectors"] == described[1]["vectors"]
    assert "vectors" not in made["T1"].description


def test_an_arm_that_repeats_the_artists_of_a_session_is_named(world: World, folder: Path) -> None:
    arms = {
        "C": policy(world, folder, pick="ranked"),
        "T1": policy(world, folder, pick="ranked", artist_gap=2),
        "T2": policy(world, folder, pick="ranked", context="last"),
        "T3": policy(world, folder),
    }
    (line,) = hints(arms)
    assert line.startswith("arm C: pick=ranked recommends the artists of the session again")
    make_vectors(len(world.catalog), skipped=1.0).write(folder / FILE, world.catalog)
    assert hints({"C": policy(world, folder, pick="ranked")}) == [], "nothing is known about shares"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_lists": 0}, "recommendations.num_lists must be a whole number of at least 1 and at most 20, got 0"),
        ({"context": "all"}, "recommendations: context must be one of last, session, got 'all'"),
    ],
)
def test_a_setting_out_of_range_is_refused(world: World, folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy(world, folder, **changes)


def test_lists_of_users_have_no_session(world: World, folder: Path) -> None:
    track, user = int(world.catalog.track_ids[0]), int(world.listeners.user_ids[0])
    write_lines(folder / "r.jsonl", [{"user": user, "tracks": [track]}])
    assert type(policy(world, folder)) is Lists
    with pytest.raises(InputError, match=r"context=session needs lists of tracks, and .* has lists of users"):
        policy(world, folder, context="session")


def test_vectors_of_another_catalogue_are_refused(world: World, folder: Path) -> None:
    make_vectors(2).write(folder / FILE, make_catalog([0, 1]))
    with pytest.raises(InputError, match="has vectors of 2 tracks, and the catalogue has 400"):
        policy(world, folder)


@pytest.mark.parametrize(("pick", "artist_gap"), [("ranked", 0), ("ranked", 100), ("weighted", 0), ("uniform", 0)])
def test_what_all_sessions_of_a_step_are_searched_for_is_what_each_part_finds(
    world: World, folder: Path, pick: str, artist_gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several blocks, and after some sessions have ended."""
    monkeypatch.setattr("segue.simulation.policies._BLOCK", 25)
    crowd, rng = crowd_of(world, 60)
    lists = policy(world, folder, pick=pick, artist_gap=artist_gap)
    lists.begin(crowd, rng)
    for _ in range(4):
        parts = crowd.part(0, len(crowd) // 2), crowd.part(len(crowd) // 2, len(crowd))
        together = lists.candidates(crowd)
        assert (np.concatenate([lists.candidates(part) for part in parts]) == together).all()
        tracks, propensities = lists.recommend(crowd)
        assert (propensities > 0).all()
        crowd = listen(world, crowd, tracks, np.ones(len(crowd)))
        crowd = crowd.where(np.arange(len(crowd)) % 9 != 1)  # some sessions have ended


def chosen(policy: Lists, crowd: Crowd, draws: Any) -> Any:
    """A track of the list of each session; -1 where there is none."""
    return policy.picker.pick_from_lists(policy.candidates(crowd), crowd.tracks[::-1].T, draws)[0].astype(np.int64)


def test_the_choice_depends_on_the_session_and_not_on_the_others(world: World, folder: Path) -> None:
    rng = np.random.default_rng(0)
    crowd = start(world, rng.integers(60, size=50), rng.random(50), rng.random(50))
    one = policy(world, folder, pick="ranked")
    for _ in range(3):
        together = chosen(one, crowd, rng.random(50))
        alone = [chosen(one, crowd.part(place, place + 1), rng.random(1))[0] for place in range(50)]
        assert together.tolist() == alone
        crowd = listen(world, crowd, np.maximum(together, 0), np.ones(50))


def test_a_gap_chooses_among_all_candidates(world: World, folder: Path) -> None:
    """The best track by an artist that the session has not heard is recommended, wherever it is among them."""
    artist_of, vectors = world.catalog.artist_of, make_vectors(len(world.catalog))
    query_of = SessionQuery(vectors).of
    lists = lists_file(world, folder / "r.jsonl", num_kept=6)
    gaps = policy(world, folder, pick="ranked", artist_gap=100)
    crowd, num_beyond = start(world, np.arange(40), *np.random.default_rng(0).random((2, 40))), 0
    for _ in range(4):
        tracks = chosen(gaps, crowd, np.zeros(len(crowd)))
        queries = query_of(crowd.tracks[::-1].T.astype(np.int64), crowd.shares[::-1].T / np.float32(100))
        for session, (heard, query) in enumerate(zip(crowd.tracks.T.tolist(), queries, strict=True)):
            found = {row for track in heard[-3:] for row in lists[track].tolist() if row >= 0 and row not in heard}
            best = sorted(found, key=lambda row: float(query @ vectors.items[row]), reverse=True)
            other = [row for row in best if artist_of[row] not in artist_of[heard]]
            expected = (other or best or [-1])[0]
            assert tracks[session] == expected
            num_beyond += expected not in best[:6]
        crowd = listen(world, crowd, np.maximum(tracks, 0), np.ones(len(crowd)))
    assert num_beyond, "some are not among as many as a list has"
