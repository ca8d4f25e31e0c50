"""The next track, compared with loops written from the rules and with the policies of the simulation."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from segue.assignment import treatments
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE
from segue.serving import recommender as recommender_module
from segue.serving.recommender import FALLBACKS, Recommender
from segue.serving.release import LISTS, Release
from segue.serving.session_memory import MappedSessions, Played
from segue.simulation.listener import listen, start
from segue.simulation.policies import Lists, Policy, Popular, Random, StickyArtist
from segue.simulation.session_lists import SessionLists, recommended
from segue.simulation.world import World
from tests.conftest import make_catalog, make_vectors, write_lines
from tests.serving.conftest import START_MS, arm, lists_of, lists_of_users, make_release

SURE = 1e-4
"""Smallest p value that a statistical test at a fixed seed accepts; the seed was not selected."""


class Chosen(NamedTuple):
    """A row and its source."""

    row: int
    fallback: str | None


class Chooser(Recommender):
    """Answers also without the probability of the answer."""

    def choose(self, arm: str, user: int, row: int, played: Sequence[int]) -> Chosen:
        answer = self.follow(arm, user, row, played)
        return Chosen(answer.row, answer.fallback)


def recommender(release: Release, seed: int = 0) -> Chooser:
    return Chooser(release, np.random.default_rng(seed))


def many(release: Release, row: int, num: int, played: Sequence[int] = (), name: str = "C") -> Counter[Chosen]:
    ours = recommender(release)
    return Counter(ours.choose(name, 7, row, played) for _ in range(num))


def one_list(folder: Path, candidates: list[int], pick: str, num_tracks: int = 8) -> Release:
    """A release with a list of row 0 only, and a different artist for every track."""
    lists = lists_of([candidates] + [[]] * (num_tracks - 1))
    return make_release(folder, catalog=make_catalog(range(num_tracks)), arms={"C": arm(pick=pick)}, lists={"C": lists})


def slow_choices(release: Release, row: int, played: Sequence[int]) -> tuple[dict[int, float], str | None]:
    """The probability and source of every possible next row under `C`, written from the rules."""
    given = release.arms["C"]
    heard = set(played) if given.pick != "uniform" else set()

    def is_open(candidate: int) -> bool:
        return int(release.track_ids[candidate]) not in heard

    ranked = [candidate for candidate in release.lists["C"][row].tolist() if candidate >= 0]
    chances = {c: 1 / rank for rank, c in enumerate(ranked, start=1) if is_open(c)}
    artists = dict(zip(release.track_ids.tolist(), release.artist_of.tolist(), strict=True))
    tired_of = {artists.get(track) for track in list(reversed(played))[: given.artist_gap]}
    if spaced := {c: chance for c, chance in chances.items() if release.artist_of[c] not in tired_of}:
        chances = spaced
    if given.pick == "uniform":
        chances = dict.fromkeys(chances, 1.0)
    elif given.pick == "ranked":
        chances = dict(list(chances.items())[:1])
    if chances:
        return {c: chance / sum(chances.values()) for c, chance in chances.items()}, None
    others = [r for r in range(len(release)) if release.artist_of[r] == release.artist_of[row] and r != row]
    everything = list(range(len(release)))
    for source, rows in (("artist", others), ("popular", release.top_tracks.tolist()), ("random", everything)):
        if found := [r for r in rows if is_open(r)]:
            return dict.fromkeys(found, 1 / len(found)), source
    return dict.fromkeys(everything, 1 / len(release)), "random"


Situation = tuple[list[int], list[list[int]], list[int], str, int, int, list[int]]
"""Artists, lists, popular tracks, pick, gap, last row, and what the session has played."""


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    num = draw(st.integers(2, 7))
    artist_of = draw(st.lists(st.integers(0, 2), min_size=num, max_size=num))
    rows = [
        draw(st.permutations([c for c in range(num) if c != row]))[: draw(st.integers(0, num - 1))]
        for row in range(num)
    ]
    top = draw(st.lists(st.integers(0, num - 1), unique=True, max_size=3))
    pick = draw(st.sampled_from(["uniform", "ranked", "weighted"]))
    played = draw(st.lists(st.integers(99, 100 + num), max_size=num))
    return artist_of, rows, top, pick, draw(st.integers(0, 3)), draw(st.integers(0, num - 1)), played


@settings(max_examples=50)
@given(situation=situations())
def test_the_next_track_is_one_that_the_rules_allow(
    situation: Situation,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    artist_of, rows, top, pick, artist_gap, row, played = situation
    release = make_release(
        tmp_path_factory.mktemp("release"),
        catalog=make_catalog(artist_of),
        arms={"C": arm(pick=pick, artist_gap=artist_gap)},
        lists={"C": lists_of(rows)},
        top_tracks=top,
    )
    chances, source = slow_choices(release, row, played)
    ours = recommender(release)
    answers = [ours.choose("C", 7, row, played) for _ in range(20)]
    assert {answer.fallback for answer in answers} == {source}
    if source != "random":  # which tries for a while, as the simulation does
        assert {answer.row for answer in answers} <= set(chances)
        if len(chances) == 1:
            assert {answer.row for answer in answers} == set(chances)


@pytest.mark.parametrize("played", [(), (103,), (101, 104)])
@pytest.mark.parametrize("pick", ["uniform", "ranked", "weighted"])
def test_picks_follow_their_distribution(tmp_path: Path, pick: str, played: Sequence[int]) -> None:
    """Uniform among all of the list; weighted in proportion to 1 / rank among those that are not played."""
    release = one_list(tmp_path, [3, 1, 5, 4, 2], pick)
    chances, source = slow_choices(release, 0, played)
    assert source is None
    expected = {
        "uniform": dict.fromkeys((3, 1, 5, 4, 2), 1 / 5),
        "ranked": {next(c for c in (3, 1, 5, 4, 2) if c + 100 not in played): 1.0},
        "weighted": chances,
    }[pick]
    counts = many(release, 0, 1000, played)
    assert {row for row, _ in counts} == set(expected)
    observed = [counts[Chosen(row, None)] for row in expected]
    assert len(expected) == 1 or chisquare(observed, 1000 * np.array(list(expected.values()))).pvalue > SURE


def test_weighted_prefers_by_one_over_the_rank(tmp_path: Path) -> None:
    counts = many(one_list(tmp_path, [3, 1, 5], "weighted"), 0, 1100)
    observed = [counts[Chosen(row, None)] for row in (3, 1, 5)]
    assert chisquare(observed, [600, 300, 200]).pvalue > SURE  # 1 + 1/2 + 1/3 is 11 sixths
    assert chisquare(observed, [1100 / 3] * 3).pvalue < 1e-12


@pytest.mark.parametrize("pick", ["ranked", "weighted"])
def test_played_tracks_are_not_repeated_while_there_are_others(ring: Release, pick: str, tmp_path: Path) -> None:
    release = make_release(
        tmp_path / "again",
        catalog=make_catalog([0, 0, 0, 1, 1, 2]),
        arms={"C": arm(pick=pick)},
        lists={"C": lists_of(ring.lists["C"].tolist())},
        top_tracks=[3, 0],
    )
    for seed in range(40):
        ours, row, played = recommender(release, seed), 0, [100]
        while len(played) < len(release):
            row, fallback = ours.choose("C", 7, row, played)
            track = int(release.track_ids[row])
            if fallback != "random":  # which tries for a while, as the simulation does
                assert track not in played
            played = sorted({*played, track})
            if fallback == "random" and len(played) < len(release):
                break


def test_uniform_ignores_played_tracks(tmp_path: Path) -> None:
    release = one_list(tmp_path, [3, 1], "uniform")
    assert set(many(release, 0, 200, [101, 103])) == {Chosen(3, None), Chosen(1, None)}


@pytest.mark.parametrize(("policy", "pick"), [("lists", "uniform"), ("random", "ranked"), ("popular", "weighted")])
def test_only_arms_without_repeats_or_with_a_gap_remember_sessions(tmp_path: Path, policy: str, pick: str) -> None:
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0]),
        arms={"C": arm(policy, pick, 3 * (policy != "lists")), "T1": arm(pick="ranked"), "T2": arm(artist_gap=1)},
        lists={name: lists_of([[1], [0]]) for name in ("C", "T1", "T2") if name != "C" or policy == "lists"},
        top_tracks=[0],
    )
    ours = recommender(release)
    assert [ours.remembers(name) for name in ("C", "T1", "T2")] == [False, True, True]


def test_fallbacks_are_used_in_the_order_artist_popular_random(ring: Release) -> None:
    """Under `T1`, which is ranked; 104 and 105 have no list."""
    ours = recommender(ring)
    assert FALLBACKS == ("artist", "popular", "random")
    assert ours.choose("T1", 7, 0, [100]) == Chosen(1, None)
    assert ours.choose("T1", 7, 4, [104]) == Chosen(3, "artist")
    assert {ours.choose("T1", 7, 4, [104, 103]) for _ in range(50)} == {Chosen(0, "popular")}
    assert {ours.choose("T1", 7, 5, [105]) for _ in range(50)} == {Chosen(3, "popular"), Chosen(0, "popular")}
    assert {ours.choose("T1", 7, 5, [105, 100, 103]) for _ in range(200)} == {
        Chosen(row, "random") for row in (1, 2, 4)
    }
    assert ours.choose("T1", 7, 0, [100, 101, 102]) == Chosen(3, "popular")
    everything = ring.track_ids.tolist()
    assert ours.choose("T1", 7, 0, everything).fallback == "random", "there is an answer even when all was played"


@pytest.mark.parametrize("pick", ["uniform", "ranked", "weighted"])
def test_empty_lists_use_the_fallbacks(tmp_path: Path, pick: str) -> None:
    catalog = make_catalog([0, 0])
    lists_of([[], []]).write(tmp_path / "r.jsonl", catalog, format="botify")
    lists = Recommendations.read(tmp_path / "r.jsonl", catalog)
    release = make_release(tmp_path / "release", catalog=catalog, arms={"C": arm(pick=pick)}, lists={"C": lists})
    assert release.recommended("C", 0) == []
    assert recommender(release).choose("C", 7, 0, [100]) == Chosen(1, "artist")


@pytest.mark.parametrize("pick", ["uniform", "ranked", "weighted"])
def test_an_arm_with_lists_of_users_ignores_the_last_track_and_a_user_without_one_gets_fallbacks(
    tmp_path: Path, pick: str
) -> None:
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 1, 2, 3]),
        arms={"C": arm("user_lists", pick)},
        lists={"C": lists_of_users({5: [3], 7: [2, 4], 9: []})},
    )
    ours = recommender(release)
    for row in (0, 1):
        assert ours.choose("C", 5, row, [100 + row]) == Chosen(3, None)
        assert {ours.choose("C", 7, row, [100 + row]).row for _ in range(50)} == ({2} if pick == "ranked" else {2, 4})
        for user in (-1, 6, 9, 10**18):
            assert ours.choose("C", user, row, [100 + row]) == Chosen(1 - row, "artist")
    assert ours.remembers("C") == (pick != "uniform")
    if pick != "uniform":
        assert ours.choose("C", 7, 0, [102, 100]) == Chosen(4, None), "no track is repeated in a session"
        assert ours.choose("C", 7, 0, [102, 104, 100]) == Chosen(1, "artist")


def test_fallbacks_choose_uniformly(tmp_path: Path) -> None:
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 0, 0, 1, 2, 3]),
        arms={"C": arm()},
        lists={"C": lists_of([[]] * 6 + [[0]])},
        top_tracks=[6, 2, 1],
    )
    for row, rows, source in ((0, (1, 2, 3), "artist"), (4, (6, 2, 1), "popular")):
        counts = many(release, row, 1000)
        assert chisquare([counts[Chosen(found, source)] for found in rows]).pvalue > SURE
        assert sum(counts[Chosen(found, source)] for found in rows) == 1000


def test_popular_is_among_the_hundred_most_played(tmp_path: Path) -> None:
    release = make_release(
        tmp_path, catalog=make_catalog(range(150)), arms={"C": arm("popular")}, top_tracks=range(149, 19, -1)
    )
    assert {answer.row for answer in many(release, 0, 2000)} == set(range(149, 49, -1))


def simulated(world: World, path: Path, policy: str, pick: str) -> Policy:
    if policy in LISTS:
        return Lists(path=str(path), pick=pick, artist_gap=0, world=world)
    return {"random": Random, "sticky_artist": StickyArtist}.get(policy, partial(Popular, num_tracks=100))(world=world)


@pytest.mark.parametrize(
    ("policy", "pick"),
    [
        ("random", "uniform"),
        ("popular", "uniform"),
        ("sticky_artist", "uniform"),
        ("lists", "uniform"),
        ("lists", "ranked"),
        ("lists", "weighted"),
        ("user_lists", "uniform"),
        ("user_lists", "ranked"),
        ("user_lists", "weighted"),
    ],
)
def test_an_arm_recommends_as_the_simulations_policy_of_its_name(
    world: World, tmp_path: Path, policy: str, pick: str
) -> None:
    """Service and simulation choose the next tracks of one listener with the same distribution and fallbacks."""
    rows = (np.arange(len(world.catalog))[:, None] + 1 + np.arange(6)) % len(world.catalog)
    num, listener = 2000, 3
    user = int(world.listeners.user_ids[listener])
    if policy == "user_lists":
        ids = world.catalog.track_ids[rows[:9]]
        others = [user - 1, user, *range(user + 1, user + 8)]
        write_lines(tmp_path / "r.jsonl", ({"user": u, "tracks": t} for u, t in zip(others, ids.tolist(), strict=True)))
    else:
        lists = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32))
        lists.write(tmp_path / "r.jsonl", world.catalog, format="botify")
    release = make_release(
        tmp_path / "release",
        catalog=world.catalog,
        arms={"C": arm(policy, pick)},
        lists={"C": Recommendations.read(tmp_path / "r.jsonl", world.catalog)} if policy in LISTS else {},
        top_tracks=world.top_tracks.tolist(),
    )
    assert release.track_ids.tolist() == world.catalog.track_ids.tolist(), "rows are the same in both"
    crowd = start(world, np.full(num, listener), np.full(num, 0.5), np.full(num, 0.5))
    theirs = simulated(world, tmp_path / "r.jsonl", policy, pick)
    theirs.begin(crowd, np.random.default_rng(0))
    wanted = np.bincount(theirs.recommend(crowd), minlength=len(world.catalog))
    ours = recommender(release, seed=1)
    track_ids = world.catalog.track_ids
    answers = [ours.choose("C", user, row, [int(track_ids[row])]) for row in crowd.current.tolist()]
    assert {answer.fallback for answer in answers} <= {None, "random"}
    assert sum(answer.fallback == "random" for answer in answers) == theirs.fallbacks
    found = np.bincount([answer.row for answer in answers], minlength=len(world.catalog))
    seen = found + wanted > 0
    if pick == "ranked":
        assert (found == wanted).all()
    else:
        assert seen.sum() > 1
        assert chi2_contingency(np.stack([found[seen], wanted[seen]])).pvalue > SURE


@pytest.mark.parametrize("artist_gap", [0, 1, 3, 9])
@pytest.mark.parametrize("pick", ["uniform", "ranked", "weighted"])
def test_a_gap_is_kept_as_by_the_simulations_lists(world: World, tmp_path: Path, pick: str, artist_gap: int) -> None:
    """From the same draws the same track, step by step, with sessions remembered as the service does.

    The tracks of an artist are neighbours; a list therefore has some of the same artist and some of others.
    """
    steps = np.array([1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7])
    rows = (np.arange(len(world.catalog))[:, None] + steps) % len(world.catalog)
    lists = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32))
    lists.write(tmp_path / "r.jsonl", world.catalog, format="botify")
    release = make_release(
        tmp_path / "release",
        catalog=world.catalog,
        arms={"C": arm("lists", pick, artist_gap), "T1": arm("lists", pick)},
        lists={"C": lists, "T1": lists},
    )
    theirs = Lists(path=str(tmp_path / "r.jsonl"), pick=pick, artist_gap=artist_gap, world=world)
    ours, gapless = recommender(release, seed=5), recommender(release, seed=5)
    max_tracks = 9 if pick == "uniform" else 12  # the latest nine are enough for a gap
    sessions = MappedSessions(tmp_path / "sessions.bin", capacity=4096, max_tracks=max_tracks, idle_s=9)
    users, draws = np.arange(40), np.random.default_rng(0).random((2, 40))
    crowd = start(world, users, *draws)
    theirs.begin(crowd, np.random.default_rng(5))
    num_passed_over = 0
    for _ in range(12):
        answers, propensities = list[Chosen](), list[float]()
        for session, row in enumerate(crowd.current.tolist()):
            track = int(release.track_ids[row])
            played = asyncio.run(sessions.play(session, track, 0.5, START_MS)).tracks if ours.remembers("C") else []
            answer = ours.follow("C", 7, row, played)
            answers.append(Chosen(answer.row, answer.fallback))
            propensities.append(answer.propensity)
            num_passed_over += answers[-1] != gapless.choose("T1", 7, row, played)
        tracks = theirs.recommend(crowd)
        assert [answer.row for answer in answers] == tracks.tolist()
        assert propensities == pytest.approx(theirs.propensity(crowd, tracks).tolist(), rel=1e-12)
        assert {answer.fallback for answer in answers} == {None}
        crowd = listen(world, crowd, tracks, np.ones(len(crowd)))
    assert theirs.fallbacks == 0
    assert ours.remembers("C") == (pick != "uniform" or artist_gap > 0)
    assert bool(num_passed_over) == (artist_gap > 0)


@pytest.mark.parametrize("penalty", [0.0, 0.5, np.inf])
@pytest.mark.parametrize(
    ("pick", "artist_gap"), [("ranked", 0), ("ranked", 2), ("ranked", 20), ("weighted", 0), ("uniform", 1)]
)
def test_a_session_is_answered_as_by_the_simulation(
    world: World, tmp_path: Path, pick: str, artist_gap: int, penalty: float
) -> None:
    """From the same draws the same tracks with the same propensities, with sessions remembered as the service does."""
    num, rng = len(world.catalog), np.random.default_rng(3)
    rows = np.argsort(rng.random((num, num)), axis=1)[:, :12]
    rows = np.where(rows == np.arange(num)[:, None], -1, rows)
    rows[:8] = -1  # tracks without a list
    rows = np.take_along_axis(rows, np.argsort(rows < 0, axis=1, kind="stable"), 1)
    lists = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32))
    lists.write(tmp_path / "r.jsonl", world.catalog, format="botify")
    vectors = make_vectors(num, penalty=penalty)
    vectors.write(tmp_path / FILE, world.catalog)
    release = make_release(
        tmp_path / "release",
        catalog=world.catalog,
        arms={"C": arm("lists", pick, artist_gap, context="session", num_lists=3)},
        lists={"C": lists},
        vectors={"C": vectors},
    )
    theirs = recommended(
        path=str(tmp_path / "r.jsonl"), pick=pick, artist_gap=artist_gap, context=None, num_lists=3, world=world
    )
    assert isinstance(theirs, SessionLists)
    ours = recommender(release, seed=5)
    sessions = MappedSessions(tmp_path / "sessions.bin", capacity=4096, max_tracks=20, idle_s=9)
    crowd = start(world, np.arange(20), *np.random.default_rng(0).random((2, 20)))
    crowd = crowd.where(crowd.current >= 8)
    crowd = replace(crowd, place=np.arange(len(crowd)))
    theirs.begin(crowd, np.random.default_rng(5))
    num_of_last = num_heard = 0
    for _ in range(9):
        answers, propensities = list[Chosen](), list[float]()
        for session, row in enumerate(crowd.current.tolist()):
            share = int(crowd.shares[-1, session]) / 100
            played = asyncio.run(sessions.play(session, int(release.track_ids[row]), share, START_MS))
            answer = ours.follow("C", 7, row, *played)
            answers.append(Chosen(answer.row, answer.fallback))
            propensities.append(answer.propensity)
            num_of_last += answer.row in release.lists["C"][row]
        tracks = theirs.recommend(crowd)
        assert [answer.row for answer in answers] == tracks.tolist()
        assert propensities == pytest.approx(theirs.propensity(crowd, tracks).tolist(), rel=1e-12)
        assert {answer.fallback for answer in answers} == {None}
        assert (tracks != crowd.current).all()
        num_heard += int((crowd.tracks == tracks).any(0).sum())
        crowd = listen(world, crowd, tracks, np.ones(len(crowd)))
    assert 0 < num_of_last < 9 * len(crowd), "some come from the list of the last track, others do not"
    assert (num_heard > 0) == (pick == "uniform" and penalty == 0) or (pick == "uniform" and penalty == 0.5)
    assert ours.remembers("C")


@pytest.mark.parametrize("pick", ["uniform", "ranked", "weighted"])
def test_requests_of_one_turn_are_answered_as_one_by_one(tmp_path: Path, pick: str) -> None:
    """Sessions of different lengths, with tracks that are gone, of two arms; from the same draws the same answers."""
    num, rng = 60, np.random.default_rng(3)
    rows = np.argsort(rng.random((num, num)), axis=1)[:, :12]
    rows = np.where(rows == np.arange(num)[:, None], -1, rows)
    lists = lists_of([[row for row in line if row >= 0] for line in rows.tolist()])
    arms = {"C": arm(pick=pick, context="session", num_lists=3), "T1": arm(pick="ranked", context="session")}
    vectors = make_vectors(num)
    release = make_release(
        tmp_path,
        catalog=make_catalog(np.arange(num) // 3),
        arms=arms,
        lists=dict.fromkeys(arms, lists),
        vectors=dict.fromkeys(arms, vectors),
    )
    asked = []
    for number in range(40):
        session = rng.integers(num, size=1 + number % 7)
        tracks = [*np.where(rng.random(len(session)) < 0.2, 999, session + 100).tolist(), int(session[-1]) + 100]
        shares = [] if number % 5 == 0 else rng.random(len(tracks)).tolist()
        asked.append(("C" if number % 3 else "T1", int(session[-1]), Played(tracks, shares)))

    async def together(ours: Recommender) -> list[Any]:
        first = await asyncio.gather(*(ours.ask(*one) for one in asked))
        return [*first, await ours.ask(*next(one for one in asked if one[0] == "T1"))]

    ours = recommender(release, seed=5)
    one_by_one = [ours.follow(name, 7, row, *played) for name, row, played in asked]
    assert asyncio.run(together(recommender(release, seed=5)))[:-1] == one_by_one
    assert len({answer.row for answer in one_by_one}) > 10


def test_a_request_that_is_cancelled_or_fails_leaves_no_other_one_waiting(tmp_path: Path) -> None:
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 1, 1, 2]),
        arms={"C": arm(pick="ranked", context="session")},
        lists={"C": lists_of([[1, 2], [2, 3], [3, 4], [], []])},
        vectors={"C": make_vectors(5)},
    )

    async def run() -> None:
        ours = recommender(release)
        left, stays = (ours.ask("C", 0, Played([100], [1.0])) for _ in range(2))
        left.cancel()
        assert (await stays).row in (1, 2)
        wrong: Any = ["no id"]
        broken, other = (ours.ask("C", 0, Played(tracks, [])) for tracks in (wrong, [100]))
        for answer in (broken, other):
            with pytest.raises(ValueError, match="no id"):
                await answer

    asyncio.run(run())


def test_a_session_of_an_older_release_goes_on_without_the_tracks_that_are_gone(tmp_path: Path) -> None:
    vectors = make_vectors(5)
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 1, 1, 2]),
        arms={"C": arm(pick="ranked", context="session", num_lists=3)},
        lists={"C": lists_of([[1, 2], [2, 3], [3, 4], [], []])},
        vectors={"C": vectors},
    )
    query = vectors.query(np.array([[0, -1, 1]]), np.array([[0.5, 0.9, 1.0]], np.float32))
    best = max((1, 2, 3), key=lambda row: float(vectors.items[row] @ query[0]) if row != 1 else -np.inf)
    answer = recommender(release).follow("C", 7, 0, [101, 999, 100], [1.0, 0.9, 0.5])
    assert answer == (best, None, 1.0)
    assert recommender(release).choose("C", 7, 3, [103]) == Chosen(2, "artist"), "no list: a fallback as ever"
    assert recommender(release).follow("C", 7, 0, [100]).row in (1, 2), "the list of the first track"


def test_a_uniform_arm_with_a_gap_repeats_tracks_but_not_the_artists_of_the_last_ones(tmp_path: Path) -> None:
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 1, 1, 2]),
        arms={"C": arm(artist_gap=2)},
        lists={"C": lists_of([[1, 2, 3, 4]] + [[0]] * 4)},
    )
    assert recommender(release).remembers("C")
    assert set(many(release, 0, 50, [104, 103, 100])) == {Chosen(4, None)}, "played, but three tracks ago"
    assert set(many(release, 0, 50, [103, 104, 100])) == {Chosen(2, None), Chosen(3, None)}
    assert set(many(release, 0, 50, [103, 999, 100])) == {Chosen(row, None) for row in (2, 3, 4)}, "999 is gone"
    assert set(many(release, 1, 50, [100, 101])) == {Chosen(0, None)}, "the list has no other"


def test_an_artist_with_one_track_falls_back_to_random(tmp_path: Path) -> None:
    release = make_release(tmp_path, catalog=make_catalog([0, 0, 1]), arms={"C": arm("sticky_artist")})
    assert set(many(release, 0, 50)) == {Chosen(1, None)}
    assert set(many(release, 2, 200)) == {Chosen(row, "random") for row in range(3)}


@pytest.mark.parametrize("num_arms", [1, 2, 5])
def test_users_belong_to_the_arm_of_the_assignment(tmp_path: Path, num_arms: int) -> None:
    names = ["C", *(f"T{number}" for number in range(1, num_arms))]
    release = make_release(
        tmp_path,
        catalog=make_catalog([0]),
        arms=dict.fromkeys(names, arm("random")),
        experiment="MY_RECOMMENDER",
    )
    users = np.array([0, 1, 9, 10, 4711, 10**18 - 1, *range(200, 260)])
    expected = treatments(users, experiment="MY_RECOMMENDER", num_arms=num_arms).tolist()
    ours = recommender(release)
    assert [ours.arm_of(user) for user in users.tolist()] == [names[number] for number in expected]


def test_the_same_seed_answers_alike(ring: Release) -> None:
    walks = []
    for _ in range(2):
        ours = recommender(ring, seed=7)
        walks.append([ours.choose("C", 7, row % 6, ()) for row in range(60)])
    assert walks[0] == walks[1]


def slow_propensities(release: Release, row: int, played: Sequence[int]) -> dict[int, float]:
    """The probability of every row under `C`; any track is drawn up to 20 times, until it is one not played."""
    chances, source = slow_choices(release, row, played)
    if source != "random":
        return chances
    num = len(release)
    heard = set(played) & set(release.track_ids.tolist()) if release.arms["C"].pick != "uniform" else set()
    unheard = [r for r in range(num) if int(release.track_ids[r]) not in heard]
    chances, rest = dict.fromkeys(range(num), 0.0), 1.0
    for attempt in range(20):
        for r in unheard:
            chances[r] += rest / num
        if attempt == 19:
            for r in set(range(num)) - set(unheard):
                chances[r] += rest / num
        rest *= 1 - len(unheard) / num
    return chances


@settings(max_examples=40)
@given(situation=situations())
def test_a_propensity_is_the_probability_of_the_rules(
    situation: Situation,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    artist_of, rows, top, pick, artist_gap, row, played = situation
    release = make_release(
        tmp_path_factory.mktemp("release"),
        catalog=make_catalog(artist_of),
        arms={"C": arm(pick=pick, artist_gap=artist_gap)},
        lists={"C": lists_of(rows)},
        top_tracks=top,
    )
    expected, ours = slow_propensities(release, row, played), recommender(release)
    assert sum(expected.values()) == pytest.approx(1)
    for _ in range(15):
        answer = ours.follow("C", 7, row, played)
        assert answer.propensity == pytest.approx(expected[answer.row], rel=1e-9)


def test_the_propensity_of_a_heard_track_is_that_of_drawing_such_tracks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two draws from three tracks, of which two were heard; 101 twice, and 999 is gone from the catalogue."""
    monkeypatch.setattr(recommender_module, "_TRIES", 2)
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 1, 2]),
        arms={"C": arm("lists", pick="ranked")},
        lists={"C": lists_of([[], [], []])},
        top_tracks=[],
    )
    ours = recommender(release)
    answers = [ours.follow("C", 7, 0, [101, 999, 101, 100]) for _ in range(600)]
    for row, expected in ((0, 2 / 9), (1, 2 / 9), (2, 5 / 9)):
        of_row = [answer.propensity for answer in answers if answer.row == row]
        assert of_row == pytest.approx([expected] * len(of_row))
        assert len(of_row) / len(answers) == pytest.approx(expected, abs=0.08)


