"""Baselines that only count: popularity, sequential rules, item neighbours, neighbours by an attribute, mean shares.

N tracks in the catalogue, E events, B queries in a block, U tracks or artists. The weight of an event is the share of
the track that was played, or 1 where the share is unknown.
"""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Real
from scipy.sparse import csr_array

from segue.attributes import Values
from segue.catalog import Listens, Vocabulary, places_of
from segue.errors import InputError
from segue.models.repeats import shares_of, tracks_of
from segue.models.retrieval.sparse import no_scores
from segue.runs.recommendations import best_of_lines
from segue.settings import Setting, settings

ArtistWeight = Annotated[
    float, Setting("added to each track by the artist of the query, or of a track of the session, weighted", least=0)
]
Window = Annotated[int, Setting("largest distance in a session; 1 is the next track alone", least=1)]

Weigh = Callable[[Int64[torch.Tensor, "E"], Float32[torch.Tensor, "E"]], Float32[torch.Tensor, "E"]]
"""From ages of tracks and the shares that were played of them to their weights, as `Context.weights` has them."""
NUM_NEIGHBOURS = 500
"""Best candidates that are kept for each track."""
LEAST_PLAYED = 0.5
"""Events with a smaller share played are dropped where a model has no weights of events."""
SHARES_WINDOW = 10
"""Largest distance of two tracks that have a mean share."""
_MAX_SCORES = 2**25  # number of scores in memory while the best candidates are selected


@dataclass(eq=False)
class Counter:
    """A baseline: it computes scores from training sessions. The fields of a subclass are its settings.

    Args:
        vocabulary: the catalogue and what the training data shows of it.
        artist_weight: added to the score of every track by the artist of the query, at least 0.
    """

    vocabulary: Vocabulary
    _: KW_ONLY
    artist_weight: ArtistWeight = 0.0

    def __post_init__(self) -> None:
        self.num_tracks, self.artist_of = len(self.vocabulary.catalog), self.vocabulary.catalog.artist_of

    @property
    def order(self) -> Real[np.ndarray, "N"]:
        """Decides between equal scores, the higher value first; by default the popularity of each track."""
        return self.vocabulary.popularity

    @property
    def trend(self) -> Float32[np.ndarray, "N"]:
        """Multiplies the scores of each candidate; see `Vocabulary.trend`."""
        return self.vocabulary.trend

    def count(self, listens: Listens) -> csr_array:  # noqa: ARG002 - by default nothing is counted
        """Compute the scores of all pairs of tracks; by default there are none, and the order remains.

        Args:
            listens: the events of the training sessions.

        Returns:
            Scores of candidates (columns) for queries (rows), N × N; positive where there is one.
        """
        return no_scores(self.num_tracks)

    def scores(
        self, counts: csr_array, rows: Int64[np.ndarray, "B H"], shares: Float32[np.ndarray, "B H"], weigh: Weigh
    ) -> csr_array:
        """Score the candidates of a block of queries: those after each track of a session, each divided by their sum.

        Args:
            counts: what `count` returned.
            rows: rows of the tracks heard, newest first; -1 where a session is shorter.
            shares: share of each that was played; NaN where unknown.
            weigh: from ages and shares to the weights of tracks; of one track nothing is weighted or divided.

        Returns:
            Scores, B × N; positive where there is one. They include those by artists.
        """
        line, age = (rows >= 0).nonzero()
        distinct, place = np.unique(rows[line, age], return_inverse=True)
        one_each = np.ones(len(distinct), np.float32), distinct, np.arange(len(distinct) + 1)
        after = csr_array(counts[distinct])
        after = self.with_artists(after, csr_array(one_each, shape=after.shape))
        if rows.shape[1] == 1:
            return csr_array(after[place])
        weights = weigh(torch.from_numpy(age), torch.from_numpy(shares[line, age])).numpy()
        return csr_array(csr_array((weights, (line, place)), shape=(len(rows), len(distinct))) @ shares_of(after))

    def with_artists(self, scores: csr_array, heard: csr_array) -> csr_array:
        """Scores, B × N, and `artist_weight` times the weight of each track heard for all tracks by its artist.

        Args:
            scores: of all tracks.
            heard: weights of the tracks of each query, B × N.
        """
        if not self.artist_weight:
            return scores
        tracks = tracks_of(self.artist_of)
        of_artists = csr_array(csr_array(heard @ tracks.T.tocsr()) @ tracks)
        of_artists.sort_indices()  # sums of scores are then the same to the last digit
        return csr_array(scores + self.artist_weight * of_artists)


