"""Baselines of whole sessions: nearest sessions (VSKNN, STAN, VSTAN) and linear models in closed form (EASE, SLIST).

N tracks in the catalogue, S training sessions, B queries in a block, H tracks of a history, A artists. Of nearest
sessions: P places (a track in a session). Of linear models: M tracks in the model, R rows (a session cut at a place).
"""

from abc import abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.linalg import cho_solve
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array, diags_array

from segue.catalog import Listens, Vocabulary
from segue.errors import InputError
from segue.models.baselines.counting import (
    LEAST_PLAYED,
    NUM_NEIGHBOURS,
    Counter,
    at_distances,
    of_artists,
    played_enough,
)
from segue.models.retrieval.sparse import largest_positive, no_scores
from segue.runs.recommendations import best_of_lines
from segue.settings import Setting, settings

_Places = Int64[np.ndarray, "P"]
Decay = str | float | None
"""`linear` for 1 − age/length, `inverse` for 1/(1 + age), a number λ for exp(−age/λ), None for 1."""
_OF_DECAY: dict[str, Any] = {"above": 0, "hint": "null switches it off"}
_ArtistsWeight = Annotated[
    float, Setting("added for each track by an artist of the session, times the decay of the artist's tracks", least=0)
]
SMALLEST_WEIGHT = 1e-6
"""Smaller weights of the places of a session are left out, so that memory does not grow with its squared length."""
# Places of a session that are used, the newest ones. A place is an exponent of 2 below; it must stay below 1,023.
_LONGEST = 1000
MOST_TRACKS = 20_000
"""Most tracks in a linear model: the dense inverse takes 12 bytes × the square of this, 4.8 GB."""


class SessionCounter(Counter):
    """A baseline that weights the tracks of a session itself. What it counts need not be a matrix of pairs.

    Args:
        vocabulary: the catalogue and what the training data shows of it.
        artist_weight: added for each track by an artist of the session, times the weights of the artist's tracks.
    """

    @abstractmethod
    def _score(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], length: Int64[np.ndarray, "B 1"]
    ) -> tuple[csr_array, csr_array]:
        """The weights of the tracks of each history, B × N, and the scores that they give.

        Args:
            counts: what `count` returned.
            rows: rows of the tracks that count, newest first; -1 for others, and where there is none.
            length: number of tracks of each history, also of those that do not count.
        """

    def scores(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], shares: Float32[np.ndarray, "B H"]
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
        queries, scores = self._score(counts, counting, (rows >= 0).sum(1, keepdims=True))
        if not self.artist_weight:
            return scores
        return csr_array(scores + self.artist_weight * of_artists(queries, self.artist_of))