def slow_exploring(release: Release, row: int, played: Sequence[int]) -> dict[int, float]:
    """The probability of every row under `C` with exploration, written from the rules."""
    given, usual = release.arms["C"], slow_propensities(release, row, played)
    if slow_choices(release, row, played)[1] is not None:  # the list has no track left
        return usual
    new = set(release.new["C"].tolist())
    heard = set(played) if given.pick != "uniform" else {int(release.track_ids[row])}
    artists = dict(zip(release.track_ids.tolist(), release.artist_of.tolist(), strict=True))
    tired_of = {artists.get(track) for track in list(reversed(played))[: given.artist_gap]}
    listed = [c for c in release.lists["C"][row].tolist() if c >= 0]
    left = [c for c in listed if given.pick == "uniform" or int(release.track_ids[c]) not in heard]
    left = [c for c in left if release.artist_of[c] not in tired_of] or left
    if in_list := [c for c in left if c in new]:
        weight = {c: 1 / (1 + listed.index(c)) if given.pick == "weighted" else 1.0 for c in in_list}
        weight = dict(list(weight.items())[:1]) if given.pick == "ranked" else weight
    else:
        others = [c for c in sorted(new) if int(release.track_ids[c]) not in heard]
        weight = dict.fromkeys([c for c in others if release.artist_of[c] not in tired_of] or others, 1.0)
    if not weight:
        return usual
    return {
        c: (1 - given.exploration) * usual.get(c, 0.0) + given.exploration * weight.get(c, 0.0) / sum(weight.values())
        for c in {*usual, *weight}
    }


