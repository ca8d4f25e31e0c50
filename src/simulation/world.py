"""The embedded world: a catalogue with true embeddings, and the listeners who live in it.

N tracks, A artists, D width of the true embeddings, U listeners, I interests of a listener, M neighbours.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int32, Int64

from src.catalog import Catalog
from src.errors import check_number
from src.simulation.names import artist_names, track_titles
from src.simulation.neighbours import nearest


@dataclass(frozen=True, eq=False, kw_only=True)
class Listeners:
    """The population.

    Args:
        user_ids: raw id of each listener.
        interests: rows of the tracks they love; -1 fills up a list that is shorter than the longest.
        bias: affinity at which they would play half of a track.
        sharpness: how fast the share grows around that.
        budget: how much boredom a session bears.
        artist_discount: what each earlier track of the artist in the session leaves of the share, in [0, 1].
        num_neighbours: the first track of a session is one of so many nearest to an interest.
    """

    user_ids: Int64[np.ndarray, "U"]
    interests: Int64[np.ndarray, "U I"]
    bias: Float64[np.ndarray, "U"]
    sharpness: Float64[np.ndarray, "U"]
    budget: Int64[np.ndarray, "U"]
    artist_discount: Float64[np.ndarray, "U"]
    num_neighbours: Int64[np.ndarray, "U"]

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """A catalogue with true embeddings, and its listeners.

    Args:
        catalog: the catalogue.
        top_tracks: rows of tracks, most played first.
        embeddings: true embedding of each track; the inner product of two is their affinity.
        listeners: the population.
    """

    catalog: Catalog
    top_tracks: Int64[np.ndarray, "P"]
    embeddings: Float32[np.ndarray, "N D"]
    listeners: Listeners

    def nearest_to_interests(
        self, interests: Int64[np.ndarray, "S"], places: Int64[np.ndarray, "S"]
    ) -> Int64[np.ndarray, "S"]:
        """Rows of the tracks nearest to an interest: place 0 is the nearest, mostly the interest itself."""
        line_of, neighbours = self.interest_neighbours
        return np.asarray(neighbours[line_of.take(interests), places])

    def digest(self) -> str:
        """Sixteen hex digits that change whenever the catalogue, an embedding or a listener does."""
        sha = hashlib.sha256("\n".join(self.catalog.artists).encode())
        for part in (self.catalog, self, self.listeners):
            for name in part.__dataclass_fields__:
                column = getattr(part, name)
                if isinstance(column, np.ndarray) and column.dtype != object:
                    sha.update(
                        f"{name} {column.dtype} {column.shape}".encode() + np.ascontiguousarray(column).tobytes()
                    )
        return sha.hexdigest()[:16]

    @cached_property
    def interest_neighbours(self) -> tuple[Int32[np.ndarray, "N"], Int64[np.ndarray, "I M"]]:
        """Line of each track that is an interest, and, line by line, the tracks nearest to it; may take seconds."""
        interests = np.unique(self.listeners.interests)
        interests = interests[interests >= 0]
        line_of = np.full(len(self.catalog), -1, np.int32)
        line_of[interests] = np.arange(len(interests))
        return line_of, nearest(self.embeddings, interests, int(self.listeners.num_neighbours.max()))


@dataclass(frozen=True, kw_only=True)
class Taste:
    """How true embeddings are made: `affinity(i, j) = reach · cos(i, j) + appeal_i · appeal_j`.

    The direction of a track is the sum of a part that its genre shares, one that its artist shares, and one of its own,
    each a Gaussian vector of `dim` numbers. Popular artists gather in genres: an artist is of a genre with weight
    `exp(mainstream · fame of the artist · a standard normal number of the genre)`. The appeal of a track is
    `base + charm · fame of the track`, so that who loves what nobody knows cares little for hits. Fame is
    log-popularity, standardised.

    Args:
        num_genres: how many genres.
        dim: width of the parts (D); one more number of each embedding is the appeal.
        base: appeal of a track of middling fame.
        charm: what a standard deviation of fame adds to it.
        reach: affinity of a track with itself, appeal apart.
        genre: weight of the genre's part.
        artist: weight of the artist's part.
        track: weight of the track's own part.
        mainstream: how strongly popular artists gather in the same genres; 0 for not at all.
    """

    num_genres: int
    dim: int
    base: int | float
    charm: int | float
    reach: int | float
    genre: int | float
    artist: int | float
    track: int | float
    mainstream: int | float

    def __post_init__(self) -> None:
        check_number("world.taste.num_genres", self.num_genres, whole=True, least=1, most=10_000)
        check_number("world.taste.dim", self.dim, whole=True, least=1, most=10_000)
        check_number("world.taste.base", self.base, least=-100, most=100)
        for name in ("charm", "reach", "genre", "artist", "mainstream"):
            check_number(f"world.taste.{name}", getattr(self, name), least=0, most=1000)
        check_number("world.taste.track", self.track, above=0, most=1000)

    def embed(
        self,
        artist_of: Int64[np.ndarray, "N"],
        *,
        artist_fame: Float64[np.ndarray, "A"],
        track_fame: Float64[np.ndarray, "N"],
        rng: np.random.Generator,
    ) -> Float32[np.ndarray, "N D1"]:
        """True embeddings of a catalogue, D1 = D + 1 numbers each."""
        weights = np.exp(self.mainstream * np.outer(artist_fame, rng.normal(size=self.num_genres)))
        shares = (weights / weights.sum(1, keepdims=True)).cumsum(1)
        genre_of = (shares[:, :-1] < rng.random((len(artist_fame), 1))).sum(1)
        sizes = (self.num_genres, len(artist_fame), len(artist_of))
        genres, artists, tracks = (rng.normal(size=(size, self.dim)) for size in sizes)
        directions = (self.genre * genres[genre_of] + self.artist * artists)[artist_of] + self.track * tracks
        directions *= self.reach**0.5 / np.linalg.norm(directions, axis=1, keepdims=True)
        appeal = self.base + self.charm * track_fame
        return np.column_stack([directions, appeal]).astype(np.float32)


def standardised(values: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Mean 0 and standard deviation 1; all 0 where they do not differ."""
    centred = values - values.mean()
    return np.asarray(centred / (float(values.std()) or 1.0))


