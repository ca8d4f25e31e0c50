"""A counted part around a head: what followed each track in training, added to the scores of the head.

The formula is in `picking/counted_scores.py`. B queries of a block, N tracks, n neighbours of a track,
K tracks of a list.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64
from scipy.sparse import csr_array
from torch import Tensor

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.counting import Counter, best_candidates
from segue.models.baselines.whole_sessions import SessionCounter
from segue.models.repeats import MOST_AGES, shares_of
from segue.models.retrieval.ranks import add_entries, ndcg
from segue.models.retrieval.sparse import no_scores
from segue.picking.counted_scores import added, weights_of
from segue.runs.counted_part import CountedPart
from segue.runs.recommendations import best_of_lines

COUNTED = "counted"
"""Key of what is chosen in a checkpoint."""
MOST_QUERIES = 5000
"""Validation queries that choose, at most."""
STRENGTHS, DECAYS = (0.5, 1.0, 2.0, 3.0, 4.0, 16.0), (0.5, 0.8)
"""What validation chooses among, besides the head alone: strengths in the unit of the logarithm of a probability, and
the factor of the weight of a track for each track further back. With 16 the counts nearly decide alone, as they should
where a head had too few plays to learn from."""
NUM_KEPT, NUM_NEWEST = 100, 10
"""Tracks that are kept for each track, and newest tracks of a session that count, at most."""
MOST_PLAYS = 5_000_000
"""Plays that are counted, at most: the newest ones. Their counts fit into memory beside a head."""
LEAST_NATS = 1.0
"""By so much less likely validation queries may be with the share of tracks of which nothing was counted."""
FEW = 10
"""Plays of a track after which what followed it has half of its weight."""


Entries = tuple[tuple[Tensor, Tensor], Tensor]
"""Places and values of a sparse matrix."""


class Chosen(NamedTuple):
    """What validation chooses.

    Attributes:
        strength: one of STRENGTHS.
        decay: one of DECAYS.
        uncounted: see `CountedPart`.
    """

    strength: float
    decay: float
    uncounted: float = 0.0


class _Uncounted(NamedTuple):
    """What some validation queries say of the tracks of which nothing was counted, and of all others.

    Attributes:
        odds: logarithm of the odds of all of them together, by the head.
        is_target: whether the next track is one of them.
        gained: by how much the logarithm of the sum of the probabilities of the others grows, for each option.
        followed: sum of the shares of what followed the session, by decay.
    """

    odds: Float32[np.ndarray, "B"]
    is_target: Bool[np.ndarray, "B"]
    gained: Float64[np.ndarray, "O B"]
    followed: dict[float, Float32[np.ndarray, "B"]]


class Query(NamedTuple):
    """Some validation queries, as the head scores them.

    Attributes:
        logits: scores of all tracks, divided by the temperature.
        histories: what was heard.
        following: rows of the tracks that followed.
    """

    logits: Float[Tensor, "B N"]
    histories: Histories
    following: Int64[np.ndarray, "B"]


class Counted:
    """Counts what follows each track, and chooses how much it weighs.

    Of each track the NUM_KEPT tracks that most often followed are kept. After each epoch, validation queries
    choose a strength and a decay, or the head alone, by ndcg@10 among tracks that the session has not heard.

    Args:
        vocabulary: the training sessions.
        rules: models that count pairs of tracks, by name. The mean of their shares is used.

    Attributes:
        chosen: what validation has chosen; None for the head alone.

    Raises:
        InputError: a rule does not count pairs of tracks.
    """

    def __init__(self, vocabulary: Vocabulary, *, rules: Mapping[str, Callable[[Vocabulary], Counter]]) -> None:
        self._rules = {name: build(f"counted.rules.{name}", rule, vocabulary) for name, rule in rules.items()}
        for name, rule in self._rules.items():
            if not isinstance(rule, Counter) or isinstance(rule, SessionCounter):
                raise InputError(
                    f"counted.rules.{name} is a {type(rule).__name__}, and a counted part needs scores of pairs of "
                    "tracks; use counted=rules, or mix finished runs with model=mixture"
                )
        self._listens, self._order = vocabulary.listens, vocabulary.popularity
        self._neighbours: dict[int | None, tuple[np.ndarray, np.ndarray]] = {}
        self.chosen: Chosen | None = None
        self._part: tuple[Chosen | None, CountedPart | None] = None, None

    def neighbours(self, first_event: int | None = None) -> tuple[Int32[np.ndarray, "N n"], Float32[np.ndarray, "N n"]]:
        """The rows of the tracks that most often followed each track, and their shares; -1 and 0 fill up.

        A share is the mean of those of the rules, times p / (p + FEW) for p plays of the track that was followed. A
        track that followed itself is one of them: some are played again and again.

        Args:
            first_event: events from this one on are left out; None for none. Of those before it, the newest MOST_PLAYS
                are counted.
        """
        if first_event not in self._neighbours:
            nth = np.arange(len(self._listens.track))
            end = len(nth) if first_event is None else first_event
            listens = self._listens.where((nth < end) & (nth >= end - MOST_PLAYS))
            table = no_scores(len(self._order))
            for rule in self._rules.values():
                table = csr_array(table + self._shares(rule, listens) / len(self._rules))
            plays = np.bincount(listens.track, minlength=len(self._order))
            line = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
            best = best_of_lines(line, NUM_KEPT, table.data, self._order[table.indices])
            line, row, share = line[best], table.indices[best], table.data[best]
            place = np.arange(len(line)) - np.searchsorted(line, line)
            width = int(place.max(initial=0)) + 1
            rows, shares = np.full((len(plays), width), -1, np.int32), np.zeros((len(plays), width), np.float32)
            rows[line, place], shares[line, place] = row, share * (plays / (plays + FEW))[line]
            self._neighbours[first_event] = rows, shares
        return self._neighbours[first_event]

    def _shares(self, rule: Counter, listens: Listens) -> csr_array:
        counts = rule.count(listens)
        counts.data = counts.data * rule.trend[counts.indices]
        kept = best_candidates(lambda rows: csr_array(counts[rows]), NUM_KEPT, order=rule.order, with_itself=True)
        kept.data = kept.data.clip(min=0)
        kept.eliminate_zeros()
        return shares_of(kept).astype(np.float32)

    def whole(self, temperature: float) -> CountedPart | None:
        """The `part` of all sessions, which is computed once."""
        if self._part[0] is not self.chosen:
            self.keep(self.part(temperature))
        return self._part[1]

    def keep(self, part: CountedPart | None) -> None:
        """Take the `part` of all sessions, such as that of a checkpoint."""
        self._part = self.chosen, part

    def part(self, temperature: float, first_event: int | None = None) -> CountedPart | None:
        """What is added to the scores of a head; None before anything is chosen.

        Args:
            temperature: of the head.
            first_event: as for `neighbours`.
        """
        return None if self.chosen is None else self._with(self.chosen, temperature, first_event)

    def _with(self, chosen: Chosen, temperature: float, first_event: int | None = None) -> CountedPart:
        rows, shares = self.neighbours(first_event)
        ages = (chosen.decay ** np.arange(NUM_NEWEST)).astype(np.float32)
        numbers = {"strength": chosen.strength * temperature, "uncounted": chosen.uncounted}
        return CountedPart(rows=rows, shares=shares, age_weights=ages, **numbers)

    def choose(self, queries: Iterator[Query], *, is_last: bool) -> None:
        """Take the strength and the decay that rank validation queries best, or the head alone.

        Tracks of which nothing was counted, such as new ones, keep the probability that they have together by the head.

        Args:
            queries: of validation.
            is_last: whether a query is one previous track.
        """
        alone = Chosen(0.0, DECAYS[0])
        decays = DECAYS[:1] if is_last else DECAYS  # one track has one weight
        options = [alone, *(Chosen(strength, decay) for decay, strength in product(decays, STRENGTHS))]
        units = {decay: self._with(Chosen(1.0, decay), 1.0) for decay in decays}
        whole = units[DECAYS[0]]
        table, is_uncounted, sums = whole.table, torch.from_numpy(whole.is_uncounted), whole.shares.sum(1)
        totals, found = np.zeros(len(options)), list[_Uncounted]()
        for logits, histories, following in queries:
            own, target = logits.cpu().float(), torch.from_numpy(following)
            heard = np.append(histories.previous[:, None], histories.newest_rows(MOST_AGES), axis=1)
            line, age = (heard >= 0).nonzero()
            own[torch.from_numpy(line), torch.from_numpy(heard[line, age])] = -torch.inf
            is_new = (own.gather(1, target[:, None])[:, 0] > -torch.inf).numpy()
            sessions = Histories.of_tracks(histories.previous) if is_last else histories
            entries: dict[float, Entries] = {}
            followed: dict[float, np.ndarray] = {}
            for decay, unit in units.items():
                values = values_of(unit, table, sessions)
                places = (np.repeat(np.arange(len(own)), np.diff(values.indptr)), values.indices.astype(np.int64))
                entries[decay] = (
                    (torch.from_numpy(places[0]), torch.from_numpy(places[1])),
                    torch.from_numpy(values.data),
                )
                followed[decay] = _of_sessions(unit, sums, sessions)
            counted = own.masked_fill(is_uncounted, -torch.inf)
            of_counted, of_head = counted.logsumexp(1), counted.softmax(1)
            odds = own.masked_fill(~is_uncounted, -torch.inf).logsumexp(1) - of_counted
            gained = np.empty((len(options), len(own)))
            for place, option in enumerate(options):
                given = entries[option.decay], option.strength
                totals[place] += ndcg(_ranks(own, target, *given)[is_new]).sum()
                gained[place] = _gained(of_head, *given)
            used = is_new & np.asarray(of_counted > -torch.inf)
            of_used = {decay: sums_of[used] for decay, sums_of in followed.items()}
            is_target = whole.is_uncounted[following]
            found.append(_Uncounted(odds.numpy()[used], is_target[used], gained[:, used], of_used))
        place = int(totals.argmax())
        best = options[place]
        self.chosen = None if best is alone else best._replace(uncounted=_share_of_uncounted(found, best, place))

    def logged(self) -> Mapping[str, float]:
        """Report the strength, 0 for the head alone, and the share of tracks of which nothing was counted."""
        chosen = self.chosen or Chosen(0.0, DECAYS[0])
        return {"counted_strength": chosen.strength, "counted_uncounted": chosen.uncounted}

    def describe(self) -> str:
        """A line about what is chosen."""
        if self.chosen is None:
            return "counted      nothing: validation has shown no strength that ranks better than the head alone"
        by = f"strength {self.chosen.strength:g}, decay {self.chosen.decay:g}"
        return f"counted      {' and '.join(self._rules)}: {by} (chosen by validation)"

    def decided(self) -> dict[str, Any]:
        """What is chosen, under the key `COUNTED`."""
        return {COUNTED: None if self.chosen is None else self.chosen._asdict()}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take it from another model, or from a checkpoint; nothing where validation was not better with it."""
        known = decided.get(COUNTED)
        self.chosen = None if known is None else Chosen(**known)


