"""What listeners have played before: the last plays of each, over sessions, days and runs.

A recommender that looks at earlier plays, or a habit that depends on them, says how many it needs (L). U listeners, S
listeners with new plays, E new plays.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from segue.simulation.listener import Past


@dataclass(frozen=True, eq=False, kw_only=True)
class Memory:
    """The last plays of listeners, the newest first; -1 where there were fewer.

    Args:
        tracks: row of each track.
        shares: share of each that was played, in hundredths, 0 to 100.
        days: number of the day of each, from 1.
        has_left: whether each listener has left for good.
    """

    tracks: Int32[np.ndarray, "U L"]
    shares: UInt8[np.ndarray, "U L"]
    days: Int32[np.ndarray, "U L"]
    has_left: Bool[np.ndarray, "U"]

    @classmethod
    def empty(cls, num_listeners: int, length: int) -> "Memory":
        """Of listeners (U) who have played nothing; the last plays (L) of each will be remembered."""
        shape = num_listeners, length
        return cls(
            tracks=np.full(shape, -1, np.int32),
            shares=np.zeros(shape, np.uint8),
            days=np.zeros(shape, np.int32),
            has_left=np.zeros(num_listeners, bool),
        )

    def of(self, listeners: Int64[np.ndarray, "u"]) -> "Memory":
        """A copy of that of some listeners."""
        return Memory(**{name: column[listeners] for name, column in vars(self).items()})

    def put(self, listeners: Int64[np.ndarray, "u"], changed: "Memory") -> None:
        """Replace that of some listeners, in place."""
        for name, column in vars(self).items():
            column[listeners] = getattr(changed, name)

    def past(self, listeners: Int64[np.ndarray, "S"], day: int) -> Past:
        """What listeners have played before."""
        return Past(self.tracks[listeners].T, self.shares[listeners].T, day - self.days[listeners].T)

    def add(
        self,
        listeners: Int64[np.ndarray, "S"],
        lengths: Int64[np.ndarray, "S"],
        tracks: Int32[np.ndarray, "E"],
        shares: UInt8[np.ndarray, "E"],
        day: int,
    ) -> None:
        """Add plays of a day, in place.

        Args:
            listeners: rows of the listeners, each once.
            tracks: row of each track, those of a listener one after another, in order of time.
            shares: share of each that was played, in hundredths.
        """
        places, days = np.arange(self.tracks.shape[1]), np.full(len(tracks), day, np.int32)
        newest = (lengths.cumsum()[:, None] - 1 - places).clip(min=0)
        is_new, older = places < lengths[:, None], (places - lengths[:, None]).clip(min=0)
        for column, added in ((self.tracks, tracks), (self.shares, shares), (self.days, days)):
            kept = np.take_along_axis(column[listeners], older, axis=1)
            column[listeners] = np.where(is_new, added[newest], kept) if len(added) else kept
