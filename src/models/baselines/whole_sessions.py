"""Baselines of whole sessions: nearest sessions (VSKNN, STAN, VSTAN) and linear models in closed form (EASE, SLIST).

N tracks in the catalogue, S training sessions, B queries in a block, H tracks of a history, Q tracks of all of them,
P places (a track in a session). Of linear models: E events, M tracks in the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.linalg import cho_solve
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array, diags_array

from segue.catalog import Listens
from segue.errors import InputError
from segue.models.baselines.counting import LEAST_PLAYED, NUM_NEIGHBOURS, Counter, Weigh, at_distances, played_enough
from segue.models.retrieval.sparse import largest_positive, no_scores
from segue.runs.recommendations import best_of_lines
from segue.settings import Setting, settings

Decay = str | float | None
"""`linear` for 1 − age/length, `inverse` for 1/(1 + age), a number λ for exp(−age/λ), None for 1."""
SMALLEST_WEIGHT = 1e-6
"""Smaller weights of the places of a session are left out, so that memory does not grow with its squared length."""
MOST_TRACKS = 20_000
"""Most tracks in a linear model: the dense inverse takes 12 bytes × the square of this, 4.8 GB."""


@dataclass(kw_only=True, eq=False)
class SessionCounter(Counter, ABC):
    """A baseline that weights the tracks of a session itself. What it counts need not be a matrix of pairs."""

    @abstractmethod
    def _score(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], length: Int64[np.ndarray, "B"]
    ) -> tuple[csr_array, csr_array]:
        """The weights of the tracks of each history, B × N, and the scores that they give.

        Args:
            counts: what `count` returned.
            rows: rows of the tracks that count, newest first; -1 for others, and where there is none.
            length: number of tracks of each history, also of those that do not count.
        """

    def scores(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], shares: Float32[np.ndarray, "B H"], _: Weigh
    ) -> csr_array:
        """Score the candidates of a block of queries.

        Args:
            counts: what `count` returned.
            rows: rows of the tracks heard, newest first; -1 where a session is shorter.
            shares: share of each that was played; NaN where unknown. A track with less than LEAST_PLAYED does not
                count, unless this is true of all.

        Returns:
            Scores, B × N; positive where there is one. They include those by artists.
        """
        played = (rows >= 0) & ~(shares < LEAST_PLAYED)
        counting = np.where(played | ~played.any(1, keepdims=True), rows, -1)
        heard, scores = self._score(counts, counting, (rows >= 0).sum(1))
        return self.with_artists(scores, heard)


@settings("model")
@dataclass(kw_only=True, eq=False)
class SessionNeighbours(SessionCounter):
    """Nearest training sessions of the session so far. With the settings of `conf/model/`: VSKNN, STAN, VSTAN.

    With the session so far q, a training session n, the age a(i) of a track i in q (0 for the newest) and its last
    place p(i, n) in n:

    - similarity: `sim(q, n) = Σ_{i in q and n} w1(a(i)) / |n|^length_power · exp(−age(n)/recency)`
    - neighbours: of the `sample_size` newest sessions that share a track with q, the `num_neighbours` most similar
    - score: `score(i) = (1 + idf·ln(S/S_i)) · Σ_n sim(q, n) · w2(q, n) · exp(−|p(i, n) − p*(q, n)|/place_decay)`

    Here w1 is `position_decay`; w2 is `match_decay` of the age of the newest track of q that n has; p* is the last
    place in n of a track of q; S_i is the number of sessions with track i. Factors that are equal for all candidates,
    such as the length of q, are left out. Sources without a clock and with one are treated alike: the age of a session
    is the number of sessions that began after it.

    VSKNN has `position_decay` (linear), `match_decay` and `idf`. STAN has the three exponential decays
    `position_decay`, `recency` and `place_decay`, and `length_power=0.5`. VSTAN has all of them.

    Source:
        Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018, section 3.2 (VSKNN);
        Garg et al., Sequence and time aware neighborhood for session-based recommendations, SIGIR 2019 (STAN);
        Ludewig, Mauro, Latifi and Jannach, Empirical analysis of session-based recommendation algorithms, UMUAI 2021
        (VSTAN, and VSKNN with match_decay and idf). p* and the cosine are those of their code (session-rec).
    """

    num_neighbours: Annotated[int, Setting("number of sessions that vote", least=1)] = 500
    sample_size: Annotated[int, Setting("newest sessions with a common track, which can vote", least=1)] = 2500
    position_decay: Annotated[
        float | Literal["linear"] | None,
        Setting("w1, of the tracks of the session so far: linear, λ in places for exp(-age/λ), or null", above=0),
    ] = None
    length_power: Annotated[
        float, Setting("how length lowers similarity: 0.5 is the cosine, 0 the bare sum", least=0, most=1)
    ] = 0.0
    recency: Annotated[float | None, Setting("λ in sessions: older sessions are less similar; null: off", above=0)] = (
        None
    )
    place_decay: Annotated[float | None, Setting("λ in places from the common track; null: off", above=0)] = None
    match_decay: Annotated[
        float | Literal["linear", "inverse"] | None,
        Setting("w2, by the age of the newest common track: linear, inverse, λ for exp(-age/λ), or null", above=0),
    ] = None
    idf: Annotated[float, Setting("extra weight of rare tracks; 0 switches it off", least=0)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sessions: _Sessions | None = None

    def count(self, listens: Listens) -> csr_array:
        """Index the training sessions: last place, from 1, of each track (columns) in each session (rows), S × N.

        Sessions are in order of age.
        """
        played = played_enough(listens)
        _, session, length = np.unique(played.session, return_inverse=True, return_counts=True)
        place = 1 + np.arange(len(session)) - (length.cumsum() - length)[session]
        _, newest = np.unique((session * self.num_tracks + played.track)[::-1], return_index=True)
        last = len(session) - 1 - newest
        entries = place[last].astype(np.float32), (session[last], played.track[last])
        return csr_array(entries, shape=(len(length), self.num_tracks))

    def _score(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], length: Int64[np.ndarray, "B"]
    ) -> tuple[csr_array, csr_array]:
        if self._sessions is None or self._sessions.counts is not counts:
            self._sessions = _Sessions(counts, self.place_decay)
        line, age = (rows >= 0).nonzero()
        _, newest = np.unique(line * self.num_tracks + rows[line, age], return_index=True)  # of a track heard twice
        line, age = line[newest], age[newest]
        heard = csr_array(
            (decayed(age, length[line], self.position_decay), (line, rows[line, age])),
            shape=(len(rows), self.num_tracks),
        )
        scores = csr_array(self._voters(self._sessions, heard, age, length) @ self._sessions.votes)
        if self.idf:
            scores.data *= 1 + self.idf * self._sessions.idf[scores.indices]
        return heard, scores

    def _voters(
        self, sessions: "_Sessions", heard: csr_array, age: Int64[np.ndarray, "Q"], length: Int64[np.ndarray, "B"]
    ) -> csr_array:
        """Weight of each row of `sessions.votes` for each query.

        Args:
            sessions: the training sessions.
            heard: weights of the tracks of the queries, B × N.
            age: of each of its entries.
            length: number of tracks of each history.
        """
        num_sessions = len(sessions.sizes)
        with_track = csr_array(sessions.places[heard.indices])  # Q × S
        entry = np.repeat(np.arange(len(age)), np.diff(with_track.indptr))
        line = np.repeat(np.arange(len(length)), np.diff(heard.indptr))[entry]
        pair = line * num_sessions + with_track.indices
        order = np.argsort(pair, kind="stable")
        first = np.flatnonzero(np.diff(pair[order], prepend=-1))  # of each query and session with a common track
        line, session = np.divmod(pair[order[first]], num_sessions)
        entry, place = entry[order], with_track.data[order]
        value = np.add.reduceat(heard.data[entry], first) * sessions.sizes[session] ** -self.length_power
        if self.recency is not None:
            value *= np.exp((session - num_sessions + 1) / self.recency)
        is_sampled = np.searchsorted(line, line, "right") - np.arange(len(line)) <= self.sample_size
        [kept] = is_sampled.nonzero()  # sessions of a line ascend
        best = kept[best_of_lines(line[kept], self.num_neighbours, value[kept].astype(np.float32), session[kept])]
        value *= decayed(np.minimum.reduceat(age[entry], first), length[line], self.match_decay)
        last = np.maximum.reduceat(place, first)
        return csr_array((value[best], (line[best], last[best])), shape=(len(length), sessions.votes.shape[0]))


class _Sessions:
    """The training sessions, indexed.

    Attributes:
        counts: last place of each track in each session, S × N.
        places: row of `votes` of each track in each session, N × S; later places have higher ones.
        sizes: number of tracks of each session.
        idf: logarithm of the share of sessions that have a track, negated; 0 where none has it.
        votes: what a track gets from a session, S × N; with `place_decay` from a place of it, P × N.
    """

    def __init__(self, counts: csr_array, place_decay: float | None) -> None:
        self.counts, (num_sessions, num_tracks) = counts, counts.shape
        self.sizes = np.diff(counts.indptr).astype(np.float64)
        session = np.repeat(np.arange(num_sessions), np.diff(counts.indptr))
        by_place = np.lexsort((counts.data, session))
        track, place = counts.indices[by_place].astype(np.int64), counts.data[by_place].astype(np.float64)
        num_with = np.bincount(track, minlength=num_tracks)
        self.idf = np.log(num_sessions / np.maximum(num_with, 1)) * (num_with > 0)
        row = session if place_decay is None else np.arange(len(session))
        self.places = csr_array((row, (track, session)), shape=(num_tracks, num_sessions))
        parts = [(row, track, np.ones(len(row)))]
        for step, one in near_events(session, place_decay) if place_decay is not None else ():
            other, value = one + step, np.exp((place[one] - place[one + step]) / place_decay)
            parts += [(one, track[other], value), (other, track[one], value)]
        voting, voted, votes = (np.concatenate(part) for part in zip(*parts, strict=True))
        num_rows = num_sessions if place_decay is None else len(row)
        self.votes = csr_array((votes, (voting, voted)), shape=(num_rows, num_tracks))


@settings("model")
@dataclass(kw_only=True, eq=False)
class Slist(SessionCounter):
    """A matrix of weights between tracks that reconstructs sessions (SLIS) and predicts their rest (SLIT).

    X has a row for each session, with 1 for its tracks. Y and Z have a row for each place where a session can be cut:
    Y has the tracks before the cut, with exp(−distance/place_decay) to the last of them, and Z those after it, with
    exp(−distance/place_decay) to the first of them. The weights W minimise

    `share·‖X − XW‖² + (1 − share)·‖Z − YW‖² + regularization·‖W‖²`

    where the diagonal of W is at most `self_weight`. The solution is
    `W = P·(share·XᵀX + (1 − share)·YᵀZ − diag(γ))` with `P = (share·XᵀX + (1 − share)·YᵀY + regularization·I)⁻¹`. Here
    γ is 0 where the diagonal is below the bound without it, and otherwise what puts it there. EASE is `share=1
    self_weight=0` without decays. The code of the paper has no bound for share < 1.

    The score of a track is the sum of its weights over the tracks of the session so far, each times
    exp(−age/query_decay).

    Source:
        Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019 (EASE);
        Choi, Kim, Lee, Shim and Lee, Session-aware linear item-item models for session-based recommendation, WWW 2021,
        section 4 (SLIS, SLIT, SLIST). The rows are normalised as in their code.
    """

    share: Annotated[
        float, Setting("of reconstructing sessions (1 is SLIS); the rest predicts ends (0 is SLIT)", least=0, most=1)
    ] = 1.0
    self_weight: Annotated[
        float | None, Setting("bound of the weight of a track with itself; 0 is EASE, null: no bound", least=0, most=1)
    ] = 0.0
    regularization: Annotated[float, Setting("of the squares of the weights", above=0)] = 100.0
    normalise: Annotated[bool, Setting("whether the weights of a session have the sum 1")] = False
    place_decay: Annotated[float | None, Setting("λ in places, before and after a cut; null: off", above=0)] = None
    query_decay: Annotated[float | None, Setting("λ in places, of the session so far; null: off", above=0)] = None
    min_plays: Annotated[int, Setting("tracks with fewer plays in training are not in the model", least=1)] = 1

    def count(self, listens: Listens) -> csr_array:
        """Solve for the weights that are kept of candidates (columns) after tracks of the session (rows), N × N.

        Raises:
            InputError: too many tracks have `min_plays`.
        """
        played = played_enough(listens)
        plays = np.bincount(played.track, minlength=self.num_tracks)
        [tracks] = (plays >= self.min_plays).nonzero()
        if len(tracks) > MOST_TRACKS:
            raise InputError(
                f"{len(tracks):,} tracks have model.min_plays={self.min_plays} plays or more, and the dense inverse "
                f"takes at most {MOST_TRACKS:,}; use model.min_plays={int(np.sort(plays)[-MOST_TRACKS - 1]) + 1}"
            )
        if len(tracks) < 2:
            return no_scores(self.num_tracks)
        played = played.where(np.isin(played.track, tracks))
        solved = self._solve(played.session, np.searchsorted(tracks, played.track), len(tracks))
        table = torch.from_numpy(solved)
        return largest_positive(lambda part: table[part], tracks, num_tracks=self.num_tracks, num_kept=NUM_NEIGHBOURS)

    def _solve(
        self, session: Int64[np.ndarray, "E"], column: Int64[np.ndarray, "E"], num: int
    ) -> Float32[np.ndarray, "M M"]:
        """The weights of M tracks by the sessions of events and the tracks (columns) that they play."""
        gram: np.ndarray = np.zeros((num, num), np.float32)
        if self.share:
            row, once = np.divmod(np.unique(session * num + column), num)
            whole = self._rows(row, once, np.ones(len(row)), num)
            gram += self.share * _product(whole, whole)
        wanted = gram
        if self.share < 1:
            before, after = self._cut(session, column, num)
            wanted = gram + (1 - self.share) * _product(before, after)
            gram += (1 - self.share) * _product(before, before)
        gram[np.diag_indices(num)] += self.regularization
        factor, _ = spotrf(gram, lower=1, overwrite_a=1)
        lower, _ = spotri(factor, lower=1)
        inverse: np.ndarray = np.tril(lower) + np.tril(lower, -1).T
        if self.share == 1:  # P·XᵀX = I − regularization·P
            solved = -np.float32(self.regularization) * inverse
            solved[np.diag_indices(num)] += 1
        else:
            solved = cho_solve((factor, True), wanted, overwrite_b=True, check_finite=False)
        if self.self_weight is not None:
            solved -= inverse * ((np.diag(solved) - self.self_weight).clip(0) / np.diag(inverse))
        return solved

    def _cut(
        self, session: Int64[np.ndarray, "E"], column: Int64[np.ndarray, "E"], num: int
    ) -> tuple[csr_array, csr_array]:
        """The tracks before and after each place where a session can be cut, E × M each: after each event but the last.

        The row of the last event of a session is empty.
        """
        parts = [(*np.empty((4, 0), np.int64), np.empty(0))]
        for step, first in near_events(session, self.place_decay):
            weight = np.full(len(first), decayed(np.array(step - 1), np.array(step), self.place_decay))
            parts.append((first + step - 1, column[first], first, column[first + step], weight))
        cut_after, before, cut_before, after, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self._rows(cut_after, before, weights, num), self._rows(cut_before, after, weights, num)

    def _rows(
        self, row: Int64[np.ndarray, "n"], column: Int64[np.ndarray, "n"], weight: np.ndarray, num: int
    ) -> csr_array:
        table = csr_array((weight, (row, column)), shape=(int(row.max(initial=-1)) + 1, num))
        return csr_array(diags_array(1 / np.maximum(table.sum(1), 1e-300)) @ table) if self.normalise else table

    def _score(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], length: Int64[np.ndarray, "B"]
    ) -> tuple[csr_array, csr_array]:
        line, age = (rows >= 0).nonzero()
        weights = decayed(age, length[line], self.query_decay)
        heard = csr_array((weights, (line, rows[line, age])), shape=(len(rows), self.num_tracks))
        return heard, csr_array(heard @ counts)


def _product(left: csr_array, right: csr_array) -> Float32[np.ndarray, "M M"]:
    """`leftᵀ · right`, dense."""
    return np.asarray(csr_array(left.T @ right).astype(np.float32).toarray())


def near_events(session: Int64[np.ndarray, "E"], decay: float | None) -> Iterator[tuple[int, Int64[np.ndarray, "_"]]]:
    """`at_distances` whose weight exp(−distance/decay) is at least SMALLEST_WEIGHT; all without a decay."""
    return at_distances(session, len(session) if decay is None else int(-decay * np.log(SMALLEST_WEIGHT)))


def decayed(age: Int64[np.ndarray, "*n"], length: Int64[np.ndarray, "*n"], decay: Decay) -> np.ndarray:
    """Compute the weight of each age.

    Args:
        age: 0 for the newest.
        length: number of tracks of the history, above `age`.
        decay: how the weight falls with the age.

    Returns:
        Weights above 0.
    """
    if decay is None:
        return np.ones(age.shape)
    if decay == "linear":
        return np.asarray(1 - age / length)
    if decay == "inverse":
        return np.asarray(1 / (1 + age))
    return np.asarray(np.exp(-np.minimum(age / float(decay), 500.0)))  # never 0: sparse products drop zeros