@settings("model")
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

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        num_neighbours: Annotated[int, Setting("number of sessions that vote", least=1)] = 500,
        sample_size: Annotated[
            int, Setting("newest sessions with a track of the session so far; they can become neighbours", least=1)
        ] = 2500,
        position_decay: Annotated[
            float | Literal["linear"] | None,
            Setting("w1, of the tracks of the session so far: linear, or λ in places for exp(-age/λ)", **_OF_DECAY),
        ] = None,
        length_power: Annotated[
            float, Setting("how length lowers similarity", least=0, most=1, hint="0.5 is the cosine, 0 the bare sum")
        ] = 0.0,
        recency: Annotated[
            float | None, Setting("λ in sessions: older sessions are less similar; null: off", **_OF_DECAY)
        ] = None,
        place_decay: Annotated[
            float | None,
            Setting("λ in places: tracks of a neighbour far from the common one get less; null: off", **_OF_DECAY),
        ] = None,
        match_decay: Annotated[
            float | Literal["linear", "inverse"] | None,
            Setting("w2, by the age of the newest common track: linear, inverse, or λ for exp(-age/λ)", **_OF_DECAY),
        ] = None,
        idf: Annotated[float, Setting("extra weight of rare tracks", least=0, hint="0 switches it off")] = 0.0,
        artist_weight: _ArtistsWeight = 0.0,
    ) -> None:
        super().__init__(vocabulary, artist_weight)
        self._num_neighbours, self._sample_size = num_neighbours, sample_size
        self._position_decay, self._match_decay, self._place_decay = position_decay, match_decay, place_decay
        self._length_power, self._recency, self._idf = length_power, recency, idf
        self._sessions: _Sessions | None = None

    def count(self, listens: Listens) -> csr_array:
        """Index the training sessions: last place, from 1, of each track (columns) in each session (rows), S × N.

        Sessions are in order of age.
        """
        played = played_enough(listens)
        _, session, length = np.unique(played.session, return_inverse=True, return_counts=True)
        place = np.arange(len(session)) - (length.cumsum() - length)[session] - (length[session] - _LONGEST).clip(0)
        backwards = np.flatnonzero(place >= 0)[::-1]
        _, first = np.unique((session * self.num_tracks + played.track)[backwards], return_index=True)
        last = backwards[first]  # the last place of each track
        entries = (place[last] + 1).astype(np.float32), (session[last], played.track[last])
        return csr_array(entries, shape=(len(length), self.num_tracks))

    def _score(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], length: Int64[np.ndarray, "B 1"]
    ) -> tuple[csr_array, csr_array]:
        if self._sessions is None or self._sessions.counts is not counts:
            self._sessions = _Sessions(counts, self._place_decay)
        queries = query_matrix(
            rows, decayed(np.arange(rows.shape[1]), length, self._position_decay), self.num_tracks, newest_only=True
        )
        scores = csr_array(self._voters(self._sessions, rows, length, queries) @ self._sessions.votes)
        if self._idf:
            scores.data *= 1 + self._idf * self._sessions.idf[scores.indices]
        return queries, scores

    def _voters(
        self,
        sessions: "_Sessions",
        rows: Int64[np.ndarray, "B H"],
        length: Int64[np.ndarray, "B 1"],
        queries: csr_array,
    ) -> csr_array:
        """Similarity of each query to its neighbours, B × P (or B × S without `place_decay`)."""
        similar = _sorted(queries @ sessions.has)
        line, session = np.repeat(np.arange(len(rows)), np.diff(similar.indptr)), similar.indices.astype(np.int64)
        value = similar.data * sessions.sizes[session] ** -self._length_power
        if self._recency is not None:
            value = value * np.exp((session - len(sessions.sizes) + 1) / self._recency)
        from_newest = similar.indptr[1:][line] - 1 - np.arange(len(line))  # sessions of a line ascend
        [kept] = (from_newest < self._sample_size).nonzero()
        best = kept[best_of_lines(line[kept], self._num_neighbours, value[kept].astype(np.float32), session[kept])]
        if self._match_decay is not None:
            ages = query_matrix(rows, np.exp2(-np.arange(float(rows.shape[1]))), self.num_tracks, newest_only=True)
            of_match = (-_exponents(_sorted(ages @ sessions.has).data)).clip(0)  # a sum of 53 powers may round up
            value = value * decayed(of_match, length[line, 0], self._match_decay)
        column = session
        if self._place_decay is not None:
            once = csr_array((np.ones_like(queries.data), queries.indices, queries.indptr), shape=queries.shape)
            place = _exponents(_sorted(once @ sessions.powers).data)
            column = np.searchsorted(sessions.keys, session * (_LONGEST + 1) + place)
        return csr_array((value[best], (line[best], column[best])), shape=(len(rows), sessions.votes.shape[0]))


class _Sessions:
    """The training sessions, indexed.

    Attributes:
        counts: last place of each track in each session, S × N.
        has: 1 for each track of a session, N × S.
        powers: 2^place, N × S.
        sizes: number of tracks of each session.
        idf: logarithm of the share of sessions that have a track, negated; 0 where none has it.
        votes: what a track gets from a session, S × N; with `place_decay` from a place of it, P × N.
        keys: session and place of each row of the latter, as one number, ascending.
    """

    def __init__(self, counts: csr_array, place_decay: float | None) -> None:
        self.counts = counts
        num_sessions, num_tracks = counts.shape
        session, track = np.repeat(np.arange(num_sessions), np.diff(counts.indptr)), counts.indices.astype(np.int64)
        order = np.lexsort((counts.data, session))
        session, track, place = session[order], track[order], counts.data[order].astype(np.int64)
        self.sizes = np.diff(counts.indptr).astype(np.float64)
        self.has = csr_array((np.ones(len(track)), (track, session)), shape=(num_tracks, num_sessions))
        self.powers = csr_array((np.exp2(place.astype(np.float64)), (track, session)), shape=(num_tracks, num_sessions))
        num_with = np.bincount(track, minlength=num_tracks)
        self.idf = np.log(num_sessions / np.maximum(num_with, 1)) * (num_with > 0)
        self.keys = session * (_LONGEST + 1) + place
        if place_decay is None:
            self.votes = csr_array((np.ones(len(track)), (session, track)), shape=counts.shape)
        else:
            self.votes = _votes(session, track, place, num_tracks, place_decay)