@settings(max_examples=80)
@given(situation=situations(), data=st.data())
def test_a_propensity_with_exploration_is_the_probability_of_the_rules(
    situation: Situation, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    artist_of, rows, top, pick, artist_gap, row, played = situation
    plays = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows))))
    played = [*(track for track in played if track < 100 + len(rows)), 100 + row]
    release = make_release(
        tmp_path_factory.mktemp("release"),
        catalog=make_catalog(artist_of),
        arms={"C": arm(pick=pick, artist_gap=artist_gap, exploration=0.25, exploration_plays=2)},
        lists={"C": replace(lists_of(rows), plays=plays)},
        top_tracks=top,
    )
    assert release.new["C"].tolist() == np.flatnonzero(plays < 2).tolist()
    expected, ours = slow_exploring(release, row, played), recommender(release)
    assert sum(expected.values()) == pytest.approx(1)
    for _ in range(15):
        answer = ours.follow("C", 7, row, played)
        assert answer.propensity == pytest.approx(expected[answer.row], rel=1e-9)


@pytest.mark.parametrize("context", ["last", "session"])
@pytest.mark.parametrize(("pick", "artist_gap"), [("uniform", 0), ("uniform", 2), ("ranked", 0), ("weighted", 1)])
def test_exploration_is_that_of_the_simulation(
    world: World, tmp_path: Path, pick: str, artist_gap: int, context: str
) -> None:
    """From the same draws the same tracks with the same propensities; some lists have new tracks and others none."""
    num, rng = len(world.catalog), np.random.default_rng(3)
    rows = (np.arange(num)[:, None] + 1 + np.argsort(rng.random((num, num - 1)), axis=1)[:, :12]) % num
    plays = np.where(np.arange(num) % 23 == 3, 4, 5)
    lists = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32), plays=plays)
    lists.write(tmp_path / "r.jsonl", world.catalog, format="botify")
    vectors = make_vectors(num)
    vectors.write(tmp_path / FILE, world.catalog)
    how: dict[str, Any] = {"exploration": 0.4, "exploration_plays": 5}
    more = {"context": "session", "num_lists": 3} if context == "session" else {}
    release = make_release(
        tmp_path / "release",
        catalog=world.catalog,
        arms={"C": arm("lists", pick, artist_gap, **how, **more)},
        lists={"C": lists},
        vectors={"C": vectors} if more else {},
    )
    theirs = recommended(
        path=str(tmp_path / "r.jsonl"),
        pick=pick,
        artist_gap=artist_gap,
        **how,
        context=context,
        num_lists=3,
        world=world,
    )
    ours = recommender(release, seed=5)
    sessions = MappedSessions(tmp_path / "sessions.bin", capacity=4096, max_tracks=20, idle_s=9)
    crowd = start(world, np.arange(40), *np.random.default_rng(0).random((2, 40)))
    theirs.begin(crowd, np.random.default_rng(5))
    num_new = num_outside = 0
    for _ in range(7):
        answers = []
        for session, row in enumerate(crowd.current.tolist()):
            share = int(crowd.shares[-1, session]) / 100
            played = asyncio.run(sessions.play(session, int(release.track_ids[row]), share, START_MS))
            answers.append(ours.follow("C", 7, row, *(played if ours.remembers("C") else ([], []))))
        tracks = theirs.recommend(crowd)
        assert [answer.row for answer in answers] == tracks.tolist()
        propensities = [answer.propensity for answer in answers]
        assert propensities == pytest.approx(theirs.propensity(crowd, tracks).tolist(), rel=1e-12)
        num_new += int((plays[tracks] < 5).sum())
        num_outside += int((rows[crowd.current] != tracks[:, None]).all(1).sum())
        crowd = listen(world, crowd, tracks, np.ones(len(crowd)))
    assert 0.3 * 280 < num_new < 0.6 * 280
    assert num_outside > 20


