"""Pairs: which tracks of a session are paired.

P pairs, S sessions, E events, L listeners.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from segue.catalog import Listens
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.sessions import Sessions


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Pairs of tracks, sorted by the start of their session and by their place in the session.

    Args:
        session: number of the session of each pair, in 0..S-1, in the order in which sessions started.
        listener: number of the listener, in 0..L-1; each playlist has a listener of its own.
        previous: row of the previous track.
        following: row of the next track.
        played_ratio: share of `following` that was played, in [0, 1]; NaN where the source does not report it.
        last: number of the event that is the newest before `following`; see `newest_before`.
        length: number of events of the session up to `last`, with it. With `split=pair` these events may occur in pairs
            of other splits, because what was heard before a track is known when it is chosen.
    """

    session: Int64[np.ndarray, "P"]
    listener: Int64[np.ndarray, "P"]
    previous: Int64[np.ndarray, "P"]
    following: Int64[np.ndarray, "P"]
    played_ratio: Float32[np.ndarray, "P"]
    last: Int64[np.ndarray, "P"]
    length: Int64[np.ndarray, "P"]

    def __len__(self) -> int:
        return len(self.previous)

    def where(self, chosen: Bool[np.ndarray, "P"] | Int64[np.ndarray, "kept"] | slice) -> "Pairs":
        """Select pairs.

        Args:
            chosen: True for each pair to keep, or their places in ascending order; neighbours are not copied.
        """
        return Pairs(**{name: column[chosen] for name, column in vars(self).items()})

    def as_listens(self) -> Listens:
        """Convert each pair to a session of two events.

        Returns:
            The events. The share played of the previous track is unknown.
        """
        return Listens(
            session=np.repeat(np.arange(len(self)), 2),
            track=np.stack([self.previous, self.following], 1).ravel(),
            played_ratio=np.stack([np.full(len(self), np.nan, np.float32), self.played_ratio], 1).ravel(),
        )


_AT_ONCE = 1 << 22  # elements of a column that are looked at together, so that columns may be larger than memory


def slices(length: int) -> list[slice]:
    """Neighbouring parts of a long column, in order."""
    return [slice(first, first + _AT_ONCE) for first in range(0, length, _AT_ONCE)]


def known_shares(pairs: Pairs, num_listeners: int) -> tuple[Int64[np.ndarray, "L"], float | None]:
    """Count the pairs with a known share.

    Args:
        pairs: the pairs.
        num_listeners: number of listeners (L).

    Returns:
        Number of such pairs of each listener, and the mean of their shares; None where there are none.
    """
    counts, total = np.zeros(num_listeners, np.int64), 0.0
    for part in slices(len(pairs)):
        share = pairs.played_ratio[part]
        known = ~np.isnan(share)
        counts += np.bincount(pairs.listener[part][known], minlength=num_listeners)
        total += float(share[known].sum(dtype=np.float64))
    num = int(counts.sum())
    return counts, total / num if num else None


def make_pairs(sessions: Sessions, rules: PairRules) -> Pairs:
    """Pair the tracks of each session."""
    listens = sessions.listens
    previous, following = paired_events(sessions.place, rules)
    session = listens.session[following]
    last = newest_before(following, previous, rules.pairing)
    return Pairs(
        session=session,
        listener=sessions.listener[session],
        previous=listens.track[previous],
        following=listens.track[following],
        played_ratio=listens.played_ratio[following],
        last=last,
        length=sessions.place[last] + 1,
    )


def paired_events(place: Int64[np.ndarray, "E"], rules: PairRules) -> tuple[Int64[np.ndarray, "P"], ...]:
    """Numbers of the previous and of the next event of each pair.

    Args:
        place: place 0, 1, … of each event in its session.
        rules: `pairing` and `window`.
    """
    if rules.pairing != "window":
        following = np.flatnonzero(place)
        return following - (place[following] if rules.pairing == "first" else 1), following
    num = rules.num_pairs(place)
    following = np.repeat(np.arange(len(place)), num)
    return following - np.repeat(num.cumsum(), num) + np.arange(len(following)), following


def newest_before(
    following: Int[np.ndarray, "P"], previous: Int[np.ndarray, "P"], pairing: str
) -> Int[np.ndarray, "P"]:
    """The newest event that is heard before the next track: that of `previous` with `pairing=window`, otherwise the one
    directly before.

    Args:
        following: number of the event of the next track, or its place in the session.
        previous: the same of the previous track.
        pairing: one of `PAIRINGS`.
    """
    return previous if pairing == "window" else following - 1