@settings("model")
@dataclass(kw_only=True, eq=False)
class Popular(Counter):
    """Popularity: no track has a score, therefore all tracks are ranked by their plays.

    With `days` these are the plays of the last days of training, which do not age, and of equal ones all plays decide.
    Plays are counted and shares played are not. Plays also decide between equal scores of every other model. With an
    `artist_weight` above 0, the tracks of the artist of the query come first.
    """

    days: Annotated[
        float | Literal["auto"] | None,
        Setting("last days of training whose plays count; null: all; auto: validation chooses", above=0),
    ] = None

    @property
    def order(self) -> Real[np.ndarray, "N"]:
        """The plays.

        Raises:
            InputError: the data have no last days.
        """
        if self.days is None:
            return self.vocabulary.popularity
        if (calendar := self.vocabulary.calendar) is None:
            raise InputError(
                f"model.days={self.days} counts days before the end of training, and this source has no clock, or is "
                "not split by time; use model=popular model.days=null, or give datamodule.columns.timestamp and "
                "datamodule.split=time"
            )
        days = calendar.newest_days if self.days == "auto" else self.days
        return replace(self.vocabulary, calendar=replace(calendar, newest_days=days)).recent


@settings("model")
@dataclass(kw_only=True, eq=False)
class ArtistPopular(Counter):
    """Popularity of the artist: tracks in the order of the plays of all tracks of their artist, then of their own.

    A new track of a popular artist comes before the tracks of less popular ones, whatever the query. With an
    `artist_weight` above 0, the tracks of the artist of the query come first.
    """

    @property
    def order(self) -> Real[np.ndarray, "N"]:
        """The place of each track by the plays of its artist, then by its own."""
        plays = self.vocabulary.plays_now
        return places_of(np.bincount(self.artist_of, plays)[self.artist_of], plays)


@settings("model")
@dataclass(kw_only=True, eq=False)
class AttributeNeighbours(Counter):
    """The tracks with the most similar values of an attribute, such as tags, whatever was played together.

    The score is the cosine of two tracks, each a vector with `log(N / tracks that have the value)` for each of its
    values. Plays decide between equal scores.
    """

    attribute: Annotated[str, Setting("name in datamodule.attributes of one of kind value or values")] = "tags"

    def count(self, listens: Listens) -> csr_array:  # noqa: ARG002 - attributes do not depend on what was played
        """Find the best candidates of each track.

        Raises:
            InputError: the data have no such attribute.
        """
        given = self.vocabulary.catalog.attributes
        names = [name for name, one in given.items() if isinstance(one, Values)]
        if not isinstance(values := given.get(self.attribute), Values):
            raise InputError(
                f"model.attribute: the data have no attribute {self.attribute!r} with values, they have "
                f"{', '.join(names) or 'none'}; give datamodule.attributes, or another model.attribute"
            )
        rarity = np.log(self.num_tracks / np.maximum(values.tracks_of_values(), 1))
        track = np.repeat(np.arange(self.num_tracks), values.counts)
        weight = rarity[values.values]
        weight /= np.maximum(np.sqrt(np.bincount(track, weight**2, self.num_tracks))[track], 1e-12)
        table = csr_array((weight, (track, values.values)), shape=(self.num_tracks, len(values.names)))
        by_value = table.T.tocsr()
        return best_candidates(lambda rows: csr_array(table[rows] @ by_value), NUM_NEIGHBOURS, order=self.order)