def _ranks(
    own: Float[Tensor, "B N"], following: Int64[Tensor, "B"], entries: Entries, strength: float
) -> Float64[np.ndarray, "B"]:
    """The rank of each `following`, the last of equal ones, by scores of a head and by `strength` times values.

    Args:
        own: scores of the head; −∞ for what is no candidate.
        following: rows of the tracks that followed.
        entries: of `values_of`.
        strength: what the values are multiplied by.
    """
    (line, column), value = entries
    score, is_target = own[line, column], column == following[line]
    of_target = own.gather(1, following[:, None])[:, 0].index_add(0, line, strength * value * is_target)
    not_below = (own >= of_target[:, None]).sum(1)
    change = (score + strength * value >= of_target[line]).long() - (score >= of_target[line]).long()
    return not_below.index_add_(0, line, change).double().numpy()


def _gained(of_head: Float[Tensor, "B N"], entries: Entries, strength: float) -> Float64[np.ndarray, "B"]:
    """By how much the logarithm of the sum of the probabilities of a head grows."""
    (line, column), value = entries
    grown = of_head.new_zeros(len(of_head)).index_add(0, line, of_head[line, column] * (strength * value).expm1())
    return grown.log1p().double().numpy()


def _share_of_uncounted(found: Sequence[_Uncounted], chosen: Chosen, place: int) -> float:
    """The share of a track of which nothing was counted, of the sum of shares.

    With it these tracks together have the probability that the head gives them, in the mean. It is 0 where validation
    queries are clearly less likely with it: a head that has learned little gives too much to tracks that nobody plays.

    Args:
        found: of all queries.
        chosen: strength and decay.
        place: of this option.
    """
    gained = np.concatenate([one.gained[place] for one in found])
    followed = np.concatenate([one.followed[chosen.decay] for one in found])
    if not followed.any():
        return 0.0
    low, share = 0.0, 1.0
    for _ in range(40):  # what is added in the mean grows with the share
        middle = (low + share) / 2
        low, share = (
            (low, middle) if added(middle * followed, chosen.strength).mean() > gained.mean() else (middle, share)
        )
    odds = np.concatenate([one.odds for one in found]) - gained
    is_target = np.concatenate([one.is_target for one in found])
    tried = odds, odds + added(share * followed, chosen.strength)
    without, within = (-np.logaddexp(0, np.where(is_target, -one, one)).sum() for one in tried)
    return share if within > without - LEAST_NATS else 0.0


