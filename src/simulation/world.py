"""The embedded world: a catalogue with true embeddings, and its listeners.

N tracks, P tracks with a known rank, A artists, D width of the true embeddings, U listeners, I interests of a listener,
M neighbours of an interest.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, Shaped

from segue.catalog import Catalog, keys_of, most_played
from segue.errors import InputError
from segue.settings import Setting, settings
from segue.simulation.generated_attributes import TrackAttributes
from segue.simulation.names import artist_names, track_titles
from segue.simulation.neighbours import nearest

_OF_SHARE: dict[str, Any] = {"least": 0, "most": 1}
_OF_SIZE: dict[str, Any] = {"least": 0, "most": 1000}
_OF_WIDTH: dict[str, Any] = {"least": 1, "most": 10_000}

Seed = Annotated[int, Setting("of the random numbers; the same seed gives the same world", least=0)]
NumListeners = Annotated[int, Setting("number of listeners (U)", least=1, most=5_000_000)]
NumInterests = Annotated[int, Setting("number of interests of each listener (I)", least=1, most=100)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Listeners:
    """The listeners of a world.

    Args:
        user_ids: id of each listener, `int64` or texts.
        interests: rows of the tracks that each listener loves; -1 fills the rest of a row.
        bias: affinity at which the share played is 0.5.
        sharpness: slope of the share around the bias, at least 0.
        budget: units of boredom until a session ends, at least 1.
        artist_discount: factor of the share for each previous track of the same artist in the session, in [0, 1].
        num_neighbours: number of tracks nearest to an interest from which the first track of a session is drawn.
    """

    user_ids: Shaped[np.ndarray, "U"]
    interests: Int64[np.ndarray, "U I"]
    bias: Float64[np.ndarray, "U"]
    sharpness: Float64[np.ndarray, "U"]
    budget: Int64[np.ndarray, "U"]
    artist_discount: Float64[np.ndarray, "U"]
    num_neighbours: Int64[np.ndarray, "U"]

    def __len__(self) -> int:
        return len(self.user_ids)

    def rows_of(self, keys: Int64[np.ndarray, "u"]) -> Int64[np.ndarray, "u"]:
        """Row of the listener of each key; -1 where there is none."""
        own = keys_of(self.user_ids)
        by_key = np.argsort(own)
        rows = by_key[own.searchsorted(keys, sorter=by_key).clip(max=len(own) - 1)]
        return np.where(own[rows] == keys, rows, -1)


@dataclass(frozen=True, kw_only=True)
class TasteModel:
    """The run whose vectors are the true embeddings of a world.

    Args:
        name: as it was given, such as `run:<id>`.
        lists: digest of its recommendations, see `file_digest`; an arm with the same lists is this run.
    """

    name: str
    lists: str

    @property
    def caution(self) -> str:
        """What a world of these tastes shows, and what it cannot show."""
        return (
            f"listeners of this world have the tastes of {self.name}: it shows whether ids, lists, policies and a "
            "service work, and compares policies of one other model; it cannot show that a model is better, because "
            "it favours models like this one"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """A catalogue with true embeddings, and its listeners.

    Args:
        catalog: the tracks and their artists.
        top_tracks: rows of tracks, most played first.
        embeddings: true embedding of each track; the inner product of two embeddings is their affinity.
        listeners: the listeners.
        attributes: what `tracks.json` also says of the tracks: by name, a JSON value for each. No listener knows it.
        model: the run whose vectors the true embeddings are; None where they were drawn or are of a file.
    """

    catalog: Catalog
    top_tracks: Int64[np.ndarray, "P"]
    embeddings: Float32[np.ndarray, "N D"]
    listeners: Listeners
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    model: TasteModel | None = None

    def digest(self) -> str:
        """A digest of what decides how listeners behave: the catalogue, the embeddings and the listeners.

        Returns:
            Sixteen hexadecimal digits.
        """
        ids = (self.catalog.track_ids, self.listeners.user_ids)
        texts = chain(self.catalog.artists, *(one for one in ids if one.dtype == object))
        sha = hashlib.sha256("\n".join(texts).encode())
        for part in (self.catalog, self, self.listeners):
            for name in part.__dataclass_fields__:
                column = getattr(part, name)
                if isinstance(column, np.ndarray) and column.dtype != object:
                    sha.update(f"{name} {column.dtype} {column.shape}".encode())
                    sha.update(np.ascontiguousarray(column).tobytes())
        return sha.hexdigest()[:16]

    @cached_property
    def interest_neighbours(self) -> tuple[Int32[np.ndarray, "N"], Int64[np.ndarray, "I M"]]:
        """The tracks nearest to each interest; computed once, which may take seconds.

        Returns:
            The number of each track among the interests, shape `[N]`, -1 for other tracks; and the rows of the nearest
            tracks by this number, best first.
        """
        interests = np.unique(self.listeners.interests[self.listeners.interests >= 0])
        number_of = np.full(len(self.catalog), -1, np.int32)
        number_of[interests] = np.arange(len(interests))
        return number_of, nearest(self.embeddings, interests, int(self.listeners.num_neighbours.max()))


@settings("world.taste")
@dataclass(frozen=True, kw_only=True)
class Taste:
    """Parameters of the generated true embeddings; the affinity of two tracks is the inner product of theirs.

    An embedding is a length times a direction. The direction is the sum of three Gaussian vectors: the *style* of the
    artist, in few dimensions that all artists share; a vector of the artist; and a vector of the track. Popular artists
    have similar styles: the mean of the first number of a style grows with the fame of the artist. They have longer
    embeddings too, therefore their tracks are loved or refused more decidedly. Fame is the standardised logarithm of
    popularity. In order of fame, artists come in pairs with opposite styles: the few most popular ones have in common
    what `mainstream` gives them, and not what a seed happens to draw. Tracks of one artist have a mean cosine of
    `1 - track`.
    """

    length: Annotated[float, Setting("of embeddings at average fame; squared, the affinity with itself", **_OF_SIZE)]
    length_by_fame: Annotated[float, Setting("increase of log(length) by one standard deviation of fame", **_OF_SHARE)]
    length_spread: Annotated[float, Setting("standard deviation of the rest of log(length) of artists", **_OF_SHARE)]
    style: Annotated[float, Setting("share of the style in the square of the length", **_OF_SHARE)]
    track: Annotated[float, Setting("share of the track's own vector; the rest is the artist's", above=0, most=1)]
    mainstream: Annotated[float, Setting("shift of styles by one standard deviation of fame, in theirs", **_OF_SIZE)]
    style_dim: Annotated[int, Setting("dimensions of the style", **_OF_WIDTH)]
    own_dim: Annotated[int, Setting("dimensions of the vectors of artists and tracks", **_OF_WIDTH)]

    def __post_init__(self) -> None:
        if self.style + self.track > 1:
            both = f"world.taste.style={self.style} and world.taste.track={self.track}"
            raise InputError(f"{both} are shares of one whole, and add up to more than 1; make one of them smaller")

    def embed(
        self, artist_of: Int64[np.ndarray, "N"], *, artist_fame: Float64[np.ndarray, "A"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "N D"]:
        """Generate the true embeddings of a catalogue.

        Args:
            artist_of: row of the artist of each track, shape `[N]`.
            artist_fame: standardised fame of each artist, shape `[A]`.
            rng: draws the vectors.

        Returns:
            Shape `[N, D]`; the first `style_dim` columns are the style.
        """
        styles = rng.normal(size=(len(artist_fame), self.style_dim))
        by_fame = np.argsort(-artist_fame, kind="stable")[: len(artist_fame) // 2 * 2]
        styles[by_fame[1::2]] = -styles[by_fame[::2]]
        artists = rng.normal(size=(len(artist_fame), self.own_dim))
        tracks = rng.normal(size=(len(artist_of), self.own_dim))
        styles[:, 0] += self.mainstream * artist_fame
        styles *= (self.style / self.style_dim) ** 0.5
        owns = self._scale(1 - self.style - self.track) * artists[artist_of] + self._scale(self.track) * tracks
        directions = np.column_stack([styles[artist_of], owns])
        log_lengths = self.length_by_fame * artist_fame + rng.normal(scale=self.length_spread, size=len(artist_fame))
        directions *= ((self.length * np.exp(log_lengths)[artist_of]) / np.linalg.norm(directions, axis=1))[:, None]
        return directions.astype(np.float32)

    def _scale(self, share: float) -> float:
        """Standard deviation of the numbers of a vector whose squared length is a share of that of the direction."""
        return math.sqrt(max(share, 0.0) / self.own_dim)


def standardised(values: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Scale values to mean 0 and standard deviation 1.

    Args:
        values: shape `[n]`.

    Returns:
        Shape `[n]`; all 0 if the values are equal.
    """
    return np.asarray((values - values.mean()) / (float(values.std()) or 1.0))


