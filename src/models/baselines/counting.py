"""Baselines that only count: popularity, sequential rules, item neighbours, neighbours by an attribute.

N tracks in the catalogue, E events, B queries in a block. The weight of an event is the share of the track that was
played, or 1 where the share is unknown.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array

from segue.attributes import Values
from segue.catalog import Listens, Vocabulary
from segue.errors import InputError
from segue.settings import Setting, settings

NumNeighbours = Annotated[int, Setting("number of best candidates that are kept for each track", least=1)]
ArtistWeight = Annotated[
    float, Setting("added to the score of every track by the artist of the query", least=0, hint="0 ignores artists")
]
LeastPlayed = Annotated[float, Setting("events with a smaller share played are dropped", least=0, most=1)]

_MAX_SCORES = 2**25
"""Number of scores in memory while the best candidates are selected."""


@settings("model")
class Popular:
    """Popularity: no track has a score, therefore all tracks are ranked by their plays.

    Plays are counted and shares played are not. Plays also decide between equal scores of every other model. With an
    `artist_weight` above 0, the tracks of the artist of the query come first. For `half_life` sessions are in the order
    in which they began, or in the order of the file where the source has no clock.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        half_life: Annotated[
            float | None,
            Setting("a play counts half after it", above=0, hint="it is a number of sessions; null switches it off"),
        ] = None,
        artist_weight: ArtistWeight = 0.0,
    ) -> None:
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays if half_life is None else _recent(vocabulary, half_life)

    def count(self, listens: Listens) -> csr_array:  # noqa: ARG002 - the plays are in the vocabulary
        """Return no scores; the order of the plays remains.

        Args:
            listens: ignored.

        Returns:
            An empty N × N matrix.
        """
        return no_scores(self.num_tracks)


@settings("model")
class ArtistPopular:
    """Popularity of the artist: tracks in the order of the plays of all tracks of their artist, then of their own.

    A new track of a popular artist comes before the tracks of less popular ones, whatever the query. With an
    `artist_weight` above 0, the tracks of the artist of the query come first.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, vocabulary: Vocabulary, *, artist_weight: ArtistWeight = 0.0) -> None:
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        plays, artist_of = vocabulary.plays, vocabulary.catalog.artist_of
        of_artist = np.bincount(artist_of, plays)[artist_of]
        self.order = _places(of_artist, plays)

    def count(self, listens: Listens) -> csr_array:  # noqa: ARG002 - the plays are in the vocabulary
        """Return no scores; the order of the plays remains.

        Args:
            listens: ignored.

        Returns:
            An empty N × N matrix.
        """
        return no_scores(self.num_tracks)


@settings("model")
class AttributeNeighbours:
    """The tracks with the most similar values of an attribute, such as tags, whatever was played together.

    The score is the cosine of two tracks, each a vector with `log(N / tracks that have the value)` for each of its
    values. Plays decide between equal scores.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        attribute: Annotated[
            str, Setting("name of an attribute of datamodule.attributes, of kind value or values")
        ] = "tags",
        num_neighbours: NumNeighbours = 500,
        artist_weight: ArtistWeight = 0.0,
    ) -> None:
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._num_neighbours, self._attribute = num_neighbours, attribute
        self._attributes = vocabulary.catalog.attributes

    def count(self, listens: Listens) -> csr_array:  # noqa: ARG002 - attributes do not depend on what was played
        """Find the best candidates of each track.

        Args:
            listens: ignored.

        Returns:
            Scores of the kept candidates (columns) of each query (rows), N × N.

        Raises:
            InputError: the data have no such attribute.
        """
        values = self._attributes.get(self._attribute)
        if not isinstance(values, Values):
            has = ", ".join(name for name, one in self._attributes.items() if isinstance(one, Values))
            raise InputError(
                f"model.attribute: the data have no attribute {self._attribute!r} with values, they have "
                f"{has or 'none'}; give datamodule.attributes, or another model.attribute"
            )
        rarity = np.log(self.num_tracks / np.maximum(values.tracks_of_values(), 1))
        track = np.repeat(np.arange(self.num_tracks), values.counts)
        weight = rarity[values.values]
        norms = np.sqrt(np.bincount(track, weight**2, self.num_tracks))
        weight /= np.maximum(norms[track], 1e-12)
        table = csr_array((weight, (track, values.values)), shape=(self.num_tracks, len(values.names)))
        by_value = table.T.tocsr()
        return best_candidates(lambda rows: csr_array(table[rows] @ by_value), self._num_neighbours, order=self.order)


