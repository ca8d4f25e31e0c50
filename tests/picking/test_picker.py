"""How tracks are picked and with which probability, compared with loops written from the rules."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from segue.picking import picker as picker_module
from segue.picking.arm import Arm
from segue.picking.artist_tracks import ArtistTracks
from segue.picking.picker import NUM_POPULAR, Picked, Picker

SURE = 1e-4
"""Smallest p value that a statistical test at a fixed seed accepts; the seed was not selected."""


class Situation(NamedTuple):
    """A session, and the lists and settings by which its next track is picked.

    `listed` is its list, `heard` what it has heard, the last track first and -1 for tracks that are gone, and
    `kept` the tracks that the catalogue has and that are never picked.
    """

    artist_of: list[int]
    listed: list[int]
    popular: list[int]
    pick: str
    artist_gap: int
    heard: list[int]
    kept: Sequence[int] = ()

    def picker(self, **changes: Any) -> Picker:
        """With the fallbacks of the service, without exploration."""
        how = {"policy": "lists", "pick": self.pick or "uniform", "artist_gap": self.artist_gap, "fallback": "artist"}
        return Picker(
            arm=Arm(recommender="r.jsonl", **how | changes),
            artists=ArtistTracks.of(np.array(self.artist_of), kept=np.array(self.kept, np.int64)),
            popular=np.array(self.popular, np.int64),
        )

    def arrays(self, num: int = 1) -> tuple[Any, Any]:
        """Candidates and heard tracks of so many equal sessions."""
        return np.tile(np.array([self.listed], np.int32), (num, 1)), np.tile(np.array([self.heard]), (num, 1))


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    num = draw(st.integers(2, 7))
    rows, row = st.integers(0, num - 1), draw(st.integers(0, num - 1))
    kept = draw(st.sets(rows, max_size=num - 1))
    picked = rows.filter(lambda one: one not in kept)
    listed = draw(st.permutations([c for c in range(num) if c not in {row, *kept}]))[: draw(st.integers(0, num - 1))]
    return Situation(
        artist_of=draw(st.lists(st.integers(0, 2), min_size=num, max_size=num)),
        listed=[*listed, *[-1] * draw(st.integers(0, 2))],
        popular=draw(st.lists(picked, unique=True, max_size=3)),
        pick=draw(st.sampled_from(["uniform", "ranked", "weighted"])),
        artist_gap=draw(st.integers(0, 3)),
        heard=[row, *draw(st.lists(st.integers(-1, num - 1), max_size=num))],
        kept=sorted(kept),
    )


def slow_choices(given: Situation) -> tuple[dict[int, float], str]:
    """The probability of every possible next row without exploration, and their source, written from the rules."""
    heard = set(given.heard) if given.pick != "uniform" else set()
    chances = {c: 1 / rank for rank, c in enumerate(given.listed, start=1) if c >= 0 and c not in heard}
    tired_of = {given.artist_of[row] for row in given.heard[: given.artist_gap] if row >= 0}
    if spaced := {c: chance for c, chance in chances.items() if given.artist_of[c] not in tired_of}:
        chances = spaced
    if given.pick == "uniform":
        chances = dict.fromkeys(chances, 1.0)
    elif given.pick == "ranked":
        chances = dict(list(chances.items())[:1])
    if chances:
        return {c: chance / sum(chances.values()) for c, chance in chances.items()}, "list"
    num, last = len(given.artist_of), given.heard[0]
    every = [row for row in range(num) if row not in given.kept]
    others = [row for row in every if given.artist_of[row] == given.artist_of[last] and row != last]
    for source, rows in (("artist", others), ("popular", given.popular)):
        if found := [row for row in rows if row not in heard]:
            return dict.fromkeys(found, 1 / len(found)), source
    left = [row for row in every if row not in heard] or every
    return dict.fromkeys(left, 1 / len(left)), "random"


def slow_exploring(given: Situation, exploration: float) -> dict[int, float]:
    """The probability of every row with exploration, written from the rules."""
    usual, source = slow_choices(given)
    if source != "list" or not exploration:
        return usual
    heard = set(given.heard) if given.pick != "uniform" else set()
    tired_of = {given.artist_of[row] for row in given.heard[: given.artist_gap] if row >= 0}
    left = [c for c in given.listed if c >= 0 and c not in heard]
    left = [c for c in left if given.artist_of[c] not in tired_of] or left
    return {c: (1 - exploration) * usual.get(c, 0.0) + exploration / len(left) for c in left}


def all_chances(picker: Picker, candidates: Any, heard: Any) -> Any:
    """The probability of every track of the catalogue, for each session."""
    num = len(picker.artists.artist_of)
    return picker.choices(np.tile(np.arange(num), (len(heard), 1)), candidates, heard).asked


@settings(max_examples=40)
@given(situation=situations(), exploration=st.sampled_from([0.0, 0.25]))
def test_probabilities_are_those_of_the_rules(situation: Situation, exploration: float) -> None:
    picker = situation.picker(exploration=exploration)
    expected = slow_exploring(situation, exploration) if exploration else slow_choices(situation)[0]
    assert sum(expected.values()) == pytest.approx(1)
    found = all_chances(picker, *situation.arrays())[0]
    assert found.tolist() == pytest.approx([expected.get(row, 0.0) for row in range(len(found))])
    assert picker.choices(np.array([[-1]]), *situation.arrays()).asked.tolist() == [[0.0]]


@settings(max_examples=40)
@given(
    session=situations(), others=st.lists(situations(), max_size=3), exploration=st.sampled_from([0.0, 0.25]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_pick_has_the_probability_of_the_rules_and_its_source(
    session: Situation, others: list[Situation], exploration: float, seed: int
) -> None:
    """Of sessions side by side, by the settings of the first; all lists and histories are filled up with -1."""
    num = len(session.artist_of)
    picker = session.picker(exploration=exploration)
    sessions = [session]
    for other in others:
        listed = [row for row in other.listed if row < num and row not in session.kept]
        own = [row for row in other.heard if row < num], listed
        sessions.append(session._replace(heard=own[0] if own[0][:1] == other.heard[:1] else [0], listed=own[1]))
    candidates, heard = (
        np.array([line + [-1] * (max(map(len, lines)) - len(line)) for line in lines], np.int32)
        for lines in ([one.listed for one in sessions], [one.heard for one in sessions])
    )
    picked = picker.pick_next(candidates, heard, np.random.default_rng(seed))
    for one, row, propensity, source in zip(sessions, *map(np.ndarray.tolist, picked), strict=True):
        usual, name = slow_choices(one)
        expected = slow_exploring(one, exploration) if exploration else usual
        assert propensity == pytest.approx(expected[row], rel=1e-9)
        assert propensity > 0
        assert picker.arm.sources[source] == name


@pytest.mark.parametrize("policy", ["lists", "random", "popular", "sticky_artist"])
@settings(max_examples=20)
@given(situation=situations(), seed=st.integers(0, 99))
def test_one_session_is_answered_as_several(policy: str, situation: Situation, seed: int) -> None:
    """`pick_one` from the same random numbers as `pick_next`; where neither the session nor exploration matters."""
    picker = situation.picker(policy=policy, pick="uniform", artist_gap=0)
    assert not picker.needs_session
    candidates, heard = situation.arrays()
    rng, others = np.random.default_rng(seed), np.random.default_rng(seed)
    for _ in range(4):
        one = picker.pick_one(candidates[0], situation.heard[0], rng)
        several = picker.pick_next(candidates, heard[:, :1], others)
        assert one == tuple(column[0] for column in several)


def p_value_of_propensities(picker: Picker, situation: Situation, num: int = 2000) -> float:
    """Of a chi-square test of how often each row was picked against the propensities of the picks."""
    picked: Picked = picker.pick_next(*situation.arrays(num), np.random.default_rng(3))
    answers = Counter(zip(picked.rows.tolist(), picked.propensities.tolist(), strict=True))
    assert len({row for row, _ in answers}) == len(answers), "one propensity for each row"
    expected = [propensity * num for _, propensity in answers]
    assert sum(expected) < num * (1 + 1e-9), "the propensities add up to more than 1"
    if len(answers) == 1:
        return float(expected[0] == num)
    return float(chisquare(list(answers.values()), np.array(expected) * num / sum(expected)).pvalue)


SESSION = Situation(
    artist_of=[0, 1, 2, 3, 4, 5, 0, 0], listed=[3, 1, 5, 4, 2], popular=[1, 2, 3], pick="", artist_gap=0, heard=[0],
)  # fmt: skip
HEARD = {
    "one track": [0],
    "the best": [0, 3],
    "some of an artist": [2, 3, 1],
    "all of the list": [0, 1, 3, 5, 4, 2],
    "everything": [0, *range(1, 8)],
}


@pytest.mark.parametrize("heard", HEARD.values(), ids=HEARD)
@pytest.mark.parametrize("how", ["uniform", "ranked", "weighted", "random", "popular", "sticky_artist"])
@pytest.mark.parametrize(("exploration", "artist_gap"), [(0.0, 0), (0.4, 2)])
def test_propensities_are_the_frequencies_of_the_picks(
    how: str, heard: list[int], exploration: float, artist_gap: int
) -> None:
    situation = SESSION._replace(heard=heard, artist_gap=artist_gap)
    own = {"pick": how} if how in ("uniform", "ranked", "weighted") else {"policy": how}
    picker = situation.picker(**own, exploration=exploration if "pick" in own else 0.0)
    assert p_value_of_propensities(picker, situation) > SURE


def test_a_wrong_propensity_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that reports half of what it drew by."""
    situation = SESSION._replace(pick="weighted")
    assert p_value_of_propensities(situation.picker(), situation) > SURE
    right = picker_module.draw
    monkeypatch.setattr(picker_module, "draw", lambda *given: (right(*given)[0], np.full(len(given[0]), 0.2)))
    assert p_value_of_propensities(situation.picker(), situation) < SURE


