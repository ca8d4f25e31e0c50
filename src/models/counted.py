"""A counted part around a head: what followed each track in training, added to the scores of the head.

The formula is in `picking/counted_scores.py`. B queries of a block, N tracks, n neighbours of a track,
K tracks of a list.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import brentq
from scipy.sparse import csr_array
from torch import Tensor

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.counting import Counter, best_candidates
from segue.models.baselines.whole_sessions import SessionCounter
from segue.models.repeats import MOST_AGES, shares_of
from segue.models.retrieval.ranks import add_entries, ndcg, ranks_in
from segue.models.retrieval.sparse import no_scores
from segue.picking.counted_scores import added, weights_of
from segue.runs.counted_part import CountedPart
from segue.runs.recommendations import best_of_lines

COUNTED = "counted"
"""Key of what is chosen in a checkpoint."""
MOST_QUERIES = 5000
"""Validation queries that choose, at most."""
STRENGTHS, DECAYS = (0.5, 1.0, 2.0, 3.0, 4.0, 16.0), (0.5, 0.8)
"""What validation chooses among, besides the head alone: strengths in the unit of the logarithm of a probability,
ascending, and the factor of the weight of a track for each track further back. With 16 the counts nearly decide alone,
as they should where a head had too few plays to learn from."""
NUM_KEPT, NUM_NEWEST = 100, 10
"""Tracks that are kept for each track, and newest tracks of a session that count, at most."""
MOST_PLAYS = 5_000_000
"""Plays that are counted, at most: the newest ones. Their counts fit into memory beside a head."""
LEAST_KEPT = 0.99
"""Share of ndcg@10 that validation queries must keep with the share of tracks of which nothing was counted."""
FEW = 10
"""Plays of a track after which what followed it has half of its weight."""

Query = tuple[Float[Tensor, "B N"], Histories, Int64[np.ndarray, "B"]]
"""Some validation queries: scores of all tracks as logarithms of probabilities, plus a constant; what was heard; and
rows of the tracks that followed."""


class Chosen(NamedTuple):
    """What validation chooses.

    Attributes:
        strength: one of STRENGTHS.
        decay: one of DECAYS; 0 where a query is one previous track.
        uncounted: see `CountedPart`.
    """

    strength: float
    decay: float
    uncounted: float = 0.0


def sample_of(
    histories: Histories, following: Int64[np.ndarray, "Q"], most: int
) -> tuple[Histories, Int64[np.ndarray, "q"]]:
    """Some queries that a number is fitted to, from first to last.

    Args:
        histories: what was heard.
        following: rows of the tracks that followed.
        most: number of queries, at most.
    """
    places = np.arange(0, len(following), 1 + len(following) // most)
    return histories.where(places), following[places]


def blocks_of(
    histories: Histories, following: Int64[np.ndarray, "Q"], at_once: int
) -> Iterator[tuple[Histories, Int64[np.ndarray, "B"]]]:
    """The queries, `at_once` at a time."""
    for start in range(0, len(following), at_once):
        yield histories.part(start, start + at_once), following[start : start + at_once]


_ALONE, _NOT_WEIGHED = Chosen(0.0, DECAYS[0]), np.ones(1, np.float32)


class Counted:
    """Counts what follows each track, and chooses how much it weighs.

    Of each track the NUM_KEPT tracks that most often followed are kept. After each epoch, validation queries
    choose a strength and a decay, or the head alone, by ndcg@10 among tracks that the session has not heard.

    Args:
        vocabulary: the training sessions.
        rules: models that count pairs of tracks, by name. The mean of their shares is used.

    Attributes:
        chosen: what validation has chosen; None for the head alone.
        tables: what follows each track, by the first event that is left out; None for all events. Nothing is weighed.

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
        self.tables: dict[int | None, CountedPart] = {}
        self.chosen: Chosen | None = None

    def table(self, first_event: int | None = None) -> CountedPart:
        """What most often followed each track, best first, with the strength 1; -1 and 0 fill up.

        A share is the mean of those of the rules, times p / (p + FEW) for p plays of the track that was followed. A
        track that followed itself is one of them: some are played again and again.

        Args:
            first_event: events from this one on are left out; None for none. Of those before it, the newest MOST_PLAYS
                are counted.
        """
        if first_event not in self.tables:
            nth, num_tracks = np.arange(len(self._listens.track)), len(self._order)
            end = len(nth) if first_event is None else first_event
            listens = self._listens.where((nth < end) & (nth >= end - MOST_PLAYS))
            sums = sum((self._shares(rule, listens) for rule in self._rules.values()), no_scores(num_tracks))
            table = csr_array(sums / len(self._rules))
            line = np.repeat(np.arange(num_tracks), np.diff(table.indptr))
            best = best_of_lines(line, NUM_KEPT, table.data, self._order[table.indices])
            line, plays = line[best], np.bincount(listens.track, minlength=num_tracks)
            places = line, np.arange(len(line)) - np.searchsorted(line, line)
            rows = np.full((num_tracks, int(places[1].max(initial=0)) + 1), -1, np.int32)
            shares = np.zeros(rows.shape, np.float32)
            rows[places], shares[places] = table.indices[best], table.data[best] * (plays / (plays + FEW))[line]
            self.tables[first_event] = CountedPart(rows=rows, shares=shares, age_weights=_NOT_WEIGHED, strength=1.0)
        return self.tables[first_event]

    def _shares(self, rule: Counter, listens: Listens) -> csr_array:
        counts = rule.count(listens)
        counts.data = counts.data * rule.trend[counts.indices]
        kept = best_candidates(lambda rows: csr_array(counts[rows]), NUM_KEPT, order=rule.order, with_itself=True)
        kept.data = kept.data.clip(min=0)
        kept.eliminate_zeros()
        return shares_of(kept).astype(np.float32)

    def part(self, temperature: float, first_event: int | None = None) -> CountedPart | None:
        """What is added to the scores of a head; None before anything is chosen.

        Args:
            temperature: of the head.
            first_event: as for `table`.
        """
        return None if self.chosen is None else _weighed(self.table(first_event), self.chosen, temperature)

    def choose(self, queries: Callable[[], Iterable[Query]], *, is_last: bool) -> None:
        """Take the strength and the decay that rank validation queries best, or the head alone.

        Args:
            queries: reads those of validation, once or twice.
            is_last: whether a query is one previous track.
        """
        decays = (0.0,) if is_last else DECAYS
        parts = {decay: _weighed(self.table(), Chosen(1.0, decay), 1.0) for decay in decays}
        gains = dict.fromkeys([_ALONE, *(Chosen(strength, decay) for decay in decays for strength in STRENGTHS)], 0.0)
        for own, sessions, following in _unheard(queries(), is_last):
            gains[_ALONE] += _gain(own, following)
            for decay, part in parts.items():
                scores, values = own.clone(), values_of(part, self.table().table, sessions)
                for strength, more in zip(STRENGTHS, np.diff(STRENGTHS, prepend=0.0), strict=True):
                    gains[Chosen(strength, decay)] += _gain(add_entries(scores, values * np.float32(more)), following)
        best, self.chosen = max(gains, key=gains.__getitem__), None
        if best != _ALONE:
            share = _share_of_uncounted(_weighed(self.table(), best, 1.0), _unheard(queries(), is_last))
            both = best._replace(uncounted=share)
            part, found = _weighed(self.table(), both, 1.0), _unheard(queries(), is_last)
            gain = sum(_gain(add_counts(own, part, sessions), following) for own, sessions, following in found)
            self.chosen = both if gain >= LEAST_KEPT * gains[best] else best

    def logged(self) -> Mapping[str, float]:
        """Report the strength, 0 for the head alone, and the share of tracks of which nothing was counted."""
        chosen = self.chosen or _ALONE
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