def _weighted(part: CountedPart, histories: Histories) -> tuple[Int64[np.ndarray, "B l"], Float32[np.ndarray, "B l"]]:
    """The tracks of sessions that count, newest first, and their weights."""
    rows, shares = histories.newest(len(part.age_weights))
    weights = weights_of(rows, shares, part.age_weights)
    return rows[:, : weights.shape[1]], weights


def _of_sessions(
    part: CountedPart, of_tracks: Float32[np.ndarray, "N"], histories: Histories
) -> Float32[np.ndarray, "B"]:
    """The weighted mean of a number of each track."""
    rows, weights = _weighted(part, histories)
    return np.asarray((weights * of_tracks.take(rows, mode="clip")).sum(1))


def add_counts(scores: Float[Tensor, "B N"], part: CountedPart, histories: Histories) -> Float[Tensor, "B N"]:
    """Add what was counted after sessions to the scores of a head, in place.

    Returns:
        The same tensor.
    """
    add_neighbours(scores, part, histories)
    if part.uncounted and part.is_uncounted.any():
        share = added(_of_sessions(part, part.shares_of_uncounted, histories), part.strength)
        columns = (torch.from_numpy(one).to(scores) for one in (share, part.is_uncounted))
        scores.addr_(*columns)
    return scores


def add_neighbours(scores: Float[Tensor, "B N"], part: CountedPart, histories: Histories) -> Float[Tensor, "B N"]:
    """The same without tracks of which nothing was counted."""
    return add_entries(scores, values_of(part, part.table, histories))