def generate(
    *,
    seed: int,
    num_tracks: int,
    num_listeners: int,
    num_interests: int,
    artist_popularity: int | float,
    track_popularity: int | float,
    taste: Taste,
) -> World:
    """A world out of a seed: catalogue and population distributed as the published ones.

    Args:
        seed: decides everything.
        num_tracks: tracks in the catalogue (N), at least 100.
        num_listeners: listeners (U).
        num_interests: interests of each listener (I).
        artist_popularity: standard deviation of the logarithm of an artist's popularity.
        track_popularity: standard deviation of what a track adds to that.
        taste: how the true embeddings are made.

    Raises:
        InputError: a number is out of its bounds.
    """
    check_number("world.seed", seed, whole=True, least=0)
    check_number("world.num_tracks", num_tracks, whole=True, least=100, most=5_000_000)
    check_number("world.num_listeners", num_listeners, whole=True, least=1, most=5_000_000)
    check_number("world.num_interests", num_interests, whole=True, least=1, most=100)
    check_number("world.artist_popularity", artist_popularity, least=0, most=10)
    check_number("world.track_popularity", track_popularity, least=0, most=10)
    sizes_rng, names_rng, popularity_rng, taste_rng, listeners_rng = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(5)
    )
    artist_of = tracks_of_artists(num_tracks, sizes_rng)
    num_artists = int(artist_of.max()) + 1
    frame = pd.DataFrame({"track": np.arange(num_tracks), "title": track_titles(num_tracks, names_rng)})
    frame["artist"] = np.array(artist_names(num_artists, names_rng), object)[artist_of]
    artist_fame = artist_popularity * popularity_rng.normal(size=num_artists)
    track_fame = artist_fame[artist_of] + popularity_rng.normal(scale=track_popularity, size=num_tracks)
    popularity = np.exp(track_fame - track_fame.max())
    catalog = Catalog.from_frame(frame, "the generated catalogue")
    return World(
        catalog=catalog,
        top_tracks=np.argsort(-popularity, kind="stable"),
        embeddings=taste.embed(
            artist_of, artist_fame=standardised(artist_fame), track_fame=standardised(track_fame), rng=taste_rng
        ),
        listeners=_population(num_listeners, num_interests, popularity / popularity.sum(), listeners_rng),
    )


def _population(
    num_listeners: int, num_interests: int, popularity: Float64[np.ndarray, "N"], rng: np.random.Generator
) -> Listeners:
    """Interests in proportion to popularity, bias and sharpness as published."""
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
"""What a published listener has unless their record says otherwise."""

_SIZES = {0.0: 1, 0.5: 1, 0.75: 3, 0.9: 11, 0.95: 21, 0.99: 41, 1.0: 80}
"""Published catalogue: share of the artists, and how many tracks the largest of them has."""

_TRACKS_PER_ARTIST = 50_000 / 11_464


def tracks_of_artists(num_tracks: int, rng: np.random.Generator) -> Int64[np.ndarray, "N"]:
    """Row of the artist of each track; the tracks of an artist lie together, artists are as large as published."""
    num_artists = max(1, round(num_tracks / _TRACKS_PER_ARTIST))
    ranks = (np.arange(num_artists) + 0.5) / num_artists
    sizes = np.exp(np.interp(ranks, list(_SIZES), np.log(list(_SIZES.values())))).round().astype(np.int64)
    while missing := num_tracks - int(sizes.sum()):  # rounding left a few too many, or too few
        several = np.flatnonzero(sizes > 1)
        chosen = rng.choice(several, size=min(abs(missing), len(several)), replace=False)
        sizes[chosen] += np.sign(missing)
    return np.repeat(np.arange(num_artists), rng.permutation(sizes))
