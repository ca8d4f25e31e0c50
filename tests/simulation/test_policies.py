"""The recommendations of each policy."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chisquare

from segue.errors import InputError
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE
from segue.simulation.listener import Crowd, listen, start
from segue.simulation.neighbours import nearest
from segue.simulation.policies import (
    Lists,
    Oracle,
    Policy,
    Popular,
    Random,
    RemoteService,
    StickyArtist,
    TrueNeighbours,
    make_policies,
)
from segue.simulation.world import World
from tests.conftest import make_vectors, write_lines
from tests.test_control_2026 import POLICY

TEMPLATES: dict[str, partial[Any]] = {
    "random": partial(Random),
    "popular": partial(Popular, num_tracks=100),
    "recommendations": partial(Lists),
    "service": partial(RemoteService, connections=4, retries=0, timeout_s=1.0, token=None),
}


def crowd_of(world: World, num: int, seed: int = 0) -> tuple[Crowd, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return start(world, rng.integers(len(world.listeners), size=num), rng.random(num), rng.random(num)), rng


def recommended(policy: Policy, crowd: Crowd, rng: np.random.Generator) -> Any:
    policy.begin(crowd, rng)
    return policy.recommend(crowd).tracks


def lists_file(world: World, path: Path, num_kept: int = 4) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each track the `num_kept` tracks after it; tracks of the last artist have no list. Every ninth is new."""
    rows = (np.arange(len(world.catalog))[:, None] + 1 + np.arange(num_kept)) % len(world.catalog)
    rows[world.catalog.artist_of == world.catalog.num_artists - 1] = -1
    plays = np.where(np.arange(len(world.catalog)) % 9 == 4, 2, 3)
    text_rows = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32), plays=plays)
    text_rows.write(path, world.catalog, format="botify")
    return rows


def test_lists_of_the_users_of_another_world_are_rejected(world: World, tmp_path: Path) -> None:
    write_lines(tmp_path / "users.json", [{"user": 10**9, "tracks": [int(world.catalog.track_ids[0])]}])
    message = "has lists of 1 other users, and of none of the 60 listeners of this world; use lists of its users"
    with pytest.raises(InputError, match=message):
        policies_of(world, {"C": str(tmp_path / "users.json")})


def test_true_neighbours_recommends_the_nearest_tracks_of_the_last_track(world: World) -> None:
    crowd, rng = crowd_of(world, 2000)
    tracks = recommended(TrueNeighbours(num_tracks=5, world=world), crowd, rng)
    affinity = world.embeddings @ world.embeddings.T
    np.fill_diagonal(affinity, -np.inf)
    best = np.argsort(-affinity, axis=1)[:, :5]
    assert (best[crowd.current] == tracks[:, None]).any(1).all()
    assert len(set(tracks[crowd.current == crowd.current[0]].tolist())) > 1


@pytest.mark.parametrize(("num", "k"), [(400, 7), (64, 10), (65, 64), (130, 100), (3, 2)])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_nearest_equals_a_full_sort(num: int, k: int, exclude_self: bool) -> None:
    embeddings = np.random.default_rng(num).normal(size=(num, 5)).astype(np.float32)
    queries = np.arange(0, num, 2)
    affinity = (embeddings @ embeddings.T)[queries]
    if exclude_self:
        affinity[np.arange(len(queries)), queries] = -np.inf
    assert (nearest(embeddings, queries, k, exclude_self=exclude_self) == np.argsort(-affinity, axis=1)[:, :k]).all()


