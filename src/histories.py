"""Histories: what a listener has heard in a session before a track.

E events, Q queries, H tracks of a history.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64


@dataclass(frozen=True, eq=False, kw_only=True)
class Histories:
    """The histories of queries. The events exist once: a history is a place in them and a length.

    Args:
        tracks: row of the track of each event; the events of a session follow one another.
        played_ratio: share of it that was played, in [0, 1]; NaN where unknown.
        last: number of the event that is the newest of each history.
        length: number of events of each history, at least 1; they are the events before `last`, and `last` itself.
        previous: row of the track that each query is paired with. It is the newest track, except with `pairing=first`,
            where it is the first track of the session. It is never a candidate.
    """

    tracks: Int64[np.ndarray, "E"]
    played_ratio: Float32[np.ndarray, "E"]
    last: Int64[np.ndarray, "Q"]
    length: Int64[np.ndarray, "Q"]
    previous: Int64[np.ndarray, "Q"]

    @classmethod
    def of_tracks(cls, rows: Int64[np.ndarray, "Q"]) -> "Histories":
        """Build histories of one track each, whose share is unknown.

        Args:
            rows: rows of the tracks.

        Returns:
            A history for each row.
        """
        return cls(
            tracks=rows,
            played_ratio=np.full(len(rows), np.nan, np.float32),
            last=np.arange(len(rows)),
            length=np.ones(len(rows), np.int64),
            previous=rows,
        )

    def __len__(self) -> int:
        return len(self.last)

    def where(self, chosen: Bool[np.ndarray, "Q"] | Int64[np.ndarray, "P"] | slice) -> "Histories":
        """Select queries.

        Args:
            chosen: True for each query to keep, or their places.

        Returns:
            Their histories in the same order.
        """
        last, length, previous = (column[chosen] for column in (self.last, self.length, self.previous))
        return replace(self, last=last, length=length, previous=previous)

    def part(self, first: int, end: int) -> "Histories":
        """Select neighbouring queries.

        Args:
            first: place of the first one.
            end: place after the last one.

        Returns:
            Their histories.
        """
        return self.where(slice(first, end))

    def newest(self, max_length: int) -> tuple[Int64[np.ndarray, "Q H"], Float32[np.ndarray, "Q H"]]:
        """Look up the newest tracks of each history.

        Args:
            max_length: largest number of tracks (H), at least 0.

        Returns:
            Rows of the tracks, newest first, and the shares played; -1 and NaN where a history is shorter.
        """
        age = np.arange(max_length)
        is_there = age < self.length[:, None]
        event = np.where(is_there, self.last[:, None] - age, 0)
        rows, shares = self.tracks[event], self.played_ratio[event]
        return np.where(is_there, rows, -1), np.where(is_there, shares, np.float32(np.nan))

    def newest_rows(self, most: int) -> Int64[np.ndarray, "Q H"]:
        """Look up the newest tracks of each history, no more of them than the longest one has, each track once.

        Args:
            most: largest number of tracks, at least 0.

        Returns:
            Rows of the tracks, newest first; -1 where a history is shorter, and where the track was heard later too.
        """
        rows = self.newest(min(most, int(self.length.max(initial=0))))[0]
        line, age = (rows >= 0).nonzero()
        found, once = rows[line, age], np.full_like(rows, -1)
        _, first = np.unique(line * (found.max(initial=0) + 1) + found, return_index=True)
        once[line[first], age[first]] = found[first]
        return once