@lru_cache(maxsize=2)  # with and without the sessions that boosts are fitted to
def _weighed(table: CountedPart, chosen: Chosen, temperature: float) -> CountedPart:
    ages = (chosen.decay ** np.arange(NUM_NEWEST)).astype(np.float32)
    unit = chosen.strength * temperature
    return replace(table, age_weights=ages[ages > 0], strength=unit, uncounted=chosen.uncounted)


def _unheard(queries: Iterable[Query], is_last: bool) -> Iterator[Query]:
    """The queries whose track the session had not heard, among the tracks that it had not heard."""
    for logits, histories, following in queries:
        heard = np.append(histories.previous[:, None], histories.newest_rows(MOST_AGES), axis=1)
        [new] = (heard != following[:, None]).all(1).nonzero()
        own, heard, sessions = logits.cpu().float()[torch.from_numpy(new)], heard[new], histories.where(new)
        line, age = (heard >= 0).nonzero()
        own[torch.from_numpy(line), torch.from_numpy(heard[line, age])] = -torch.inf
        yield own, Histories.of_tracks(sessions.previous) if is_last else sessions, following[new]


def _gain(scores: Float[Tensor, "B N"], following: Int64[np.ndarray, "B"]) -> float:
    """The sum of ndcg@10."""
    return float(ndcg(ranks_in(scores, np.arange(len(scores)), following)).sum())


