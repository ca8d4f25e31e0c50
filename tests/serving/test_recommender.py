"""The next track of a user: arms, sessions, fallbacks. `tests/picking` has the rules of picking."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from segue.picking.arm import FALLBACKS
from segue.picking.session_query import SessionQuery
from segue.serving.recommender import Next, Recommender
from segue.serving.release import Release
from segue.serving.session_memory import Played
from tests.conftest import make_catalog, make_vectors
from tests.serving.conftest import arm, lists_of, lists_of_users, make_release


class Chosen(NamedTuple):
    """A row and its source."""

    row: int
    fallback: str | None


class Chooser(Recommender):
    """Answers also without the probability of the answer, and to sessions whose last track is left out."""

    def choose(self, arm: str, user: int, row: int, played: Sequence[int]) -> Chosen:
        answer = self.answer(arm, user, row, played)
        return Chosen(answer.row, answer.fallback)

    def answer(self, arm: str, user: int, row: int, played: Sequence[int]) -> Next:
        track = int(self.release.keys[row])
        return self.follow(arm, user, row, Played([*played, *([track] if track not in played[-1:] else [])], []))


def recommender(release: Release, seed: int = 0) -> Chooser:
    return Chooser(release, np.random.default_rng(seed))


@pytest.mark.parametrize(("policy", "pick"), [("lists", "uniform"), ("random", "ranked"), ("popular", "weighted")])
def test_only_arms_without_repeats_or_with_a_gap_remember_sessions(tmp_path: Path, policy: str, pick: str) -> None:
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0]),
        arms={"C": arm(policy, pick), "T1": arm(pick="ranked"), "T2": arm(artist_gap=1)},
        lists={name: lists_of([[1], [0]]) for name in ("C", "T1", "T2") if name != "C" or policy == "lists"},
        top_tracks=[0],
    )
    ours = recommender(release)
    assert [ours.needs_session(name) for name in ("C", "T1", "T2")] == [False, True, True]


def test_fallbacks_are_used_in_the_order_artist_popular_random(ring: Release) -> None:
    """Under `T1`, which is ranked; 104 and 105 have no list."""
    ours = recommender(ring)
    assert FALLBACKS["artist"] == ("artist", "popular", "random")
    assert ours.choose("T1", 7, 0, [100]) == Chosen(1, None)
    assert ours.choose("T1", 7, 4, [104]) == Chosen(3, "artist")
    assert {ours.choose("T1", 7, 4, [104, 103]) for _ in range(50)} == {Chosen(0, "popular")}
    assert {ours.choose("T1", 7, 5, [105]) for _ in range(50)} == {Chosen(3, "popular"), Chosen(0, "popular")}
    assert {ours.choose("T1", 7, 5, [105, 100, 103]) for _ in range(200)} == {
        Chosen(row, "random") for row in (1, 2, 4)
    }
    assert ours.choose("T1", 7, 0, [100, 101, 102]) == Chosen(3, "popular")
    everything = ring.keys.tolist()
    assert ours.choose("T1", 7, 0, everything).fallback == "random", "there is an answer even when all was played"


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
    assert ours.needs_session("C") == (pick != "uniform")
    if pick != "uniform":
        assert ours.choose("C", 7, 0, [102, 100]) == Chosen(4, None), "no track is repeated in a session"
        assert ours.choose("C", 7, 0, [102, 104, 100]) == Chosen(1, "artist")


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

    async def together(name: str) -> list[Any]:
        ours = recommender(release, seed=5)
        return await asyncio.gather(*(ours.ask(arm, 7, row, played) for arm, row, played in asked if arm == name))

    for name in arms:
        ours = recommender(release, seed=5)
        one_by_one = [ours.follow(arm, 7, row, played) for arm, row, played in asked if arm == name]
        assert asyncio.run(together(name)) == one_by_one
    assert len({answer.row for answer in one_by_one}) > 5

    async def all_at_once() -> list[Any]:
        ours = recommender(release)
        return await asyncio.gather(*(ours.ask(arm, 7, row, played) for arm, row, played in asked))

    found = [answer for answer, (arm, *_) in zip(asyncio.run(all_at_once()), asked, strict=True) if arm == "T1"]
    assert found == one_by_one, "T1 is ranked, whatever the random numbers"


async def test_a_request_that_is_cancelled_or_fails_leaves_no_other_one_waiting(tmp_path: Path) -> None:
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 1, 1, 2]),
        arms={"C": arm(pick="ranked", context="session")},
        lists={"C": lists_of([[1, 2], [2, 3], [3, 4], [], []])},
        vectors={"C": make_vectors(5)},
    )

    ours = recommender(release)
    left, stays = (ours.ask("C", 7, 0, Played([100], [1.0])) for _ in range(2))
    left.cancel()
    assert (await stays).row in (1, 2)
    wrong: Any = ["no id"]
    broken, other = (ours.ask("C", 7, 0, Played(tracks, [])) for tracks in (wrong, [100]))
    for answer in (broken, other):
        with pytest.raises(ValueError, match="no id"):
            await answer


def test_a_session_of_an_older_release_goes_on_without_the_tracks_that_are_gone(tmp_path: Path) -> None:
    vectors = make_vectors(5)
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 1, 1, 2]),
        arms={"C": arm(pick="ranked", context="session", num_lists=3)},
        lists={"C": lists_of([[1, 2], [2, 3], [3, 4], [], []])},
        vectors={"C": vectors},
    )
    query = SessionQuery(vectors).of(np.array([[0, -1, 1]]), np.array([[0.5, 0.9, 1.0]], np.float32))
    best = max((1, 2, 3), key=lambda row: float(vectors.items[row] @ query[0]) if row != 1 else -np.inf)
    answer = recommender(release).follow("C", 7, 0, Played([101, 999, 100], [1.0, 0.9, 0.5]))
    assert answer == (best, None, 1.0)
    assert recommender(release).choose("C", 7, 3, [103]) == Chosen(2, "artist"), "no list: a fallback as ever"
    assert recommender(release).follow("C", 7, 0, Played([100], [])).row in (1, 2), "the list of the first track"