@settings("world")
def generate(
    *,
    seed: Seed = 0,
    num_tracks: Annotated[int, Setting("number of tracks (N)", least=100, most=5_000_000)],
    num_listeners: NumListeners,
    num_interests: NumInterests = 3,
    artist_popularity: Annotated[float, Setting("spread of log(popularity) of artists", least=0, most=10)] = 0.95,
    track_popularity: Annotated[float, Setting("spread of what a track adds to it", least=0, most=10)] = 0.9,
    taste: Taste,
    attributes: TrackAttributes | None = None,
) -> World:
    """Generate a world. Its distributions are those of the catalogue and the listeners of botify (2023).

    Args:
        taste: parameters of the true embeddings.
        attributes: what is known of the tracks. They have random numbers of their own and change nothing else.

    Raises:
        InputError: a setting is out of range.
    """
    *seeds, attributes_seed = np.random.SeedSequence(seed).spawn(6)
    sizes_rng, names_rng, popularity_rng, taste_rng, listeners_rng = map(np.random.default_rng, seeds)
    artist_of = tracks_of_artists(num_tracks, sizes_rng)
    num_artists = int(artist_of.max()) + 1
    titles, names = track_titles(num_tracks, names_rng), artist_names(num_artists, names_rng)
    artist_fame = artist_popularity * popularity_rng.normal(size=num_artists)
    track_fame = artist_fame[artist_of] + popularity_rng.normal(scale=track_popularity, size=num_tracks)
    popularity = np.exp(track_fame - track_fame.max())
    embeddings = taste.embed(artist_of, artist_fame=standardised(artist_fame), rng=taste_rng)
    artists = [names[row] for row in artist_of.tolist()]
    said = attributes.describe(embeddings, style_dim=taste.style_dim, seed=attributes_seed) if attributes else {}
    return World(
        catalog=Catalog.from_columns(range(num_tracks), titles, artists, source="the generated catalogue"),
        top_tracks=most_played(popularity),
        embeddings=embeddings,
        listeners=population(num_listeners, num_interests, popularity / popularity.sum(), listeners_rng),
        attributes=said,
    )