def _share_of_uncounted(part: CountedPart, queries: Iterable[Query]) -> float:
    """The share of a track of which nothing was counted, of the sum of shares.

    With it these tracks together have the probability that the head gives them, in the mean.

    Args:
        part: what is chosen, in the unit of the logarithm of a probability.
        queries: of tracks that the session had not heard.
    """
    is_uncounted, columns = torch.from_numpy(part.is_uncounted), list[np.ndarray]()
    for own, sessions, _ in queries:
        counted = own.masked_fill(is_uncounted, -torch.inf)
        before = counted.logsumexp(1)
        after = add_entries(counted, values_of(part, part.table, sessions)).logsumexp(1)
        columns.append(np.stack([after - before, _heard(part, sessions) @ part.shares.sum(1)]))
    whole = np.concatenate(columns, axis=1)
    gained, followed = whole[:, np.isfinite(whole[0])]  # others have no track that was counted

    def surplus(share: float) -> float:
        return float(added(share * followed, part.strength).mean() - gained.mean())

    if not followed.any():
        return 0.0
    return 1.0 if surplus(1.0) <= 0 else float(brentq(surplus, 0.0, 1.0))


def _heard(part: CountedPart, histories: Histories) -> csr_array:
    """The weights of the tracks of sessions that count, B × N."""
    rows, shares = histories.newest(len(part.age_weights))
    line, age = (rows >= 0).nonzero()
    weights = weights_of(rows, shares, part.age_weights)[line, age]
    return csr_array((weights, (line, rows[line, age])), shape=(len(rows), len(part.rows)))


def add_counts(scores: Float[Tensor, "B N"], part: CountedPart, histories: Histories) -> Float[Tensor, "B N"]:
    """Add what was counted after sessions to the scores of a head, in place.

    Returns:
        The same tensor.
    """
    add_entries(scores, values_of(part, part.table, histories))
    if part.uncounted and part.is_uncounted.any():
        share = added(_heard(part, histories) @ part.shares_of_uncounted, part.strength)
        scores.addr_(*(torch.from_numpy(one).to(scores) for one in (share, part.is_uncounted)))
    return scores


def values_of(part: CountedPart, table: csr_array, histories: Histories) -> csr_array:
    """What is added after sessions to the scores of tracks that were counted after them, B × N.

    Args:
        part: of the run.
        table: its shares.
        histories: the sessions.
    """
    found = csr_array(_heard(part, histories) @ table)
    found.data = added(found.data, part.strength)
    return found