@pytest.mark.parametrize("num_candidates", [3, 50, 400])
def test_the_oracle_recommends_the_track_with_the_largest_share(
    world: World, num_candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with the shares of all tracks, step by step."""
    crowd, rng = crowd_of(world, 20)
    monkeypatch.setattr("segue.simulation.policies._CANDIDATES", num_candidates)
    policy = Oracle(world=world)
    policy.begin(crowd, rng)
    for step in range(15):
        tracks = policy.recommend(crowd).tracks
        for session, track in enumerate(tracks.tolist()):
            affinity = (world.embeddings @ crowd.taste[session]).astype(float)
            share = expit((affinity - crowd.bias[session]) * crowd.sharpness[session])
            num_played = np.bincount(crowd.artists[:, session], minlength=world.catalog.num_artists)
            value = share * 0.8 ** num_played[world.catalog.artist_of]
            value[crowd.tracks[:, session]] = -1
            assert value[track] == pytest.approx(value.max())
        crowd = listen(world, crowd, tracks, rng.random(len(crowd)))
        if step == 7:  # sessions end; the others must keep their own candidates
            crowd = crowd.where(np.arange(len(crowd)) % 2 == 0)


def policies_of(world: World, arms: Any) -> dict[str, Policy]:
    return make_policies(arms, templates=TEMPLATES, world=world, locate=lambda name: Path(f"/nowhere/{name}"))


def test_a_recommender_is_a_word_a_path_an_address_or_a_mapping(world: World, tmp_path: Path) -> None:
    lists_file(world, tmp_path / "r.jsonl")
    arms = {
        "C": "random",
        "T1": str(tmp_path / "r.jsonl"),
        "T2": "http://localhost:5001",
        "T3": {"recommender": str(tmp_path / "r.jsonl"), "pick": "ranked"},
        "T4": {"recommender": "popular", "num_tracks": 7},
    }
    kinds = [type(policy) for policy in policies_of(world, arms).values()]
    assert kinds == [Random, Lists, RemoteService, Lists, Popular]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"C": "rnadom"}, "arms.C: 'rnadom' is not a recommender; choose one of popular, random, the path of a"),
        ({"C": 5}, "arms.C must name a recommender, got 5"),
        ({"C": "recommendations"}, "arms.C: 'recommendations' is not a recommender"),
        ({"C": {"recommender": "popular", "pick": "ranked"}}, "arms.C has no key 'pick'; the keys are num_tracks"),
        ({"C": {"recommender": "random", "pick": "ranked"}}, "arms.C has no key 'pick'"),
        ({"C": "missing/r.jsonl"}, "cannot read recommendations from missing/r.jsonl"),
        ({"C": "run:abc"}, "cannot read recommendations from /nowhere/run:abc"),
    ],
)
def test_an_invalid_recommender_is_rejected_by_its_name(world: World, arms: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        policies_of(world, arms)


@pytest.mark.parametrize("steps", [[], [1, 2, 3, 4]])
@pytest.mark.parametrize("name", ["random", "sticky_artist", "popular", "true_neighbours"])
def test_propensities_are_the_frequencies_of_the_recommendations(world: World, name: str, steps: list[int]) -> None:
    """By a chi-square test of many sessions in one state."""
    made: dict[str, Policy] = {
        "random": Random(world=world),
        "sticky_artist": StickyArtist(world=world),
        "popular": Popular(num_tracks=7, world=world),
        "true_neighbours": TrueNeighbours(num_tracks=5, world=world),
    }
    policy, num = made[name], 3000
    crowd = start(world, np.full(num, 3), np.full(num, 0.5), np.full(num, 0.5))
    for step in steps:
        crowd = listen(world, crowd, (crowd.current + step).astype(np.int64) % len(world.catalog), np.ones(num))
    policy.begin(crowd, np.random.default_rng(3))
    answers = Counter(zip(*(column.tolist() for column in policy.recommend(crowd)), strict=True))
    assert len({track for track, _ in answers}) == len(answers) > 1, "one propensity for each track"
    expected = np.array([propensity for _, propensity in answers]) * num
    assert expected.sum() < num * (1 + 1e-9)
    assert chisquare([*answers.values()], expected * num / expected.sum()).pvalue > 1e-4


SESSION_LISTS: dict[str, Any] = {"pick": "uniform", "artist_gap": 0, "context": None, "num_lists": 3}


def with_session(world: World, folder: Path, **changes: Any) -> Lists:
    return Lists.of(path=str(folder / "r.jsonl"), world=world, **SESSION_LISTS | changes)


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    lists_file(world, tmp_path / "r.jsonl", num_kept=6)
    make_vectors(len(world.catalog)).write(tmp_path / FILE, world.catalog)
    return tmp_path


def test_lists_of_users_have_no_session_and_no_last_plays(world: World, folder: Path) -> None:
    track, user = int(world.catalog.track_ids[0]), int(world.listeners.user_ids[0])
    write_lines(folder / "r.jsonl", [{"user": user, "tracks": [track]}])
    assert type(Lists.of(path=str(folder / "r.jsonl"), world=world)) is Lists
    for own in ({"context": "session"}, {"policy": POLICY}):
        with pytest.raises(InputError, match=r"needs lists of tracks, and .* has lists of users"):
            Lists.of(path=str(folder / "r.jsonl"), world=world, **own)


@pytest.mark.parametrize(("pick", "artist_gap"), [("ranked", 0), ("ranked", 100), ("weighted", 0), ("uniform", 0)])
def test_what_all_sessions_of_a_step_are_searched_for_is_what_each_part_finds(
    world: World, folder: Path, pick: str, artist_gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several blocks, and after some sessions have ended."""
    monkeypatch.setattr("segue.simulation.policies._BLOCK", 25)
    crowd, rng = crowd_of(world, 60)
    lists = with_session(world, folder, pick=pick, artist_gap=artist_gap)
    lists.begin(crowd, rng)
    for _ in range(4):
        parts = crowd.part(0, len(crowd) // 2), crowd.part(len(crowd) // 2, len(crowd))
        together = lists.candidates(crowd)
        assert (np.concatenate([lists.candidates(part) for part in parts]) == together).all()
        tracks, propensities = lists.recommend(crowd)
        assert (propensities > 0).all()
        crowd = listen(world, crowd, tracks, np.ones(len(crowd)))
        crowd = crowd.where(np.arange(len(crowd)) % 9 != 1)  # some sessions have ended