def test_exploration_gives_all_tracks_of_a_list_its_share_of_the_picks() -> None:
    situation = SESSION._replace(pick="ranked")
    usual, explores = (all_chances(situation.picker(exploration=share), *situation.arrays())[0] for share in (0, 0.2))
    is_open = all_chances(situation.picker(exploration=0.5), *situation.arrays())[0] > 0
    assert is_open.sum() > 2
    np.testing.assert_allclose(explores, 0.8 * usual + 0.2 * is_open / is_open.sum())


@pytest.mark.parametrize("heard", [[2], [0, 1, 2], [3, 1, 3], [1, 1, 1, 1], [3, 1, 0, 2], [2, -1, 2]])
def test_any_track_is_one_that_was_not_heard_as_long_as_there_is_one(heard: list[int]) -> None:
    situation = SESSION._replace(artist_of=[0, 1, 2, 3], listed=[-1], pick="ranked", heard=heard, popular=[])
    picker, left = situation.picker(fallback="random"), sorted({0, 1, 2, 3} - {*heard}) or [0, 1, 2, 3]
    expected = [(row in left) / len(left) for row in range(4)]
    assert all_chances(picker, *situation.arrays())[0].tolist() == pytest.approx(expected)
    picked = picker.pick_next(*situation.arrays(8000), np.random.default_rng(0))
    assert picked.propensities.tolist() == pytest.approx([1 / len(left)] * 8000)
    assert sorted({*picked.rows.tolist()}) == left
    assert len(left) == 1 or chisquare(np.bincount(picked.rows)[left]).pvalue > SURE


@settings(max_examples=30)
@given(artist_of=st.lists(st.integers(0, 3), min_size=1, max_size=9), data=st.data())
def test_the_tracks_of_an_artist_are_all_but_the_kept_ones(artist_of: list[int], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(artist_of) - 1))
    kept = data.draw(st.sets(st.integers(0, len(artist_of) - 1), max_size=len(artist_of) - 1))
    own = [other for other in range(len(artist_of)) if artist_of[other] == artist_of[row] and other not in kept]
    artists = ArtistTracks.of(np.array(artist_of), kept=np.array(sorted(kept), np.int64))
    assert artists.by(artist_of[row]).tolist() == own


def test_only_lists_have_fallbacks_and_a_policy_is_none_of_its_own() -> None:
    sources = {
        policy: SESSION.picker(policy=policy).arm.sources for policy in ("lists", "user_lists", "popular", "random")
    }
    assert sources["lists"] == sources["user_lists"] == ("list", "artist", "popular", "random")
    assert (sources["popular"], sources["random"]) == (("popular", "random"), ("random",))
    assert SESSION.picker(fallback="random").arm.sources == ("list", "random")
    assert NUM_POPULAR == 100
