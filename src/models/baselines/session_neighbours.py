"""Session-based nearest neighbours: VSKNN, STAN and VSTAN. Similar training sessions vote for their tracks.

N tracks in the catalogue, S training sessions, P places (a track in a session), B queries in a block.
"""

from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.sparse import csr_array

from segue.catalog import Listens, Vocabulary
from segue.models.baselines.counting import LeastPlayed
from segue.models.baselines.history_weights import (
    OF_DECAY,
    ArtistsWeight,
    artist_scores,
    decayed,
    largest_distance,
    played_rows,
    query_matrix,
)
from segue.settings import Setting, settings

_LONGEST = 1000
"""Places of a session that are used, the newest ones. A place is an exponent of 2 below; it must stay below 1,023."""


@settings("model")
class SessionNeighbours:
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

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range.

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
            Setting("w1, of the tracks of the session so far: linear, or λ in places for exp(-age/λ)", **OF_DECAY),
        ] = None,
        length_power: Annotated[
            float, Setting("how length lowers similarity", least=0, most=1, hint="0.5 is the cosine, 0 the bare sum")
        ] = 0.0,
        recency: Annotated[
            float | None, Setting("λ in sessions: older sessions are less similar; null: off", **OF_DECAY)
        ] = None,
        place_decay: Annotated[
            float | None,
            Setting("λ in places: tracks of a neighbour far from the common one get less; null: off", **OF_DECAY),
        ] = None,
        match_decay: Annotated[
            float | Literal["linear", "inverse"] | None,
            Setting("w2, by the age of the newest common track: linear, inverse, or λ for exp(-age/λ)", **OF_DECAY),
        ] = None,
        idf: Annotated[float, Setting("extra weight of rare tracks", least=0, hint="0 switches it off")] = 0.0,
        least_played: LeastPlayed = 0.5,
        artist_weight: ArtistsWeight = 0.0,
    ) -> None:
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._artist_of = vocabulary.catalog.artist_of
        self._num_neighbours, self._sample_size = num_neighbours, sample_size
        self._position_decay, self._match_decay, self._place_decay = position_decay, match_decay, place_decay
        self._length_power, self._recency, self._idf = length_power, recency, idf
        self._least_played = least_played
        self._sessions: _Sessions | None = None

    def count(self, listens: Listens) -> csr_array:
        """Index the training sessions.

        Args:
            listens: the events of the training sessions.

        Returns:
            Last place, from 1, of each track (columns) in each session (rows), S × N. Sessions are in order of age.
        """
        played = listens.where(~(listens.played_ratio < np.float32(self._least_played)))
        _, session, length = np.unique(played.session, return_inverse=True, return_counts=True)
        place = np.arange(len(session)) - (length.cumsum() - length)[session] - (length[session] - _LONGEST).clip(0)
        session, track, place = session[place >= 0], played.track[place >= 0], place[place >= 0]
        key = session * self.num_tracks + track
        _, newest = np.unique(key[::-1], return_index=True)  # the last place of each track
        newest = len(key) - 1 - newest
        last = (place[newest] + 1).astype(np.float32)
        return csr_array((last, (session[newest], track[newest])), shape=(len(length), self.num_tracks))

    def scores(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], shares: Float32[np.ndarray, "B H"]
    ) -> csr_array:
        """Score the candidates of a block of queries.

        Args:
            counts: what `count` returned.
            rows: rows of the tracks heard, newest first; -1 where a session is shorter.
            shares: share of each that was played; NaN where unknown.

        Returns:
            Scores, B × N; positive where there is one.
        """
        if self._sessions is None or self._sessions.counts is not counts:
            self._sessions = _Sessions(counts, self._place_decay)
        rows, age, length = played_rows(rows, shares, float(self._least_played))
        weights = decayed(age, length, self._position_decay)
        queries = query_matrix(rows, weights, self.num_tracks, newest_only=True)
        voters = self._voters(self._sessions, rows, age, length, queries)
        scores = csr_array(voters @ self._sessions.votes)
        if self._idf:
            scores.data *= 1 + float(self._idf) * self._sessions.idf[scores.indices]
        if self.artist_weight:
            scores = csr_array(scores + artist_scores(queries, self._artist_of, self.artist_weight))
        return scores

    def _voters(
        self,
        sessions: "_Sessions",
        rows: Int64[np.ndarray, "B H"],
        age: Int64[np.ndarray, "B H"],
        length: Int64[np.ndarray, "B H"],
        queries: csr_array,
    ) -> csr_array:
        """Similarity of each query to its neighbours, B × P (or B × S without `place_decay`)."""
        similar = _sorted(queries @ sessions.has)
        line, session = np.repeat(np.arange(len(rows)), np.diff(similar.indptr)), similar.indices.astype(np.int64)
        value = similar.data * sessions.sizes[session] ** -float(self._length_power)
        if self._recency is not None:
            value = value * np.exp((session - len(sessions.sizes) + 1) / self._recency)
        from_newest = similar.indptr[1:][line] - 1 - np.arange(len(line))  # sessions of a line ascend
        [chosen] = (from_newest < self._sample_size).nonzero()
        best = chosen[np.lexsort((-session[chosen], -value[chosen].astype(np.float32), line[chosen]))]
        best = best[np.arange(len(best)) - np.searchsorted(line[best], line[best]) < self._num_neighbours]
        if self._match_decay is not None:
            ages = query_matrix(rows, np.exp2(-age.astype(np.float64)), self.num_tracks, newest_only=True)
            of_match = (-_exponents(_sorted(ages @ sessions.has).data)).clip(0)  # a sum of 53 powers may round up
            value = value * decayed(of_match, length[line, 0], self._match_decay)
        column = session
        if self._place_decay is not None:
            once = csr_array((np.ones_like(queries.data), queries.indices, queries.indptr), shape=queries.shape)
            column = sessions.places_of(session, _exponents(_sorted(once @ sessions.powers).data))
        shape = len(rows), sessions.votes.shape[0]
        return csr_array((value[best], (line[best], column[best])), shape=shape)


