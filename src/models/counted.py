"""A counted part around a head: what followed each track in training, mixed with the softmax of the head.

The formula is in `picking/counted_scores.py`. B queries of a block, Q queries, N tracks, V width of a query vector, P
parts of it, R rules, n neighbours of a track, K tracks of a list.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit, logit, softmax
from torch import Tensor

from segue.catalog import Listens, Vocabulary, most_played
from segue.errors import InputError, build
from segue.histories import Histories
from segue.models.baselines.counting import Counter, best_candidates
from segue.models.baselines.whole_sessions import SessionCounter
from segue.models.contracts import QueryPart, Scorer
from segue.models.repeats import shares_of
from segue.models.retrieval.lists import ListBlock, ListSearch, Plan
from segue.models.retrieval.nearest import lists_of_vectors, to_units
from segue.models.retrieval.sparse import entries_of, no_scores
from segue.picking.counted_scores import level_of, mixed, weights_of
from segue.runs.counted_part import CountedPart
from segue.runs.recommendations import SCORE_DECIMALS, best_of_lines
from segue.settings import Setting, settings

COUNTED = "counted"
"""Key of what is fitted in a checkpoint."""
MOST_QUERIES, MOST_RANKED = 5000, 2500
"""Validation queries that the numbers are fitted to, and those that choose the sharpness."""
SHARPNESS = (1.0, 1.5)
"""What the scores are multiplied by in the softmax of the mixture. Training compares a track with those of a batch, and
where the head is good its softmax over the catalogue is too flat."""
LESS = (0.0, 1.0)
"""What is subtracted from a level: likelihood also counts targets far below the first places of a list, which the head
knows little of, and therefore asks for more of the counted part than ndcg@10 does."""
MOST_PLAYS = 5_000_000
"""Plays that are counted, at most: the newest ones. Their counts fit into memory beside a head."""
_FIRST_SHARE, _RIDGE, _TINY = 0.2, 1e-3, 1e-12


class Counts(NamedTuple):
    """What was counted for queries, and is mixed with the scores of a head; see `picking/counted_scores.py`.

    Attributes:
        shares: the share of each track among those that followed the tracks of a query, Q × N.
        level: of each query.
        temperature: of the head.
    """

    shares: csr_array
    level: Float[Tensor, "Q"]
    temperature: float

    def add(self, scores: Float[Tensor, "B N"], lines: Int64[Tensor, "B"]) -> None:
        """Mix it with scores, in place; see `SparsePart`."""
        places, share = entries_of(self.shares, lines)
        level = self.level[lines][places[0]]
        scores.index_put_(places, mixed(scores[places], share.to(scores), level, self.temperature, torch))


class Fitted(NamedTuple):
    """What is fitted to validation queries.

    Attributes:
        level: see `CountedPart`.
        rules: weight of each rule; their sum is 1.
        sharpness: one of SHARPNESS.
        weight: mean weight of the counted part, in [0, 1].
    """

    level: list[float]
    rules: list[float]
    sharpness: float
    weight: float

    def less(self, by: float) -> "Fitted":
        """The same with a lower level."""
        odds = np.exp(-by) * self.weight / (1 - self.weight)
        return self._replace(level=[self.level[0] - by, *self.level[1:]], weight=float(odds / (1 + odds)))


class Query(NamedTuple):
    """Some validation queries, as the head scores them.

    Attributes:
        logits: scores of all tracks, divided by the temperature; −∞ for the track that is no candidate.
        vectors: query vectors.
        histories: what was heard.
        following: rows of the tracks that followed.
    """

    logits: Float[Tensor, "B N"]
    vectors: Float[Tensor, "B V"]
    histories: Histories
    following: Int64[np.ndarray, "B"]


@settings("counted")
class Counted:
    """Counts what follows each track, and fits how much it weighs.

    Of each track the `num_neighbours` tracks that most often followed are kept. The level of a query, and with it the
    weight, is fitted by maximum likelihood to validation queries, after each epoch: on training pairs the head is too
    good. Of each SHARPNESS, and LESS of it, the one with the best ndcg@10 is used, or the head alone.

    Args:
        vocabulary: the training sessions.
        rules: models that count pairs of tracks, by name.

    Attributes:
        fitted: what validation has fitted; None for the head alone.

    Raises:
        InputError: a rule does not count pairs of tracks, or a setting is out of range.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        rules: Mapping[str, Callable[[Vocabulary], Counter]],
        num_neighbours: Annotated[int, Setting("tracks that are kept for each track, at most", least=1)] = 100,
        max_length: Annotated[int, Setting("number of newest tracks of a session that count", least=1, most=1000)] = 10,
        decay: Annotated[float, Setting("factor for each track further back", least=0, most=1)] = 0.8,
    ) -> None:
        self._rules = {name: build(f"counted.rules.{name}", rule, vocabulary) for name, rule in rules.items()}
        for name, rule in self._rules.items():
            if not isinstance(rule, Counter) or isinstance(rule, SessionCounter):
                raise InputError(
                    f"counted.rules.{name} is a {type(rule).__name__}, and a counted part needs scores of pairs of "
                    "tracks; use counted=rules, or mix finished runs with model=mixture"
                )
        self._listens, self._num_kept, self._order = vocabulary.listens, num_neighbours, vocabulary.popularity
        self._ages = (decay ** np.arange(max_length)).astype(np.float32)
        self._tables: dict[int | None, list[csr_array]] = {}
        self.fitted: Fitted | None = None
        self._part: tuple[Fitted | None, CountedPart | None] = None, None
        self._neighbours: tuple[Any, tuple[np.ndarray, np.ndarray]] | None = None

    def tables(self, first_event: int | None = None) -> Sequence[csr_array]:
        """The shares of the tracks that followed each track, N × N for each rule.

        Args:
            first_event: events from this one on are left out; None for none. Of those before it, the newest MOST_PLAYS
                are counted.
        """
        if first_event not in self._tables:
            nth = np.arange(len(self._listens.track))
            end = len(nth) if first_event is None else first_event
            listens = self._listens.where((nth < end) & (nth >= end - MOST_PLAYS))
            self._tables[first_event] = [self._counted(rule, listens) for rule in self._rules.values()]
        return self._tables[first_event]

    def _counted(self, rule: Counter, listens: Listens) -> csr_array:
        counts = rule.count(listens)
        counts.data = counts.data * rule.trend[counts.indices]
        kept = best_candidates(lambda rows: csr_array(counts[rows]), self._num_kept, order=rule.order)
        kept.data = kept.data.clip(min=0)
        kept.eliminate_zeros()
        return shares_of(kept).astype(np.float32)

    def whole(self, temperature: float) -> CountedPart | None:
        """The `part` of all sessions, which is computed once."""
        if self._part[0] is not self.fitted:
            self.keep(self.part(temperature))
        return self._part[1]

    def keep(self, part: CountedPart | None) -> None:
        """Take the `part` of all sessions, such as that of a checkpoint."""
        self._part = self.fitted, part

    def part(self, temperature: float, first_event: int | None = None) -> CountedPart | None:
        """What is mixed with a head; None before anything is fitted.

        Args:
            temperature: of the head.
            first_event: as for `tables`.
        """
        if self.fitted is None:
            return None
        asked = tuple(self.fitted.rules), first_event
        if self._neighbours is None or self._neighbours[0] != asked:
            self._neighbours = asked, self._summed(*asked)
        rows, shares = self._neighbours[1]
        level = np.array(self.fitted.level, np.float32)
        temperature /= self.fitted.sharpness
        return CountedPart(rows=rows, shares=shares, age_weights=self._ages, level=level, temperature=temperature)

    def _summed(
        self, rules: Sequence[float], first_event: int | None
    ) -> tuple[Int32[np.ndarray, "N n"], Float32[np.ndarray, "N n"]]:
        """The neighbours of each track by the weighted sum of the rules, and their shares."""
        table = no_scores(len(self._order))
        for weight, of_rule in zip(rules, self.tables(first_event), strict=True):
            table = csr_array(table + weight * of_rule)
        line = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
        best = best_of_lines(line, self._num_kept, table.data, self._order[table.indices])
        line, row, share = line[best], table.indices[best], table.data[best]
        place = np.arange(len(line)) - np.searchsorted(line, line)
        width = int(place.max(initial=0)) + 1
        rows, shares = np.full((table.shape[0], width), -1, np.int32), np.zeros((table.shape[0], width), np.float32)
        rows[line, place], shares[line, place] = row, share
        return rows, shares / np.maximum(shares.sum(1, keepdims=True), np.float32(1e-9))

    def fit(
        self,
        queries: Iterator[Query],
        parts: Mapping[str, QueryPart],
        gain: Callable[[], float],
        *,
        is_last: bool,
    ) -> None:
        """Fit the numbers to validation queries, and use those that rank best, or none of them.

        Args:
            queries: of validation.
            parts: of the query vectors.
            gain: ndcg@10 of the model, with what is `fitted`.
            is_last: whether a query is one previous track.
        """
        fits, tried = [None, *self._fits(queries, parts, is_last=is_last)], []
        for self.fitted in fits:
            tried.append((gain(), self.fitted, self._part))
        _, self.fitted, self._part = max(tried, key=lambda one: one[0])

    def _fits(self, queries: Iterator[Query], parts: Mapping[str, QueryPart], *, is_last: bool) -> list[Fitted]:
        """The numbers by maximum likelihood, for each sharpness."""
        columns: list[tuple[Tensor, ...]] = []
        for logits, vectors, histories, following in queries:
            target, previous = torch.from_numpy(following)[:, None], histories.previous
            found, masses = [], []
            for table in self.tables():
                shares = session_shares(table, self._ages, histories, is_last=is_last).toarray()
                shares[np.arange(len(shares)), previous] = 0
                found.append(torch.from_numpy(shares).gather(1, target)[:, 0])
                masses.append(torch.from_numpy(shares.sum(1)))
            own = logits.cpu().gather(1, target)[:, 0]
            totals = torch.stack([(sharpness * logits).logsumexp(1).cpu() for sharpness in SHARPNESS], 1)
            squared = squared_lengths(vectors.cpu(), parts)
            columns.append((own, totals, squared, torch.stack(found, 1), torch.stack(masses, 1)))
        target_logits, sums, *others = (torch.cat(of).double().numpy() for of in zip(*columns, strict=True))
        fits = [_fit(by, target_logits, total, *others) for by, total in zip(SHARPNESS, sums.T, strict=True)]
        return [one.less(by) for one in fits for by in LESS]

    def logged(self) -> Mapping[str, float]:
        """Report the weights."""
        by_rule = self.weights()
        parts = {f"counted_weight_{name}": weight for name, weight in by_rule.items()}
        return {"counted_weight": float(sum(by_rule.values()))} | (parts if len(parts) > 1 else {})

    def describe(self) -> str:
        """A line about the weights."""
        by_rule = ", ".join(f"{name} {weight:.2f}" for name, weight in self.weights().items())
        nothing = "nothing: validation has shown no weight with which it ranks better than the head alone"
        return f"counted      {f'{by_rule} (weights in the mixture)' if by_rule else nothing}"

    def decided(self) -> dict[str, Any]:
        """What is fitted, under the key `COUNTED`."""
        return {COUNTED: None if self.fitted is None else self.fitted._asdict()}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take it from another model, or from a checkpoint; nothing where validation was not better with it."""
        self.fitted = None if decided.get(COUNTED) is None else Fitted(**decided[COUNTED])

    def weights(self) -> Mapping[str, float]:
        """The mean weight of each rule in the mixture; none where the head alone ranks better."""
        if self.fitted is None:
            return {}
        return {name: self.fitted.weight * of for name, of in zip(self._rules, self.fitted.rules, strict=True)}


def _fit(
    sharpness: float,
    own: Float64[np.ndarray, "Q"],
    total: Float64[np.ndarray, "Q"],
    squared: Float64[np.ndarray, "Q P"],
    found: Float64[np.ndarray, "Q R"],
    masses: Float64[np.ndarray, "Q R"],
) -> Fitted:
    """Maximum likelihood of p = (exp(own) + exp(level)·found) / (exp(total) + exp(level)·mass)."""
    own = sharpness * own
    features = np.column_stack([np.ones(len(own)), squared, np.sqrt(squared)])
    ridge = _RIDGE * len(own) * np.eye(features.shape[1])
    first = np.linalg.solve(features.T @ features + ridge, features.T @ total)
    first[0] += logit(_FIRST_SHARE)

    def loss(numbers: Float64[np.ndarray, "n"]) -> float:
        level, rules = numbers[: len(first)], softmax(numbers[len(first) :])
        levels = features @ level
        likelihood = np.logaddexp(own, levels + np.log(found @ rules + _TINY))
        likelihood -= np.logaddexp(total, levels + np.log(masses @ rules + _TINY))
        return float(_RIDGE * ((level - first) ** 2).sum() - likelihood.mean())

    best = minimize(loss, np.append(first, np.zeros(found.shape[1])), method="L-BFGS-B").x
    level, rules = best[: len(first)], softmax(best[len(first) :])
    return Fitted(level.tolist(), rules.tolist(), sharpness, float(expit(features @ level - total).mean()))


def squared_lengths(vectors: Float[Tensor, "B V"], parts: Mapping[str, QueryPart]) -> Float[Tensor, "B P"]:
    """The squared length of each part of query vectors."""
    return torch.stack([(vectors[:, part.columns] ** 2).sum(1) for part in parts.values()], 1)


def session_shares(
    table: csr_array, ages: Float32[np.ndarray, "L"], histories: Histories, *, is_last: bool
) -> csr_array:
    """The share of each track among those that followed the tracks of sessions, B × N.

    Args:
        table: shares of the tracks that followed each track.
        ages: weight of each age.
        histories: the sessions.
        is_last: whether `histories.previous` alone counts.
    """
    if is_last:
        histories = Histories.of_tracks(histories.previous)
    rows, shares = histories.newest(len(ages))
    weights = weights_of(rows, shares, ages)
    line, age = (rows[:, : weights.shape[1]] >= 0).nonzero()
    entries = weights[line, age], (line, rows[line, age])
    return csr_array(csr_array(entries, shape=(len(rows), table.shape[1])) @ table)


def table_of(part: CountedPart) -> csr_array:
    """The shares as a sparse matrix, N × N."""
    line, place = (part.rows >= 0).nonzero()
    num = len(part.rows)
    return csr_array((part.shares[line, place], (line, part.rows[line, place])), shape=(num, num))


def counts_of(
    part: CountedPart,
    table: csr_array,
    histories: Histories,
    vectors: Float[Tensor, "B V"],
    parts: Mapping[str, QueryPart],
    *,
    is_last: bool,
) -> Counts:
    """The counted part of some queries."""
    squared = squared_lengths(vectors, parts)
    level = level_of(squared, torch.from_numpy(part.level).to(squared))
    return Counts(session_shares(table, part.age_weights, histories, is_last=is_last), level, part.temperature)


def lists_of_head(
    scorer: Scorer,
    part: CountedPart | None,
    plays: Int64[np.ndarray, "N"],
    k: int,
    rows: Int64[np.ndarray, "Q"] | None = None,
    *,
    recall: float | None = None,
    plan: Plan = None,
) -> ListSearch:
    """Prepare a search for the lists of a head, see `Ranker.lists`, with what often follows each track in its list.

    All other tracks keep their scores and their order.

    Args:
        scorer: the head.
        part: the counted part; None for the head alone.
        plays: popularity, which decides between equal scores.
        k: length of a list.
        rows: the tracks that have a list; None for all.
        recall: as for `Ranker.lists`.
        plan: as for `Ranker.lists`.
    """
    queries, items, parts = scorer.query_vectors(), scorer.item_vectors(), scorer.query_parts()
    rows = np.arange(len(items)) if rows is None else rows
    query_rows = torch.from_numpy(rows)
    search = lists_of_vectors(
        queries=queries, items=items, query_rows=query_rows, k=k, plays=plays, recall=recall, plan=plan
    )
    if part is None:
        return search
    place = np.argsort(most_played(plays))
    level, queries, items = torch.from_numpy(part.level), queries.cpu(), items.cpu()

    def block(nth: int) -> ListBlock:
        found = search.block(nth)
        own = rows[found.places]
        counted, vectors = part.rows[own].astype(np.int64), queries[torch.from_numpy(own)]
        scores = torch.einsum("bv,bnv->bn", vectors, items[torch.from_numpy(counted.clip(0))])
        levels = level_of(squared_lengths(vectors, parts), level.to(vectors))[:, None]
        scores = mixed(scores, torch.from_numpy(part.shares[own]), levels, part.temperature, torch)
        units = (to_units(scores) / 10**SCORE_DECIMALS).numpy()
        both = np.concatenate([counted, found.rows], 1)
        values = np.concatenate([np.where(counted < 0, -np.inf, units), found.scores], 1)
        again = (found.rows[:, :, None] == counted[:, None]).any(2)
        values[:, counted.shape[1] :][again] = -np.inf  # the head's own score of a track that is counted
        line = np.repeat(np.arange(len(both)), both.shape[1])
        best = best_of_lines(line, search.k, values.ravel().astype(np.float32), -place[both.ravel()])
        return ListBlock(
            found.places,
            both.ravel()[best].reshape(-1, search.k),
            values.ravel()[best].reshape(-1, search.k).astype(np.float32),
        )

    return replace(search, block=block)