@settings("model")
@dataclass(kw_only=True, eq=False)
class Rules(Counter):
    """Sequential rules: how often `following` came after `previous` within a few places of a session.

    The weight of one occurrence is the product of the weights of the two events and of a factor that falls with their
    distance. If the first track was skipped, the track after it says little. `window=1` is a first-order Markov chain.

    Source:
        Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018, section 3.1 (SR);
        Kamehkhosh, Jannach and Ludewig, A comparison of frequent pattern techniques and a deep learning method for
        session-based recommendation, RecTemp 2017.
    """

    window: Window = 10
    decay: Annotated[
        float | Literal["inverse"],
        Setting("weight of a distance d", above=0, most=1, hint="it is inverse for 1/d, or r for r^(d-1)"),
    ] = "inverse"
    reverse_weight: Annotated[
        float, Setting('weight of "a, b" for the rule b → a; 1 makes rules symmetric', least=0, most=1)
    ] = 0.0

    def count(self, listens: Listens) -> csr_array:
        """Sum the weights of the occurrences of each rule previous (row) → following (column)."""
        weight = _weights(listens)

        def value(first: np.ndarray, second: np.ndarray, distance: int) -> np.ndarray:
            fades = 1 / distance if self.decay == "inverse" else self.decay ** (distance - 1)
            return np.asarray(weight[first] * weight[second] * fades)

        total = _sums_of_pairs(listens.track, listens.session, self.window, value, self.num_tracks)
        if self.reverse_weight:
            total = total + self.reverse_weight * total.T.tocsr()
        return total.astype(np.float32)


@settings("model")
@dataclass(kw_only=True, eq=False)
class Neighbours(Counter):
    """Item-based nearest neighbours: how many sessions two tracks share, at any place in the session.

    The score is `Σ x_q·x_c·length^(-length_power) / ((‖q‖·‖c‖)^norm_power + shrinkage)`, summed over the sessions. Here
    x is the weight of a track in a session, lengths are Euclidean, and norms are those of `x·length^(-length_power/2)`.
    With `norm_power=1` this is item-kNN by cosine.

    Session-based kNN (SKNN, VSKNN) is `norm_power=0 length_power=1`, because here a query is one track. Its neighbours
    are the sessions that contain the query, with the cosine 1/√(number of tracks), and each session votes for its
    tracks. There is no track before the query, therefore the decay of VSKNN has no effect. All sessions vote, not only
    the nearest or the latest.

    Source:
        Sarwar et al., Item-based collaborative filtering, WWW 2001;
        Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018, section 3.2.
    """

    shrinkage: Annotated[float, Setting("makes scores of few sessions smaller; 0: the bare cosine", least=0)] = 20.0
    norm_power: Annotated[
        float, Setting("how popularity lowers the score: 1 is the cosine, 0 bare co-occurrence", least=0, most=1)
    ] = 1.0
    length_power: Annotated[
        float, Setting("how length lowers the weight of a session; 0: all have the same", least=0, most=1)
    ] = 0.0

    def count(self, listens: Listens) -> csr_array:
        """Find the best candidates of each track."""
        played = session_weights(listens, self.num_tracks)
        session = np.repeat(np.arange(played.shape[0]), np.diff(played.indptr))
        played.data *= np.sqrt(np.bincount(session, played.data**2))[session] ** (-self.length_power / 2)
        norms = np.sqrt(np.bincount(played.indices, played.data**2, self.num_tracks))
        by_track = played.T.tocsr()

        def similar(rows: Int64[np.ndarray, "B"]) -> csr_array:
            together = csr_array(by_track[rows] @ played)
            both = np.repeat(norms[rows], np.diff(together.indptr)) * norms[together.indices]
            together.data /= both**self.norm_power + self.shrinkage
            return together

        return best_candidates(similar, NUM_NEIGHBOURS, order=self.order)