def _votes(session: _Places, track: _Places, place: _Places, num_tracks: int, decay: float) -> csr_array:
    """exp(−|distance|/decay) from each place to each place of its session, as P × N. Places ascend in a session."""
    at = np.arange(len(session))
    parts = [(at, track, np.ones(len(at)))]
    for step, first in at_distances(session, largest_distance(decay, _LONGEST)):
        value = np.exp((place[first] - place[first + step]) / decay)
        parts += [(at[first], track[first + step], value), (at[first + step], track[first], value)]
    row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
    return csr_array((value, (row, column)), shape=(len(session), num_tracks))


def _sorted(table: csr_array) -> csr_array:
    product = csr_array(table)
    product.sort_indices()
    return product


def _exponents(sums: Float64[np.ndarray, "E"]) -> Int64[np.ndarray, "E"]:
    """The largest exponent of each sum of distinct powers of 2."""
    return np.asarray(np.frexp(sums)[1].astype(np.int64) - 1)


@settings("model")
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

    Raises:
        InputError: a setting is out of range, or too many tracks have `min_plays`.

    Source:
        Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019 (EASE);
        Choi, Kim, Lee, Shim and Lee, Session-aware linear item-item models for session-based recommendation, WWW 2021,
        section 4 (SLIS, SLIT, SLIST). The rows are normalised as in their code.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        share: Annotated[
            float,
            Setting("of reconstructing sessions; the rest predicts ends", least=0, most=1, hint="1 is SLIS, 0 is SLIT"),
        ] = 1.0,
        self_weight: Annotated[
            float | None,
            Setting("bound of the weight of a track with itself", least=0, most=1, hint="0 is EASE, null is no bound"),
        ] = 0.0,
        regularization: Annotated[float, Setting("of the squares of the weights", above=0)] = 100.0,
        normalise: Annotated[bool, Setting("whether the weights of a session have the sum 1")] = False,
        place_decay: Annotated[
            float | None, Setting("λ in places, of the tracks before and after a cut; null: off", **_OF_DECAY)
        ] = None,
        query_decay: Annotated[
            float | None, Setting("λ in places, of the tracks of the session so far; null: off", **_OF_DECAY)
        ] = None,
        min_plays: Annotated[int, Setting("tracks with fewer plays in training are not in the model", least=1)] = 1,
        artist_weight: _ArtistsWeight = 0.0,
    ) -> None:
        super().__init__(vocabulary, artist_weight)
        if (num := int((vocabulary.plays >= min_plays).sum())) > MOST_TRACKS:
            enough = int(np.sort(vocabulary.plays)[-MOST_TRACKS - 1]) + 1
            raise InputError(
                f"{num:,} tracks have model.min_plays={min_plays} plays or more, and the dense inverse takes at most "
                f"{MOST_TRACKS:,}; use model.min_plays={enough}"
            )
        self._share, self._self_weight, self._regularization = share, self_weight, regularization
        self._min_plays = min_plays
        self._normalise, self._place_decay, self._query_decay = normalise, place_decay, query_decay

    def count(self, listens: Listens) -> csr_array:
        """Solve for the weights that are kept of candidates (columns) after tracks of the session (rows), N × N."""
        played = played_enough(listens)
        [tracks] = (np.bincount(played.track, minlength=self.num_tracks) >= self._min_plays).nonzero()
        played = played.where(np.isin(played.track, tracks))
        if len(tracks) < 2:
            return no_scores(self.num_tracks)
        _, session, length = np.unique(played.session, return_inverse=True, return_counts=True)
        column = np.searchsorted(tracks, played.track)
        gram: np.ndarray = np.zeros((len(tracks), len(tracks)), np.float32)
        if self._share:
            whole = _rows(session, column, np.ones(len(column)), (len(length), len(tracks)), self._normalise, once=True)
            gram += self._share * _product(whole, whole)
        wanted = gram
        if self._share < 1:
            before, after = self._cut(session, column, length, len(tracks))
            wanted = gram + (1 - self._share) * _product(before, after)
            gram += (1 - self._share) * _product(before, before)
        gram[np.diag_indices(len(gram))] += self._regularization
        factor, _ = spotrf(gram, lower=1, overwrite_a=1)
        inverse = np.empty(0, np.float32)
        if self._share == 1 or self._self_weight is not None:
            lower, _ = spotri(factor, lower=1)
            inverse = np.tril(lower) + np.tril(lower, -1).T
        if self._share == 1:  # P·XᵀX = I − regularization·P
            solved = -np.float32(self._regularization) * inverse
            solved[np.diag_indices(len(solved))] += 1
        else:
            solved = cho_solve((factor, True), wanted, overwrite_b=True, check_finite=False)
        if self._self_weight is not None:
            solved -= inverse * ((np.diag(solved) - self._self_weight).clip(0) / np.diag(inverse))
        table = torch.from_numpy(solved)
        return largest_positive(lambda part: table[part], tracks, num_tracks=self.num_tracks, num_kept=NUM_NEIGHBOURS)

    def _cut(
        self, session: Int64[np.ndarray, "E"], column: Int64[np.ndarray, "E"], length: Int64[np.ndarray, "S"], num: int
    ) -> tuple[csr_array, csr_array]:
        """The tracks before and after each place where a session can be cut, R × M each."""
        starts = length.cumsum() - length
        place = np.arange(len(session)) - starts[session]
        row_of = (starts - np.arange(len(length)))[session] + place  # of the cut after this event, if not the last
        parts = [(*np.empty((4, 0), np.int64), np.empty(0))]
        for distance in range(largest_distance(self._place_decay, int(length.max())) + 1):
            weight = 1.0 if self._place_decay is None else float(np.exp(-distance / self._place_decay))
            [first] = (place + distance < length[session] - 1).nonzero()  # the cut is `distance` events later
            if not len(first):
                break
            before, after = column[first], column[first + 1 + distance]
            parts.append((row_of[first] + distance, before, row_of[first], after, np.full(len(first), weight)))
        row_before, before, row_after, after, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        common = weights, (int((length - 1).sum()), num), self._normalise
        return _rows(row_before, before, *common), _rows(row_after, after, *common)

    def _score(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], length: Int64[np.ndarray, "B 1"]
    ) -> tuple[csr_array, csr_array]:
        queries = query_matrix(
            rows, decayed(np.arange(rows.shape[1]), length, self._query_decay), self.num_tracks, newest_only=False
        )
        return queries, csr_array(queries @ counts)


