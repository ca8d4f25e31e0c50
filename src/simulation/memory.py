"""What listeners have played before: the last plays of each, over sessions, days and runs.

A recommender that looks at earlier plays, or a habit that depends on them, says how many it needs (L). U listeners, S
listeners with new plays, E new plays.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped, UInt8

from segue.simulation.listener import Past

PLAY = np.dtype([("track", np.int32), ("day", np.int32), ("share", np.uint8)], align=True)
"""A play: row of the track, -1 for no play; number of the day, from 1; share that was played, in hundredths."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Memory:
    """The last plays of listeners, the newest first.

    Args:
        plays: of each listener, as `PLAY`.
        has_left: whether each listener has left for good.
    """

    plays: Shaped[np.ndarray, "U L"]
    has_left: Bool[np.ndarray, "U"]

    @classmethod
    def empty(cls, num_listeners: int, length: int) -> "Memory":
        """Of listeners (U) who have played nothing; the last plays (L) of each will be remembered."""
        plays = np.full((num_listeners, length), np.array((-1, 0, 0), PLAY))
        return cls(plays=plays, has_left=np.zeros(num_listeners, bool))

    def of(self, listeners: Int64[np.ndarray, "u"]) -> "Memory":
        """A copy of that of some listeners."""
        return Memory(plays=self.plays[listeners], has_left=self.has_left[listeners])

    def put(self, listeners: Int64[np.ndarray, "u"], changed: "Memory") -> None:
        """Replace that of some listeners, in place."""
        self.plays[listeners], self.has_left[listeners] = changed.plays, changed.has_left

    def past(self, listeners: Int64[np.ndarray, "S"], day: int) -> Past:
        """What listeners have played before."""
        plays = self.plays[listeners].T
        return Past(*(np.ascontiguousarray(one) for one in (plays["track"], plays["share"], day - plays["day"])))

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
        if not len(tracks) or not self.plays.size:
            return
        added = np.empty(len(tracks), PLAY)
        added["track"], added["share"], added["day"] = tracks, shares, day
        places = np.arange(self.plays.shape[1])
        newest, older = lengths.cumsum()[:, None] - 1 - places, places - lengths[:, None]
        kept = np.take_along_axis(self.plays[listeners], older.clip(min=0), axis=1)
        self.plays[listeners] = np.where(older < 0, added[newest.clip(min=0)], kept)