@settings("model")
@dataclass(kw_only=True, eq=False)
class ShareMeans(Counter):
    """Mean share played of a candidate after a query, minus the mean of all pairs, shrunk where there are few events.

    `score(q, c) = Σ w·(share of c − mean share) / (Σ w + shrinkage)`, summed over the events of c with q at most
    SHARES_WINDOW places before them in the session; w is the share played of q, and the mean is of all these events
    with the same weights. Dividing by the number of events makes it independent of how often a recommender played c.
    Only scores above 0 are kept. With `level=artist` both tracks are replaced by their artists: all tracks of an artist
    then have the same score, and plays decide among them.
    """

    level: Annotated[Literal["track", "artist"], Setting("whether pairs of tracks have means, or of artists")] = "track"
    shrinkage: Annotated[float, Setting("mean events added to each pair; near 0 rare tracks rank first", above=0)] = (
        20.0
    )

    def count(self, listens: Listens) -> csr_array:
        """Compute the scores of a candidate (column) after a query (row). Events without a share are left out.

        Raises:
            InputError: the source does not report shares.
        """
        if self.vocabulary.mean_played_ratio is None:
            raise InputError("model=share_means compares shares played, but this source has none; use model=rules")
        known = listens.where(~np.isnan(listens.played_ratio))
        unit_of = np.arange(self.num_tracks) if self.level == "track" else self.artist_of
        share, num_units = known.played_ratio.astype(np.float64), int(unit_of.max()) + 1
        weights, shares = (
            _sums_of_pairs(unit_of[known.track], known.session, SHARES_WINDOW, value, num_units)
            for value in (lambda first, *_: share[first], lambda first, second, _: share[first] * share[second])
        )
        mean = float(shares.sum()) / max(float(weights.sum()), 1e-9)
        shrunk = csr_array((1 / (weights.data + self.shrinkage), weights.indices, weights.indptr), shape=weights.shape)
        above = csr_array((shares - mean * weights) * shrunk).astype(np.float32)
        above.data = above.data.clip(min=0)
        above.eliminate_zeros()
        tracks = tracks_of(unit_of)
        return best_candidates(lambda rows: csr_array(above[unit_of[rows]] @ tracks), NUM_NEIGHBOURS, order=self.order)


def _weights(listens: Listens) -> Float64[np.ndarray, "E"]:
    return np.nan_to_num(listens.played_ratio.astype(np.float64), nan=1.0)


def played_enough(listens: Listens) -> Listens:
    """The events whose share played is not below LEAST_PLAYED."""
    return listens.where(~(listens.played_ratio < LEAST_PLAYED))


def at_distances(session: Int64[np.ndarray, "E"], window: int) -> Iterator[tuple[int, Int64[np.ndarray, "_"]]]:
    """Each distance in a session up to `window` that occurs, and the events that have one so far behind them.

    Args:
        session: session of each event, ascending.
        window: largest distance.
    """
    for distance in range(1, window + 1):
        [first] = (session[distance:] == session[:-distance]).nonzero()
        if not len(first):
            return
        yield distance, first


def _sums_of_pairs(
    unit: Int64[np.ndarray, "E"],
    session: Int64[np.ndarray, "E"],
    window: int,
    value: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
    num_units: int,
) -> csr_array:
    """Sum the values of two events and their distance for each pair of the units of both, U × U."""
    total = no_scores(num_units)
    for distance, first in at_distances(session, window):
        second = first + distance
        total = total + csr_array((value(first, second, distance), (unit[first], unit[second])), shape=total.shape)
    return total


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
    scores: Callable[[Int64[np.ndarray, "B"]], csr_array],
    num_kept: int,
    *,
    order: Int64[np.ndarray, "N"],
    with_itself: bool = False,
) -> csr_array:
    """The highest scores of each track. Computed in blocks to limit memory.

    Args:
        scores: computes the scores of queries, B × N.
        num_kept: largest number of candidates for each track.
        order: decides between equal scores, the higher value first.
        with_itself: whether the score of a track with itself is one of them.

    Returns:
        Scores of the kept candidates (columns) of each query (rows), N × N.
    """
    num_tracks, blocks = len(order), []
    for rows in np.array_split(np.arange(num_tracks), -(-(num_tracks**2) // _MAX_SCORES)):
        table = scores(rows)
        line, column = np.repeat(np.arange(len(rows)), np.diff(table.indptr)), table.indices.astype(np.int64)
        other = with_itself | (column != rows[line])
        line, column, value = line[other], column[other], table.data[other].astype(np.float32)
        kept = best_of_lines(line, num_kept, value, order[column])
        blocks.append((value[kept], rows[line[kept]], column[kept]))
    value, row, column = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return csr_array((value, (row, column)), shape=(num_tracks, num_tracks))
