"""Baselines that only count: popularity, sequential rules, item neighbours.

N tracks in the catalogue, E listens, B queries of a block. A listen weighs as much as the share of the track that was
played, 1 where that is unknown.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array

from src.catalog import Listens, Vocabulary
from src.errors import check_number

_CELLS = 2**25
"""Scores that are looked through at once, to find the best of a track."""


class Popular:
    """No scores at all: what is left is the order of plays.

    Plays are counted, as is usual, and not the shares played: they are what every other tie is decided by.

    Args:
        vocabulary: what the training pairs show.
        half_life: sessions after which a play counts half, in the order in which sessions began; None if it never
            does. Where sessions have no clock, theirs is the order of the file.
        artist_weight: score of a track by the artist of the query: above 0, the artist's own tracks come first.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, vocabulary: Vocabulary, *, half_life: int | float | None, artist_weight: int | float) -> None:
        if half_life is not None:
            check_number("half_life", half_life, above=0, hint="it is so many sessions, or null to never fade")
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays if half_life is None else _recent(vocabulary, half_life)

    def count(self, listens: Listens) -> csr_array:  # noqa: ARG002 - the plays are in the vocabulary
        """Nothing."""
        return nothing_counted(self.num_tracks)


class Rules:
    """Sequential rules: how often `following` came after `previous` within a few places of a session.

    A rule weighs less the further apart the two are, and as much as the product of their weights: where the first was
    skipped, what came after it says little. With `window=1` it is the first-order Markov chain.

    Args:
        vocabulary: what the training pairs show.
        window: largest distance in a session.
        decay: weight of a distance d: `inverse` for 1/d, or a number r in (0, 1] for r^(d-1).
        reverse_weight: what `a, b` counts for b → a, of what it counts for a → b; 1 makes rules symmetric.
        artist_weight: how often any track by the artist of the query counts as having come next.

    Raises:
        InputError: an argument is out of range.

    Source: Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018, section 3.1 (SR);
        Kamehkhosh, Jannach and Ludewig, A comparison of frequent pattern techniques and a deep learning method for
        session-based recommendation, RecTemp 2017.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        window: int,
        decay: str | int | float,
        reverse_weight: int | float,
        artist_weight: int | float,
    ) -> None:
        check_number("window", window, whole=True, least=1, hint="1 is a first-order Markov chain")
        if decay != "inverse":
            check_number("decay", decay, above=0, most=1, hint="it is inverse for 1/distance, or r for r^(distance-1)")
        check_number("reverse_weight", reverse_weight, least=0, most=1, hint="1 makes rules symmetric")
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._window, self._decay, self._reverse_weight = window, decay, reverse_weight

    def count(self, listens: Listens) -> csr_array:
        """Sum of the weights of each rule."""
        weight = _weights(listens)
        total = nothing_counted(self.num_tracks)
        for distance in range(1, self._window + 1):
            together = listens.session[distance:] == listens.session[:-distance]
            if not together.any():
                break
            previous, following = listens.track[:-distance][together], listens.track[distance:][together]
            value = (weight[:-distance] * weight[distance:])[together] * self._of_distance(distance)
            total = total + csr_array((value, (previous, following)), shape=total.shape)
        if self._reverse_weight:
            total = total + self._reverse_weight * total.T.tocsr()
        return total.astype(np.float32)

    def _of_distance(self, distance: int) -> float:
        return 1 / distance if self._decay == "inverse" else float(self._decay) ** (distance - 1)


class Neighbours:
    """Nearest neighbours: how much two tracks share their sessions, wherever they stand in them.

    `Σ x_q·x_c·length^(-length_power) / ((‖q‖·‖c‖)^norm_power + shrinkage)`, over the sessions, where x is the weight of
    a track in a session, lengths are Euclidean, and norms those of `x·length^(-length_power/2)`. With `norm_power=1`
    this is item-kNN by cosine. A query is one track, and so session-based kNN (SKNN, VSKNN) is in it too: its
    neighbours are the sessions that hold the query, near by the cosine 1/√(number of tracks), each votes for its
    tracks, and there is no earlier track that a decay could make less of: `norm_power=0 length_power=1`. All sessions
    vote, not the nearest or the latest so many.

    Args:
        vocabulary: what the training pairs show.
        num_neighbours: best candidates that are kept of each track.
        shrinkage: takes away from cosines that few sessions support; at least 0.
        norm_power: 0 to 1: how much less what everyone plays counts.
        length_power: 0 to 1: how much less a long session counts.
        artist_weight: added to the score of a track by the artist of the query.

    Raises:
        InputError: an argument is out of range.

    Source: Sarwar et al., Item-based collaborative filtering, WWW 2001; Ludewig and Jannach 2018, section 3.2.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        num_neighbours: int,
        shrinkage: int | float,
        norm_power: int | float,
        length_power: int | float,
        artist_weight: int | float,
    ) -> None:
        check_number("num_neighbours", num_neighbours, whole=True, least=1)
        check_number("shrinkage", shrinkage, least=0, hint="0 is the bare cosine")
        check_number("norm_power", norm_power, least=0, most=1, hint="1 is the cosine, 0 bare co-occurrence")
        check_number("length_power", length_power, least=0, most=1, hint="0 counts all sessions alike")
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._num_neighbours, self._shrinkage = num_neighbours, shrinkage
        self._norm_power, self._length_power = norm_power, length_power

    def count(self, listens: Listens) -> csr_array:
        """The best candidates of each track."""
        played = played_in(listens, self.num_tracks)
        session = np.repeat(np.arange(played.shape[0]), np.diff(played.indptr))
        length = np.sqrt(np.bincount(session, played.data**2))
        played.data *= length[session] ** (-self._length_power / 2)
        norms = np.sqrt(np.bincount(played.indices, played.data**2, self.num_tracks))
        by_track = played.T.tocsr()

        def similar(rows: Int64[np.ndarray, "B"]) -> csr_array:
            together = csr_array(by_track[rows] @ played)
            of_query = np.repeat(norms[rows], np.diff(together.indptr))
            together.data /= (of_query * norms[together.indices]) ** self._norm_power + self._shrinkage
            return together

        return _best(similar, self.num_tracks, self._num_neighbours)


