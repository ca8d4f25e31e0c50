"""The listener: what somebody plays of what is recommended to them, and when they have had enough.

All sessions of a *crowd* advance together. S sessions that go on, T tracks that each has played so far, D width of the
true embeddings. Source: the predecessor's simulator; each formula stands beside its line.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from scipy.special import expit

from src.simulation.world import World

WHOLE = 100
"""Shares are counted in hundredths, since listeners round them to two decimals."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Crowd:
    """Sessions that are going on, all at the same step.

    Args:
        place: which session of the crowd's first step this is; stays when others end.
        users: rows of the listeners.
        taste: embedding of the interest that the session is about.
        bias: of the listener.
        sharpness: of the listener.
        artist_discount: of the listener.
        budget: boredom that the session still bears.
        tracks: rows of the tracks played, first to last.
        artists: rows of their artists.
        shares: share played of each, in hundredths.
    """

    place: Int64[np.ndarray, "S"]
    users: Int64[np.ndarray, "S"]
    taste: Float32[np.ndarray, "S D"]
    bias: Float64[np.ndarray, "S"]
    sharpness: Float64[np.ndarray, "S"]
    artist_discount: Float64[np.ndarray, "S"]
    budget: Int64[np.ndarray, "S"]
    tracks: Int32[np.ndarray, "T S"]
    artists: Int32[np.ndarray, "T S"]
    shares: UInt8[np.ndarray, "T S"]

    def __len__(self) -> int:
        return len(self.place)

    @property
    def current(self) -> Int32[np.ndarray, "S"]:
        """Rows of the tracks played last."""
        return np.asarray(self.tracks[-1])

    def where(self, chosen: Bool[np.ndarray, "S"]) -> "Crowd":
        """Some of the sessions."""
        keep = np.flatnonzero(chosen)
        return Crowd(
            **{name: column.take(keep, axis=1 if name in HISTORY else 0) for name, column in vars(self).items()}
        )

    def part(self, start: int, stop: int) -> "Crowd":
        """Sessions side by side, not copied."""
        some = slice(start, stop)
        return Crowd(
            **{name: column[:, some] if name in HISTORY else column[some] for name, column in vars(self).items()}
        )


HISTORY = {"tracks": -1, "artists": -1, "shares": 0}
"""Columns with a line for each track played, and what stands where nothing was."""


def start(
    world: World,
    users: Int64[np.ndarray, "S"],
    interest_draws: Float64[np.ndarray, "S"],
    first_draws: Float64[np.ndarray, "S"],
) -> Crowd:
    """Begin a session of each user: draw an interest, and a first track near it, which is heard in full.

    Args:
        world: where they live.
        users: rows of the listeners.
        interest_draws: uniform in [0, 1), decide which interest.
        first_draws: uniform in [0, 1), decide which of its nearest tracks.
    """
    people = world.listeners
    num_interests = (people.interests.take(users, axis=0) >= 0).sum(1)
    interests = people.interests[users, (interest_draws * num_interests).astype(np.int64)]
    first = world.nearest_to_interests(interests, (first_draws * people.num_neighbours.take(users)).astype(np.int64))
    return Crowd(
        place=np.arange(len(users)),
        users=users,
        taste=world.embeddings.take(interests, axis=0),
        bias=people.bias.take(users),
        sharpness=people.sharpness.take(users),
        artist_discount=people.artist_discount.take(users),
        budget=people.budget.take(users),
        tracks=first[None].astype(np.int32),
        artists=world.catalog.artist_of.take(first)[None].astype(np.int32),
        shares=np.full((1, len(users)), WHOLE, np.uint8),
    )


def affinity(world: World, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float32[np.ndarray, "S"]:
    """⟨e_track, e_interest⟩ of one track for each session."""
    return np.asarray(np.einsum("sd,sd->s", world.embeddings.take(tracks, axis=0), crowd.taste))


def listen(
    world: World, crowd: Crowd, tracks: Int64[np.ndarray, "S"], boredom_draws: Float64[np.ndarray, "S"]
) -> Crowd:
    """Play each session one more track.

    Sessions whose budget comes to 0 have heard their last; `crowd.where(crowd.budget > 0)` goes on without them.

    Args:
        world: where they live.
        crowd: the sessions.
        tracks: rows of the tracks recommended.
        boredom_draws: uniform in [0, 1); the budget falls where one is below `1 − share`.
    """
    artists = world.catalog.artist_of.take(tracks).astype(np.int32)
    shares = affinity(world, crowd, tracks) - crowd.bias
    shares *= crowd.sharpness
    expit(shares, out=shares)  # sigmoid((⟨e_t, e_i⟩ − b)·s)
    shares *= WHOLE
    again = np.flatnonzero((crowd.artists == artists).any(0))  # who has played the artist before
    heard = (crowd.artists.take(again, axis=1) == artists[again]).sum(0)
    shares[again] *= crowd.artist_discount[again] ** heard
    np.rint(shares, out=shares)
    # only a known artist's track can have been played before
    shares[again[(crowd.tracks.take(again, axis=1) == tracks[again]).any(0)]] = 0
    return replace(
        crowd,
        budget=crowd.budget - (boredom_draws < 1 - shares / WHOLE),
        tracks=np.concatenate([crowd.tracks, tracks[None].astype(np.int32)]),
        artists=np.concatenate([crowd.artists, artists[None]]),
        shares=np.concatenate([crowd.shares, shares[None].astype(np.uint8)]),
    )