def p_value_of_propensities(release: Release, row: int, played: Sequence[int], num: int = 1000) -> float:
    """Of a chi-square test of how often each row was the answer against the propensities of the answers."""
    ours = recommender(release)
    answers = Counter(ours.follow("C", 7, row, played) for _ in range(num))
    assert len({answer.row for answer in answers}) == len(answers), "one propensity for each row"
    expected = [answer.propensity * num for answer in answers]
    missing = num - sum(expected)
    assert abs(missing) < 0.02 * num or missing > 0, "the propensities add up to more than 1"
    if len(answers) == 1:
        return float(expected[0] == num)
    return float(chisquare(list(answers.values()), np.array(expected) * num / sum(expected)).pvalue)


@pytest.mark.parametrize("played", [(), (103,), (101, 103, 105, 104, 102), range(101, 108)])
@pytest.mark.parametrize("how", ["uniform", "ranked", "weighted", "random", "popular", "sticky_artist"])
def test_propensities_are_the_frequencies_of_the_answers(tmp_path: Path, how: str, played: Sequence[int]) -> None:
    is_list = how in ("uniform", "ranked", "weighted")
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 1, 2, 3, 4, 5, 0, 0]),
        arms={"C": arm(pick=how) if is_list else arm(how)},
        lists={"C": lists_of([[3, 1, 5, 4, 2]] + [[]] * 7)} if is_list else {},
        top_tracks=[1, 2, 2, 3],
    )
    assert p_value_of_propensities(release, 0, played) > SURE


def test_a_wrong_propensity_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weighted` that reports the propensities of `uniform`."""
    release = one_list(tmp_path, [3, 1, 5, 4, 2], "weighted")
    assert p_value_of_propensities(release, 0, ()) > SURE
    monkeypatch.setattr(recommender_module, "pick_probability", lambda _how, is_open, _: 1 / is_open.sum(1))
    assert p_value_of_propensities(release, 0, ()) < SURE