def _rows(
    row: Int64[np.ndarray, "E"],
    column: Int64[np.ndarray, "E"],
    weight: np.ndarray,
    shape: tuple[int, int],
    normalise: bool,
    once: bool = False,
) -> csr_array:
    table = csr_array((weight, (row, column)), shape=shape)
    table.sum_duplicates()
    if once:
        table.data[:] = 1
    if normalise:
        table = csr_array(diags_array(1 / np.maximum(table.sum(1), 1e-300)) @ table)
    return table


def _product(left: csr_array, right: csr_array) -> Float32[np.ndarray, "M M"]:
    """`leftᵀ · right`, dense."""
    return np.asarray(csr_array(left.T @ right).astype(np.float32).toarray())


def decayed(age: Int64[np.ndarray, "*#n"], length: Int64[np.ndarray, "*#n"], decay: Decay) -> np.ndarray:
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


def largest_distance(decay: float | None, most: int) -> int:
    """Find the largest distance whose weight exp(−distance/decay) is at least SMALLEST_WEIGHT.

    Args:
        decay: λ; None for a weight of 1 at all distances.
        most: upper bound, such as the length of the longest session.

    Returns:
        The distance.
    """
    return most if decay is None else min(most, int(-decay * np.log(SMALLEST_WEIGHT)))


def query_matrix(
    rows: Int64[np.ndarray, "B H"], weights: Float64[np.ndarray, "... H"], num_tracks: int, *, newest_only: bool
) -> csr_array:
    """Build the matrix of queries × tracks.

    Args:
        rows: rows of the tracks, newest first; -1 where there is none.
        weights: their weights.
        num_tracks: N.
        newest_only: whether a track that was heard twice has the weight of its newest play; otherwise their sum.

    Returns:
        Weights, B × N.
    """
    line, place = (rows >= 0).nonzero()
    track, weight = rows[line, place], np.broadcast_to(weights, rows.shape)[line, place]
    if newest_only:
        _, first = np.unique(line * num_tracks + track, return_index=True)
        line, track, weight = line[first], track[first], weight[first]
    return csr_array((weight, (line, track)), shape=(len(rows), num_tracks))
