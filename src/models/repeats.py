"""Repeats: how tracks already heard are ranked.

B pairs, H tracks of a history, Q queries, A ages up to MOST_AGES, G groups of ages. The age of a track is how many
places ago it was heard last: 1 is the track just before.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.sparse import csr_array
from torch import Tensor, nn

from segue.catalog import Listens, Vocabulary
from segue.histories import Histories

SELDOM, _FEW = 0.01, 1000
"""A track is repeated seldom where fewer than this share of training targets do it; fewer targets cannot tell."""
MOST_REPEATED = 0.05
"""Largest share of repeats among the training targets for which `auto` trains with `never`."""
MOST_AGES = 64
"""Tracks that were heard longer ago are candidates like all others."""
# The group of each age; all ages of a group are boosted alike.
_GROUPS = np.searchsorted([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST_AGES], np.arange(1, MOST_AGES + 1))
_NUM_FITTED, _LEAST_REPEATS, _ROUNDS, _AT_ONCE = 5000, 50, 200, 256
"""Training targets that boosts are fitted to, how many of them have to repeat a track, steps of the fit, and targets
whose scores of all tracks are in memory together."""
_PRIOR = 0.1  # targets that are added to each group of ages: what the model expects
SharesOf = Callable[[Histories, Int64[np.ndarray, "B H"]], Float64[np.ndarray, "B H"]]
"""From histories and rows of their tracks to the probability that a model gives each of these."""


class Repeats(nn.Module):
    """One rule for tracks already heard: in the softmax (`losses.py`), in ranks (`retrieval/ranks.py`), in the scores
    of baselines, and in the candidates of a session (`picking/session_search.py`).

    With the list of the last track, the rule of `pick` decides alone whether a track is picked again.

    The rule is for tracks among the `within` newest ones: with `auto` those of `seldom_repeated` where at most
    MOST_REPEATED of the targets are repeats, otherwise all. Tracks heard before them are candidates like all others. In
    training it is for those of a batch's history alone.

    With `auto`, boosts are fitted besides (`fit`), where training has enough repeats: what a track gets for having been
    heard, by its age. Validation chooses among them, the rule of training and `never` (`choose`).

    Args:
        rule: `always` (they are candidates like all others), `never` (they come after all others, and are no negatives
            in training), or `auto`: `never` in training.
        vocabulary: the training sessions.
        length: largest number of newest tracks.

    Attributes:
        fitted: what is added to the score of a track by its age, in the unit of the scores, and for scores that are
            shares a second number, see `boosted_shares`; None where nothing is fitted.
        used: how tracks already heard are ranked: `boosts`, `always` or `never`.
        compared: ndcg@10 in validation of each that could be used; None where nothing was compared.
    """

    def __init__(self, rule: str, vocabulary: Vocabulary, *, length: int) -> None:
        super().__init__()
        self.within = self._length = length
        self.share: float | None = None
        self.fitted: Float64[np.ndarray, "2 A"] | None = None
        self.compared: Mapping[str, float] | None = None
        self.asked: Targets | None = None
        if rule == "auto":
            self.share, rule = share_of_repeats(vocabulary.listens), "never"
            if self.share <= MOST_REPEATED:
                self.within = seldom_repeated(vocabulary.listens, length)
                rule = "never" if self.within > 1 else "always"  # the newest track is never a candidate
            self.asked = newest_targets(vocabulary.listens)
        self.rule = self.used = rule

    def tried(self, values: Callable[[], Float64[np.ndarray, "Q"]]) -> dict[str, Float64[np.ndarray, "Q"]]:
        """Compute values with each way that could be used; without `auto` there is one.

        Args:
            values: of validation queries.

        Returns:
            The values by the name of the way.
        """
        ways = [self.rule]
        if self.share is not None:
            is_often = self.rule == "always" or self.share > MOST_REPEATED
            ways = ["boosts"] * (self.fitted is not None) + ["always"] * is_often + ["never"]
        found = {}
        for way in ways:
            self.used = way
            found[way] = values()
        return found

    def in_force(self, *, every: bool = False) -> Float64[np.ndarray, "2 A"] | None:
        """The fitted boosts, where they are the rule.

        Args:
            every: whether every track is a candidate, the previous one too. Then they hold, in use or not: they are
                fitted to such targets.
        """
        return self.fitted if every or self.used == "boosts" else None

    def boosts(self, *, every: bool = False) -> Float32[np.ndarray, "L"]:
        """What is added to the scores of tracks already heard, by age.

        Args:
            every: as in `in_force`.

        Returns:
            The boosts of the ages 1 to L, −∞ where the tracks come after all others; tracks heard longer ago get none.
        """
        if (fitted := self.in_force(every=every)) is not None:
            return np.asarray(fitted[0], np.float32)
        num_last = self.within if self.rule == "never" else self._length
        return np.full(num_last if self.used == "never" else 0, -np.inf, np.float32)

    def recent(self, history: Int64[Tensor, "B H"]) -> Int64[Tensor, "B h"]:
        """Select the tracks of each history that the rule of training is for.

        Args:
            history: rows of the tracks, newest first.
        """
        return history[:, : self.within]

    def fit(self, shares_of: SharesOf, *, unit: float, adds: bool) -> None:
        """Fit the boosts to the training targets that were `asked` for.

        Args:
            shares_of: the probability that the model gives the tracks heard of some histories, whatever it gives where
                a row is -1.
            unit: of the scores: they are `unit` times the logarithm of probabilities, plus a constant.
            adds: whether a probability is added besides, because the model gives many tracks none.
        """
        assert self.asked is not None, "nothing was asked for"
        _, histories, following, weight = self.asked
        heard = histories.newest_rows(MOST_AGES)
        parts = [slice(first, first + _AT_ONCE) for first in range(0, len(heard), _AT_ONCE)]
        shares = np.concatenate([shares_of(histories.part(part.start, part.stop), heard[part]) for part in parts])
        is_there, is_next = heard >= 0, heard == following[:, None]
        shares = np.where(is_there, shares, 0.0)
        factor, added = fitted_boosts(shares, is_there=is_there, is_next=is_next, weight=weight, adds=adds)
        self.fitted = np.stack([unit * np.log(factor), added])

    def choose(self, ndcg: Mapping[str, float]) -> None:
        """Take what is best in validation.

        Args:
            ndcg: ndcg@10 of each way; of equal ones, the last is taken.
        """
        self.compared, self.used = dict(ndcg), max(reversed(list(ndcg)), key=lambda way: ndcg[way])

    def leave_out_boosts(self) -> None:
        """Take what was second best in validation if it was the boosts, and these data have too few repeats for any."""
        if self.used == "boosts" and self.fitted is None and self.compared is not None:
            self.choose({way: ndcg for way, ndcg in self.compared.items() if way != "boosts"})

    def decided(self) -> dict[str, Any]:
        """What was decided from the training and the validation sessions: plain values by name."""
        return {name: getattr(self, name) for name in ("rule", "within", "used", "compared")}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take what was decided before, for example on validation sessions that this model learns.

        Args:
            decided: what `decided` returned, or more.
        """
        self.rule, self.within, self.used = decided["rule"], decided["within"], decided["used"]
        self.compared = decided["compared"]

    def describe(self) -> str | None:
        """One line about what `auto` chose; None if nothing was chosen.

        Returns:
            The line.
        """
        if self.share is None:
            return None
        newest = f"never, of the newest {self.within} tracks" if self.within < self._length else "never"
        shown = {"never": newest if self.rule == "never" else "never", "boosts": "learned boosts"}
        line = f"repeats      {self.share:.1%} of training targets were heard before in their session"
        names = {way: shown.get(way, way) for way in (self.used, *(self.compared or ()))}
        if self.compared is None:
            return f"{line}: {names[self.used]}"
        others = "".join(f"; {names[way]}: {ndcg:.4f}" for way, ndcg in self.compared.items() if way != self.used)
        return f"{line}: {names[self.used]} (validation ndcg@10 {self.compared[self.used]:.4f}{others})"

    def logged(self) -> Mapping[str, float]:
        """Report the share of repeats and what validation said of the boosts, where there are such numbers.

        Returns:
            Values by name.
        """
        within = None if self.rule == "always" else float(self.within)
        values = {"repeats_share": self.share, "repeats_within": within}
        values |= {f"repeats_ndcg_{way}": ndcg for way, ndcg in (self.compared or {}).items()}
        return {name: value for name, value in values.items() if value is not None}

    def get_extra_state(self) -> dict[str, Any]:
        """What was decided and fitted from the training sessions, for a checkpoint.

        Returns:
            Plain values by name.
        """
        return self.decided() | {"fitted": None if self.fitted is None else self.fitted.tolist()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore it.

        Args:
            state: what `get_extra_state` returned.
        """
        self.decide(state)
        self.fitted = None if state["fitted"] is None else np.array(state["fitted"])


class Targets(NamedTuple):
    """Training targets that boosts are fitted to.

    Attributes:
        first_event: number of the first event of their sessions; a model that counts has to leave these sessions out.
        histories: what was heard before each target.
        following: rows of the targets.
        weight: of each, the share of it that was played, 1 where unknown, as in training.
    """

    first_event: int
    histories: Histories
    following: Int64[np.ndarray, "Q"]
    weight: Float64[np.ndarray, "Q"]


def newest_targets(listens: Listens) -> Targets | None:
    """Take the targets of about the newest tenth of the training sessions: events after the first.

    A target may be the track just before it.

    Args:
        listens: the events of the training sessions.

    Returns:
        At most _NUM_FITTED of them; None where those that repeat a track of their session weigh less than
        _LEAST_REPEATS.
    """
    num_events = len(listens.session)
    first = int(np.searchsorted(listens.session, listens.session[num_events * 9 // 10])) if num_events else 0
    session, track, share = (column[first:] for column in (listens.session, listens.track, listens.played_ratio))
    place = np.arange(len(session)) - np.searchsorted(session, session)
    targets = np.flatnonzero(place)
    chosen = np.sort(np.random.default_rng(0).permutation(len(targets))[:_NUM_FITTED])
    event, before = targets[chosen], targets[chosen] - 1
    following, previous, weight = track[event], track[before], np.nan_to_num(share[event].astype(np.float64), nan=1.0)
    histories = Histories(tracks=track, played_ratio=share, last=before, length=place[event], previous=previous)
    is_repeat = (histories.newest_rows(MOST_AGES) == following[:, None]).any(1)
    is_enough = first > 0 and weight[is_repeat].sum() >= _LEAST_REPEATS
    return Targets(first, histories, following, weight) if is_enough else None


def fitted_boosts(
    shares: Float64[np.ndarray, "Q H"],
    *,
    is_there: Bool[np.ndarray, "Q H"],
    is_next: Bool[np.ndarray, "Q H"],
    weight: Float64[np.ndarray, "Q"],
    adds: bool,
) -> tuple[Float64[np.ndarray, "A"], Float64[np.ndarray, "A"]]:
    """Fit what having been heard does to the probability of a track, by its age: p becomes (f·p + a) / sum.

    Maximum likelihood: the targets that are expected at each age then are as many as there are. A tenth of a target, as
    the model expects it, is added to each group of ages, which matters where there are nearly none. Each step increases
    the likelihood: it bounds the logarithm of the sum by a line, as in iterative scaling, and divides the targets of an
    age between f·p and a, as in expectation maximisation.

    Args:
        shares: the probability that the model gives each track heard; 0 where there is none.
        is_there: where there is one.
        is_next: where this track is the target.
        weight: of each target.
        adds: whether a is fitted; otherwise it is 0.

    Returns:
        f, above 0, and a, at least 0, of each age.
    """
    members = np.eye(_GROUPS[-1] + 1)[_GROUPS[: shares.shape[1]]]  # a row for each age, a column for each group
    of_heard, num_heard, of_next = shares @ members, is_there @ members, (shares * is_next) @ members
    at_next, others = weight[:, None] * (is_next @ members), (1 - shares.sum(1)).clip(1e-9)
    factor, added = np.ones(members.shape[1]), np.full(members.shape[1], 0.001 if adds else 0.0)
    for _ in range(_ROUNDS):
        once = weight / (others + of_heard @ factor + num_heard @ added)
        by_model = at_next * np.divide(factor * of_next, factor * of_next + added + 1e-30)
        factor = (by_model.sum(0) + _PRIOR) / (once @ of_heard + _PRIOR)
        if adds:
            added = (at_next - by_model).sum(0) / (once @ num_heard + _PRIOR)
    return factor[_GROUPS], added[_GROUPS]


def boosted_shares(scores: csr_array, heard: Int64[np.ndarray, "B H"], fitted: Float64[np.ndarray, "2 A"]) -> csr_array:
    """Boost the scores of tracks already heard, where scores are in proportion to probabilities.

    Args:
        scores: of all tracks, B × N, at least 0.
        heard: rows of the tracks heard, newest first, each once; -1 where there is none.
        fitted: the logarithm of the factor of each age, and what is added to the shares of the scores.

    Returns:
        The boosted shares.
    """
    shares = shares_of(scores)
    line, age = (heard >= 0).nonzero()
    factor, added = (csr_array((of[age], (line, heard[line, age])), shape=scores.shape) for of in fitted)
    factor.data = np.expm1(factor.data)
    return csr_array((shares + shares.multiply(factor) + added).astype(np.float32))


def shares_of(scores: csr_array) -> csr_array:
    """Divide the scores of each line by their sum.

    Args:
        scores: seldom below 0; a line with entries has some that are not 0.
    """
    shares = csr_array(scores, copy=True)
    shares.data /= np.repeat(abs(shares).sum(1), np.diff(shares.indptr))
    return shares


def share_of_repeats(listens: Listens) -> float:
    """Share of the events after the first of a session that repeat a track of it, other than the track directly before.

    Args:
        listens: the events.

    Returns:
        The share, in [0, 1].
    """
    session, track = listens.session, listens.track
    is_target = (session[1:] == session[:-1]) & (track[1:] != track[:-1])
    is_again = pd.DataFrame({"session": session, "track": track}).duplicated().to_numpy()[1:]
    return float((is_again & is_target).sum() / max(1, is_target.sum()))


def seldom_repeated(listens: Listens, length: int) -> int:
    """How many of the newest tracks of a session are seldom played next: each in fewer than 1 % of the targets.

    Radio plays a hit again after an hour, and not after three songs. The places are read from the second newest track
    on, until one of them is repeated more often, or fewer than 1,000 training targets have so many tracks before them.

    Args:
        listens: the events of the training sessions.
        length: the largest number.

    Returns:
        The number, in [1, length]; `length` if no place is repeated more often.
    """
    session, track = listens.session, listens.track
    targets = 1 + np.flatnonzero((session[1:] == session[:-1]) & (track[1:] != track[:-1]))
    for age in range(2, length + 1):
        targets = targets[targets >= age]
        targets = targets[session[targets - age] == session[targets]]  # those that have so many tracks before them
        if len(targets) < _FEW:
            break
        if (track[targets - age] == track[targets]).mean() >= SELDOM:
            return age - 1
    return length


def as_number(value: Float[Tensor, ""] | float) -> float:
    """The value of a tensor or a number.

    Args:
        value: a number that may be learned.

    Returns:
        Its value.
    """
    return value if isinstance(value, float) else value.item()