def population(
    num_listeners: int, num_interests: int, popularity: Float64[np.ndarray, "N"], rng: np.random.Generator
) -> Listeners:
    """Draw listeners. Bias and sharpness are distributed as in botify (2023).

    Args:
        num_listeners: number of listeners (U).
        num_interests: number of interests of each listener (I).
        popularity: probability of each track to be an interest; the sum is 1.
        rng: draws them.
    """
    sharpness = rng.uniform(1, 2, num_listeners)
    return Listeners(
        user_ids=np.arange(num_listeners),
        interests=rng.choice(len(popularity), size=(num_listeners, num_interests), p=popularity),
        bias=rng.uniform(0, 10, num_listeners),
        sharpness=np.where(rng.random(num_listeners) < 0.5, sharpness, 1 / sharpness),
        budget=np.full(num_listeners, SESSION_BUDGET),
        artist_discount=np.full(num_listeners, ARTIST_DISCOUNT),
        num_neighbours=np.full(num_listeners, NUM_NEIGHBOURS),
    )


SESSION_BUDGET, ARTIST_DISCOUNT, NUM_NEIGHBOURS = 5, 0.8, 10
"""Values of a listener whose record in `users.json` does not have them."""

# Quantiles of the number of tracks per artist in the catalogue of botify (2023).
_SIZES = {0.0: 1, 0.5: 1, 0.75: 3, 0.9: 11, 0.95: 21, 0.99: 41, 1.0: 80}

_TRACKS_PER_ARTIST = 50_000 / 11_464


def tracks_of_artists(num_tracks: int, rng: np.random.Generator) -> Int64[np.ndarray, "N"]:
    """Assign tracks to artists. The number of tracks per artist is distributed as in the catalogue of botify (2023).

    Args:
        num_tracks: number of tracks (N).
        rng: draws the sizes.

    Returns:
        Row of the artist of each track, shape `[N]`; the tracks of an artist are adjacent.
    """
    num_artists = max(1, round(num_tracks / _TRACKS_PER_ARTIST))
    ranks = (np.arange(num_artists) + 0.5) / num_artists
    sizes = np.exp(np.interp(ranks, list(_SIZES), np.log(list(_SIZES.values())))).round().astype(np.int64)
    while missing := num_tracks - int(sizes.sum()):  # rounding gave too many or too few
        adjustable = np.flatnonzero(sizes > 1)
        chosen = rng.choice(adjustable, size=min(abs(missing), len(adjustable)), replace=False)
        sizes[chosen] += np.sign(missing)
    return np.repeat(np.arange(num_artists), rng.permutation(sizes))