def nothing_counted(num_tracks: int) -> csr_array:
    """Scores of a model that has not counted anything: none."""
    nowhere = np.empty(0, np.int64)
    return csr_array((np.empty(0, np.float32), (nowhere, nowhere)), shape=(num_tracks, num_tracks))


def _weights(listens: Listens) -> Float64[np.ndarray, "E"]:
    return np.nan_to_num(listens.played_ratio.astype(np.float64), nan=1.0)


def _recent(vocabulary: Vocabulary, half_life: int | float) -> Int64[np.ndarray, "N"]:
    """Tracks in the order of plays that fade, those that fade alike in the order of plays; higher is more recent."""
    sessions, session = np.unique(vocabulary.listens.session, return_inverse=True)
    fades = np.exp2((session - len(sessions) + 1) / half_life)
    faded = np.bincount(vocabulary.listens.track, fades, len(vocabulary.catalog))
    _, place = np.unique(np.stack([faded, vocabulary.plays], axis=1), axis=0, return_inverse=True)
    return place.reshape(-1).astype(np.int64)


def played_in(listens: Listens, num_tracks: int) -> csr_array:
    """Weight of each track (columns) in each session (rows): once played in full is enough, and never is none."""
    shape = int(listens.session.max(initial=-1)) + 1, num_tracks
    played = csr_array((_weights(listens), (listens.session, listens.track)), shape=shape)
    played.data = played.data.clip(max=1)
    played.eliminate_zeros()
    return played


def _best(scores: Callable[[Int64[np.ndarray, "B"]], csr_array], num_tracks: int, num_kept: int) -> csr_array:
    """The highest scores of each track but with itself; all scores are never there at once."""
    found = []
    for rows in np.array_split(np.arange(num_tracks), -(-(num_tracks**2) // _CELLS)):
        table = scores(rows)
        line, column = np.repeat(np.arange(len(rows)), np.diff(table.indptr)), table.indices.astype(np.int64)
        other = column != rows[line]
        line, column, value = line[other], column[other], table.data[other].astype(np.float32)
        best = np.lexsort((-value, line))
        kept = best[np.arange(len(line)) - np.searchsorted(line, line) < num_kept]
        found.append((value[kept], rows[line[kept]], column[kept]))
    value, row, column = (np.concatenate(part) for part in zip(*found, strict=True))
    return csr_array((value, (row, column)), shape=(num_tracks, num_tracks))