class _Sessions:
    """The training sessions, indexed.

    Attributes:
        counts: last place of each track in each session, S × N.
        has: 1 for each track of a session, N × S.
        powers: 2^place, N × S.
        sizes: number of tracks of each session.
        idf: logarithm of the share of sessions that have a track, negated; 0 where none has it.
        votes: what a track gets from a session, S × N; with `place_decay` from a place of it, P × N.
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
        self._keys = session * (_LONGEST + 1) + place  # ascending
        if place_decay is None:
            self.votes = csr_array((np.ones(len(track)), (session, track)), shape=counts.shape)
        else:
            self.votes = _votes(session, track, place, num_tracks, place_decay)

    def places_of(self, session: Int64[np.ndarray, "E"], place: Int64[np.ndarray, "E"]) -> Int64[np.ndarray, "E"]:
        """The row of `votes` of a place of a session."""
        row: np.ndarray = np.searchsorted(self._keys, session * (_LONGEST + 1) + place)
        return row


def _votes(
    session: Int64[np.ndarray, "P"],
    track: Int64[np.ndarray, "P"],
    place: Int64[np.ndarray, "P"],
    num_tracks: int,
    decay: float,
) -> csr_array:
    """exp(−|distance|/decay) from each place to each place of its session, as P × N. Places ascend in a session."""
    at = np.arange(len(session))
    parts = [(at, track, np.ones(len(at)))]
    for step in range(1, largest_distance(decay, _LONGEST) + 1):
        [first] = (session[step:] == session[:-step]).nonzero()
        if not len(first):
            break
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
    exponents: np.ndarray = np.frexp(sums)[1].astype(np.int64) - 1
    return exponents