@settings("model")
class Rules:
    """Sequential rules: how often `following` came after `previous` within a few places of a session.

    The weight of one occurrence is the product of the weights of the two events and of a factor that falls with their
    distance. If the first track was skipped, the track after it says little. `window=1` is a first-order Markov chain.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range.

    Source:
        Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018, section 3.1 (SR);
        Kamehkhosh, Jannach and Ludewig, A comparison of frequent pattern techniques and a deep learning method for
        session-based recommendation, RecTemp 2017.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        window: Annotated[
            int, Setting("largest distance in a session", least=1, hint="1 is a first-order Markov chain")
        ] = 10,
        decay: Annotated[
            float | Literal["inverse"],
            Setting(
                "weight of a distance", above=0, most=1, hint="it is inverse for 1/distance, or r for r^(distance-1)"
            ),
        ] = "inverse",
        reverse_weight: Annotated[
            float, Setting('weight of "a, b" for the rule b → a', least=0, most=1, hint="1 makes rules symmetric")
        ] = 0.0,
        artist_weight: ArtistWeight = 0.0,
    ) -> None:
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._window, self._decay, self._reverse_weight = window, decay, reverse_weight

    def count(self, listens: Listens) -> csr_array:
        """Sum the weights of the occurrences of each rule.

        Args:
            listens: the events of the training sessions.

        Returns:
            Score of each rule previous (row) → following (column), N × N.
        """
        weight = _weights(listens)
        total = no_scores(self.num_tracks)
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
        return 1 / distance if self._decay == "inverse" else self._decay ** (distance - 1)


@settings("model")
class Neighbours:
    """Item-based nearest neighbours: how many sessions two tracks share, at any place in the session.

    The score is `Σ x_q·x_c·length^(-length_power) / ((‖q‖·‖c‖)^norm_power + shrinkage)`, summed over the sessions. Here
    x is the weight of a track in a session, lengths are Euclidean, and norms are those of `x·length^(-length_power/2)`.
    With `norm_power=1` this is item-kNN by cosine.

    Session-based kNN (SKNN, VSKNN) is `norm_power=0 length_power=1`, because here a query is one track. Its neighbours
    are the sessions that contain the query, with the cosine 1/√(number of tracks), and each session votes for its
    tracks. There is no track before the query, therefore the decay of VSKNN has no effect. All sessions vote, not only
    the nearest or the latest.

    Args:
        vocabulary: the catalogue and what the training data shows of it.

    Raises:
        InputError: a setting is out of range.

    Source:
        Sarwar et al., Item-based collaborative filtering, WWW 2001;
        Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018, section 3.2.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        num_neighbours: NumNeighbours = 500,
        shrinkage: Annotated[
            float, Setting("reduces cosines that few sessions support", least=0, hint="0 is the bare cosine")
        ] = 20.0,
        norm_power: Annotated[
            float,
            Setting("how popularity lowers the score", least=0, most=1, hint="1 is the cosine, 0 bare co-occurrence"),
        ] = 1.0,
        length_power: Annotated[
            float,
            Setting("how length lowers the weight of a session", least=0, most=1, hint="0 gives all the same weight"),
        ] = 0.0,
        artist_weight: ArtistWeight = 0.0,
    ) -> None:
        self.num_tracks, self.artist_weight = len(vocabulary.catalog), artist_weight
        self.order = vocabulary.plays
        self._num_neighbours, self._shrinkage = num_neighbours, shrinkage
        self._norm_power, self._length_power = norm_power, length_power

    def count(self, listens: Listens) -> csr_array:
        """Find the best candidates of each track.

        Args:
            listens: the events of the training sessions.

        Returns:
            Scores of the kept candidates (columns) of each query (rows), N × N.
        """
        played = session_weights(listens, self.num_tracks)
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

        return best_candidates(similar, self._num_neighbours, order=self.order)


def no_scores(num_tracks: int) -> csr_array:
    """Build a score matrix without entries.

    Args:
        num_tracks: number of tracks in the catalogue (N).

    Returns:
        An empty N × N matrix.
    """
    empty = np.empty(0, np.int64)
    return csr_array((np.empty(0, np.float32), (empty, empty)), shape=(num_tracks, num_tracks))


def _weights(listens: Listens) -> Float64[np.ndarray, "E"]:
    return np.nan_to_num(listens.played_ratio.astype(np.float64), nan=1.0)


def _recent(vocabulary: Vocabulary, half_life: float) -> Int64[np.ndarray, "N"]:
    """Place of each track in the order of its plays with half-life; plays without it decide ties. Higher is better."""
    sessions, session = np.unique(vocabulary.listens.session, return_inverse=True)
    weights = np.exp2((session - len(sessions) + 1) / half_life)
    return _places(np.bincount(vocabulary.listens.track, weights, len(vocabulary.catalog)), vocabulary.plays)


def _places(first: Float64[np.ndarray, "N"], second: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """Place of each track in the order of one number, and of another where that is equal; higher is better."""
    _, place = np.unique(np.stack([first, second], axis=1), axis=0, return_inverse=True)
    return place.reshape(-1).astype(np.int64)


def session_weights(listens: Listens, num_tracks: int) -> csr_array:
    """Compute the weight of each track in each session: the sum of its shares played, at most 1.

    Args:
        listens: the events.
        num_tracks: number of tracks in the catalogue (N).

    Returns:
        Weights of tracks (columns) in sessions (rows), in (0, 1]; tracks with weight 0 have no entry.
    """
    shape = int(listens.session.max(initial=-1)) + 1, num_tracks
    played = csr_array((_weights(listens), (listens.session, listens.track)), shape=shape)
    played.data = played.data.clip(max=1)
    played.eliminate_zeros()
    return played


def best_candidates(
    scores: Callable[[Int64[np.ndarray, "B"]], csr_array], num_kept: int, *, order: Int64[np.ndarray, "N"]
) -> csr_array:
    """The highest scores of each track, without its score with itself. Computed in blocks to limit memory.

    Args:
        scores: computes the scores of queries, B × N.
        num_kept: largest number of candidates for each track.
        order: decides between equal scores, the higher value first.

    Returns:
        Scores of the kept candidates (columns) of each query (rows), N × N.
    """
    num_tracks, blocks = len(order), []
    for rows in np.array_split(np.arange(num_tracks), -(-(num_tracks**2) // _MAX_SCORES)):
        table = scores(rows)
        line, column = np.repeat(np.arange(len(rows)), np.diff(table.indptr)), table.indices.astype(np.int64)
        other = column != rows[line]
        line, column, value = line[other], column[other], table.data[other].astype(np.float32)
        best = np.lexsort((-order[column], -value, line))
        kept = best[np.arange(len(line)) - np.searchsorted(line, line) < num_kept]
        blocks.append((value[kept], rows[line[kept]], column[kept]))
    value, row, column = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return csr_array((value, (row, column)), shape=(num_tracks, num_tracks))
