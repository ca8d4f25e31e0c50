"""The listener: the share of each recommended track that is played, and the end of the session.

All sessions of a *crowd* advance together. S sessions that have not ended, T tracks that each of them has played, L
earlier plays of its listener that are remembered, D width of the true embeddings. Source: the simulator of botify, the
service of 2023; comments give the formulas.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from scipy.special import expit

from segue.picking.places import uniform_place
from segue.simulation.world import World

Draws = Float64[np.ndarray, "S"]  # uniform in [0, 1)

WHOLE = 100
"""Share of a track played in full. Shares are integers, in hundredths, because listeners round to two decimals."""

REQUEST_MS = 1000
"""Milliseconds between the end of a track and the start of the next one."""

REST_MS = 60_000
"""Milliseconds between two sessions of a listener, at least."""


def durations(shares: UInt8[np.ndarray, "*n"], track_ms: int) -> Int64[np.ndarray, "*n"]:
    """How long tracks were played, with the time until the next one, in milliseconds.

    Args:
        shares: share played of each, in hundredths.
        track_ms: duration of a track that is played in full.
    """
    return shares.astype(np.int64) * track_ms // WHOLE + REQUEST_MS


class Past(NamedTuple):
    """What the listener of each session has played in earlier sessions, the newest first.

    Attributes:
        tracks: row of each track; -1 where there were fewer.
        shares: share of each that was played, in hundredths, 0 to 100.
        ages: how many days ago each was.
    """

    tracks: Int32[np.ndarray, "L S"]
    shares: UInt8[np.ndarray, "L S"]
    ages: Int32[np.ndarray, "L S"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Crowd:
    """Sessions in progress, all at the same step.

    Args:
        place: number of each session among those at the first step; does not change when other sessions end.
        users: row of each listener.
        started_ms: planned start, in milliseconds since 1970; 0 where there is no plan. A session starts later if the
            listener's previous one has not ended.
        taste: true embedding of the interest of each session.
        bias: `bias` of each listener.
        sharpness: `sharpness` of each listener.
        artist_discount: `artist_discount` of each listener.
        budget: units of boredom left before the session ends.
        tracks: rows of the tracks played, first to last.
        artists: rows of their artists.
        shares: share played of each track, in hundredths, 0 to 100.
        past_tracks: rows of the tracks of earlier sessions, newest first; see `Past`. Without memory, of no rows.
        past_shares: share played of each of them, in hundredths.
        past_ages: how many days ago each was.
    """

    place: Int64[np.ndarray, "S"]
    users: Int64[np.ndarray, "S"]
    started_ms: Int64[np.ndarray, "S"]
    taste: Float32[np.ndarray, "S D"]
    bias: Float64[np.ndarray, "S"]
    sharpness: Float64[np.ndarray, "S"]
    artist_discount: Float64[np.ndarray, "S"]
    budget: Int64[np.ndarray, "S"]
    tracks: Int32[np.ndarray, "T S"]
    artists: Int32[np.ndarray, "T S"]
    shares: UInt8[np.ndarray, "T S"]
    past_tracks: Int32[np.ndarray, "L S"]
    past_shares: UInt8[np.ndarray, "L S"]
    past_ages: Int32[np.ndarray, "L S"]

    def __len__(self) -> int:
        return len(self.place)

    @property
    def current(self) -> Int32[np.ndarray, "S"]:
        """Row of the last track of each session."""
        return np.asarray(self.tracks[-1])

    def where(self, chosen: Bool[np.ndarray, "S"]) -> "Crowd":
        """The sessions chosen by a mask.

        Args:
            chosen: whether each session is kept, shape `[S]`.
        """
        keep, columns = np.flatnonzero(chosen), vars(self).items()
        return Crowd(**{name: column.take(keep, axis=1 if name in _WIDE else 0) for name, column in columns})

    def part(self, start: int, stop: int) -> "Crowd":
        """A slice of the sessions, without a copy.

        Args:
            start: number of the first session.
            stop: number after the last session.
        """
        some, columns = slice(start, stop), vars(self).items()
        return Crowd(**{name: column[:, some] if name in _WIDE else column[some] for name, column in columns})


HISTORY = {"tracks": -1, "artists": -1, "shares": 0}
"""Columns of `Crowd` with a row for each track played, and their value for no track."""

PAST = ("past_tracks", "past_shares", "past_ages")
"""Columns of `Crowd` with a row for each play of an earlier session."""

_WIDE = {*HISTORY, *PAST}


def start(
    world: World,
    users: Int64[np.ndarray, "S"],
    interest_draws: Draws,
    first_draws: Draws,
    past: Past | None = None,
    started_ms: Int64[np.ndarray, "S"] | None = None,
) -> Crowd:
    """Start a session of each listener: draw an interest, and a first track near it that is played in full.

    Args:
        world: the world of the listeners.
        users: row of each listener, shape `[S]`.
        interest_draws: uniform in [0, 1), shape `[S]`; choose the interest.
        first_draws: uniform in [0, 1), shape `[S]`; choose one of its nearest tracks.
        past: earlier plays of each listener; None without memory.
        started_ms: planned start of each session; None without a plan.
    """
    people = world.listeners
    num_interests = (people.interests.take(users, axis=0) >= 0).sum(1)
    interests = people.interests[users, uniform_place(interest_draws, num_interests)]
    number_of, neighbours = world.interest_neighbours
    nothing = (np.empty((0, len(users)), kind) for kind in (np.int32, np.uint8, np.int32))
    first = neighbours[number_of.take(interests), uniform_place(first_draws, people.num_neighbours.take(users))]
    return Crowd(
        place=np.arange(len(users)),
        users=users,
        started_ms=np.zeros(len(users), np.int64) if started_ms is None else started_ms,
        taste=world.embeddings.take(interests, axis=0),
        bias=people.bias.take(users),
        sharpness=people.sharpness.take(users),
        artist_discount=people.artist_discount.take(users),
        budget=people.budget.take(users),
        tracks=first[None].astype(np.int32),
        artists=world.catalog.artist_of.take(first)[None].astype(np.int32),
        shares=np.full((1, len(users)), WHOLE, np.uint8),
        **dict(zip(PAST, nothing if past is None else past, strict=True)),
    )


def listen(
    world: World,
    crowd: Crowd,
    tracks: Int64[np.ndarray, "S"],
    boredom_draws: Draws,
    worth: Float64[np.ndarray, "S"] | None = None,
) -> Crowd:
    """Play one more track in each session.

    A session with budget 0 has ended; `crowd.where(crowd.budget > 0)` are the others.

    Args:
        world: the world of the listeners.
        crowd: the sessions.
        tracks: row of the recommended track of each session, shape `[S]`.
        boredom_draws: uniform in [0, 1), shape `[S]`; the budget decreases by 1 where a draw is below `1 − share`.
        worth: factor of each share; None for 1.

    Returns:
        The sessions after this track, ended ones included.
    """
    artists = world.catalog.artist_of.take(tracks).astype(np.int32)
    shares = np.einsum("sd,sd->s", world.embeddings.take(tracks, axis=0), crowd.taste) - crowd.bias  # ⟨e_t, e_i⟩ − b
    shares *= crowd.sharpness
    expit(shares, out=shares)  # sigmoid((⟨e_t, e_i⟩ − b)·s)
    shares *= WHOLE
    repeats = np.flatnonzero((crowd.artists == artists).any(0))  # sessions that have played this artist before
    num_played = (crowd.artists.take(repeats, axis=1) == artists[repeats]).sum(0)
    shares[repeats] *= crowd.artist_discount[repeats] ** num_played  # times 0.8^(previous tracks of the artist)
    if worth is not None:
        shares *= worth
    np.rint(shares, out=shares)
    # a track that was played before has share 0; its artist was played before too
    shares[repeats[(crowd.tracks.take(repeats, axis=1) == tracks[repeats]).any(0)]] = 0
    return replace(
        crowd,
        budget=crowd.budget - (boredom_draws < 1 - shares / WHOLE),
        tracks=np.concatenate([crowd.tracks, tracks[None].astype(np.int32)]),
        artists=np.concatenate([crowd.artists, artists[None]]),
        shares=np.concatenate([crowd.shares, shares[None].astype(np.uint8)]),
    )
