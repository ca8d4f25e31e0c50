"""Histories: what a listener has heard in a session before a track, and in earlier sessions.

E events, S sessions, Q queries, H tracks of a history, U sessions that are asked for, P of their earlier plays.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64


class _BySession(NamedTuple):
    """Of each session its events and its times; and its place among all sessions in the order of their listeners."""

    start: Int64[np.ndarray, "S"]
    length: Int64[np.ndarray, "S"]
    began: Int64[np.ndarray, "S"]
    ended: Int64[np.ndarray, "S"]
    order: Int64[np.ndarray, "S"]
    place: Int64[np.ndarray, "S"]
    first: Int64[np.ndarray, "S"]  # by place: that of the first session of the listener
    before: Int64[np.ndarray, "S+1"]  # by place: number of events of all sessions before it


@dataclass(frozen=True, eq=False, kw_only=True)
class Timeline:
    """When events were played, and by whom: what a listener has heard in earlier sessions.

    Args:
        session: number of the session of each event, ascending; sessions are in the order in which they began.
        timestamp: of each event, in milliseconds since 1970.
        listener: number of the listener of each session.
    """

    session: Int64[np.ndarray, "E"]
    timestamp: Int64[np.ndarray, "E"]
    listener: Int64[np.ndarray, "S"]

    @cached_property
    def has_past(self) -> bool:
        """Whether a listener has two sessions."""
        return len(np.unique(self.listener)) < len(self.listener)

    @cached_property
    def _index(self) -> _BySession:
        start = np.flatnonzero(np.diff(self.session, prepend=-1))
        length = np.diff(np.append(start, len(self.session)))
        order = np.argsort(self.listener, kind="stable")
        owner, place = self.listener[order], np.empty_like(order)
        place[order] = np.arange(len(order))
        is_first = np.ones(len(order), bool)
        is_first[1:] = owner[1:] != owner[:-1]
        return _BySession(
            start=start,
            length=length,
            began=self.timestamp[start],
            ended=self.timestamp[start + length - 1],
            order=order,
            place=place,
            first=np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0)),
            before=np.append(0, length[order].cumsum()),
        )

    def earlier(
        self, sessions: Int64[np.ndarray, "U"], most: int
    ) -> tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]:
        """Look up what the listeners of sessions have heard before: in sessions that had ended when these began.

        Args:
            sessions: numbers of sessions.
            most: number of plays of a session's listener, at most: the newest.

        Returns:
            The place in `sessions` of each play, ascending, and the number of its event.
        """
        by = self._index
        place = by.place[sessions]
        low = np.maximum(by.before[by.first[place]], by.before[place] - most)  # the first event that is looked at
        first = np.searchsorted(by.before, low, "right") - 1
        owner, nth = _counted_out(place - first)
        other = by.order[first[owner] + nth]
        skipped = np.where(nth == 0, (low - by.before[first])[owner], 0)
        had_ended = by.ended[other] < by.began[sessions[owner]]
        owner, other, skipped = owner[had_ended], other[had_ended], skipped[had_ended]
        of, nth = _counted_out(by.length[other] - skipped)
        return owner[of], (by.start[other] + skipped)[of] + nth


def _counted_out(num: Int64[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    """For some things of each of n: which of the n each belongs to, and its place 0, 1, … among those of it."""
    owner = np.repeat(np.arange(len(num)), num)
    return owner, np.arange(len(owner)) - np.repeat(num.cumsum() - num, num)


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
        timeline: when the events were played, and by whom; None where that is unknown.
    """

    tracks: Int64[np.ndarray, "E"]
    played_ratio: Float32[np.ndarray, "E"]
    last: Int64[np.ndarray, "Q"]
    length: Int64[np.ndarray, "Q"]
    previous: Int64[np.ndarray, "Q"]
    timeline: Timeline | None = None

    @classmethod
    def of_tracks(cls, rows: Int64[np.ndarray, "Q"]) -> "Histories":
        """Build histories of one track each, whose share is unknown."""
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
        """
        last, length, previous = (column[chosen] for column in (self.last, self.length, self.previous))
        return replace(self, last=last, length=length, previous=previous)

    def part(self, first: int, end: int) -> "Histories":
        """Select neighbouring queries.

        Args:
            first: place of the first one.
            end: place after the last one.
        """
        return self.where(slice(first, end))

    def in_catalogue(self, rows: Int64[np.ndarray, "N"]) -> tuple["Histories", Bool[np.ndarray, "Q"]]:
        """Leave out the tracks that another catalogue lacks.

        Args:
            rows: row of each track in the other catalogue; -1 where it lacks the track.

        Returns:
            The histories that have a track left, with its rows, and True for each query that has one of them.
        """
        is_known = rows[self.tracks] >= 0
        num_known, first = is_known.cumsum(), self.last - self.length + 1
        last, length = num_known[self.last] - 1, num_known[self.last] - num_known[first] + is_known[first]
        tracks, previous, timeline = rows[self.tracks[is_known]], rows[self.previous], self.timeline
        if timeline is not None:
            remaining, session = np.unique(timeline.session[is_known], return_inverse=True)
            timeline = Timeline(
                session=session, timestamp=timeline.timestamp[is_known], listener=timeline.listener[remaining]
            )
        found = length > 0
        last, length, previous = last[found], length[found], previous[found]
        others = Histories(
            tracks=tracks,
            played_ratio=self.played_ratio[is_known],
            last=last,
            length=length,
            previous=np.where(previous < 0, tracks[last], previous),
            timeline=timeline,
        )
        return others, found

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