def values_of(part: CountedPart, table: csr_array, histories: Histories) -> csr_array:
    """What is added after sessions to the scores of tracks that were counted after them, B × N.

    Args:
        part: of the run.
        table: its shares.
        histories: the sessions.
    """
    rows, weights = _weighted(part, histories)
    line, age = (rows >= 0).nonzero()
    entries = weights[line, age], (line, rows[line, age])
    found = csr_array(csr_array(entries, shape=(len(rows), table.shape[1])) @ table)
    found.data = added(found.data, part.strength)
    return found


def with_uncounted(
    part: CountedPart | None, queries: Float[Tensor, "N V"], items: Float[Tensor, "N V"]
) -> tuple[Float[Tensor, "N W"], Float[Tensor, "N W"]]:
    """The vectors with a column that adds, after one track, to the tracks of which nothing was counted.

    Args:
        part: of all tracks.
        queries: query vectors.
        items: item vectors.
    """
    if part is None or not part.uncounted or not part.is_uncounted.any():
        return queries, items
    of_query, of_item = added(part.shares_of_uncounted, part.strength), part.is_uncounted
    columns = (torch.from_numpy(one).to(items)[:, None] for one in (of_query, of_item))
    both = [torch.cat([vectors, column], 1) for vectors, column in zip((queries, items), columns, strict=True)]
    return both[0], both[1]
