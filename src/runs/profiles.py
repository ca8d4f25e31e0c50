"""Profiles: what each listener has heard, as entries of tracks that old plays leave slowly.

S listeners, P entries of the longest profile, E entries or events of all listeners, L listeners of a file. An *entry*
is one record of `ENTRY`; a profile is some of them, in any order.
"""

import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from segue.atomic import write_whole
from segue.catalog import Catalog, changes
from segue.errors import InputError
from segue.runs.catalog_files import UNREADABLE

FILE = "profiles.npz"
"""Name of the file that a run with `context=listener` writes beside its `recommendations.jsonl`."""
ENTRY = np.dtype(
    [("track", "<i8"), ("last_ms", "<i8"), ("plays", "<f4"), ("shares", "<f4"), ("best", "<f4"), ("hour", "<f4", (2,))],
    align=True,
)
"""What a profile has of a track:

- `track`: its key (`catalog.key_of`), or its row where a function says so; entries whose `plays` are 0 are empty.
- `last_ms`: time of the last play, in milliseconds since 1970.
- `plays`: number of plays, of which one counts half after `HALF_LIFE_MS`, as of `last_ms`.
- `shares`: the same sum of the shares played. A share that is unknown counts as 1.
- `best`: the largest share.
- `hour`: the same sum of the cosine and the sine of the hour of the day (UTC) as an angle.
"""
DAY_MS = 86_400_000
HALF_LIFE_MS = 30 * DAY_MS
"""Time after which a play counts half."""
LOVED = 0.8
"""Share from which on a listener knows a track: it was played so far at least once."""
MOST_TRACKS = 500
"""Entries of a profile, at most; those whose last play is oldest are forgotten first."""
_AS_NUMBERS = struct.Struct("<qq5f4x")  # an entry
_ANGLE = 2 * math.pi / DAY_MS  # of a millisecond of a day
_NUMBERS = ("plays", "shares", "best", "hour")
_ROUNDED = np.float32(1.001)  # sums of 32 bits


def remaining(elapsed_ms: Any) -> Any:
    """What is left of a play after a time: ½ after `HALF_LIFE_MS`. A clock that goes back takes nothing away."""
    return np.exp2(np.maximum(elapsed_ms, 0) * np.float32(-1 / HALF_LIFE_MS))


def hour_of(time_ms: Any) -> Any:
    """Cosine and sine of the hour of the day (UTC) of milliseconds since 1970 as an angle, in a last axis."""
    angle = np.asarray(time_ms) % DAY_MS * _ANGLE
    found = np.empty((*angle.shape, 2), np.float32)
    found[..., 0], found[..., 1] = np.cos(angle), np.sin(angle)
    return found


def days_to_move(newest_ms: int, midnight_ms: int) -> int:
    """By how many days profiles are moved back, so that they end a minute before the first day of a simulation.

    Args:
        newest_ms: time of the last play, in milliseconds since 1970.
        midnight_ms: start of the first day.
    """
    return max(0, -(-(newest_ms + 60_000 - midnight_ms) // DAY_MS))


def add_play(profile: np.ndarray, track: int, share: float, now_ms: int) -> int:
    """Add a play to the profile of a listener, in place. A track without an entry takes an empty one, or the oldest.

    Args:
        profile: entries of one listener; their number is the largest number of tracks.
        track: its key.
        share: share of it that was played, in [0, 1]; NaN where unknown.
        now_ms: time of the play, in milliseconds since 1970.

    Returns:
        The place of its entry.
    """
    share = 1.0 if share != share else share  # NaN; np.isnan takes longer than all of the numbers below
    # this is done for each request: numbers of Python and few arrays are faster than records
    plays_of, numbers = profile["plays"], profile.view(np.uint8).data
    place = next((at for at in (profile["track"] == track).nonzero()[0].tolist() if plays_of[at] > 0), None)
    if place is None:
        place = int(plays_of.argmin())
        if plays_of[place] > 0:  # none is empty
            place = int(profile["last_ms"].argmin())
        last_ms, plays, shares, best, cosine, sine = now_ms, 0.0, 0.0, 0.0, 0.0, 0.0
    else:
        _, last_ms, plays, shares, best, cosine, sine = _AS_NUMBERS.unpack_from(numbers, place * ENTRY.itemsize)
    now_ms = max(now_ms, last_ms)
    left, angle = 2.0 ** ((last_ms - now_ms) / HALF_LIFE_MS), now_ms % DAY_MS * _ANGLE
    sums = plays * left + 1, shares * left + share, max(best, share)
    hour = cosine * left + math.cos(angle), sine * left + math.sin(angle)
    _AS_NUMBERS.pack_into(numbers, place * ENTRY.itemsize, track, now_ms, *sums, *hour)
    return place


def entries_of_events(
    listener: Int64[np.ndarray, "E"],
    track: Int64[np.ndarray, "E"],
    share: Float32[np.ndarray, "E"],
    time_ms: Int64[np.ndarray, "E"],
    *,
    most: int = MOST_TRACKS,
) -> tuple[Int64[np.ndarray, "e"], np.ndarray]:
    """The profiles that plays make: of at most `most` tracks the same as `add_play` of each, in the order of time.

    Of more tracks the newest are kept, with all their plays; `add_play` begins a forgotten track from nothing.

    Args:
        listener: number of the listener of each play.
        track: key or row of its track.
        share: share of it that was played, in [0, 1]; NaN where unknown.
        time_ms: its time, in milliseconds since 1970.
        most: entries of a listener, at most.

    Returns:
        The listener of each entry, ascending, and the entries; those of a listener in the order of their last plays,
        the newest first.
    """
    plays = np.zeros(len(track), ENTRY)
    plays["track"], plays["last_ms"], plays["plays"], plays["hour"] = track, time_ms, 1, hour_of(time_ms)
    plays["shares"] = plays["best"] = np.where(np.isnan(share), np.float32(1), share)
    return joined(listener, plays, most=most)


def joined(
    listener: Int64[np.ndarray, "E"], entries: np.ndarray, *, most: int = MOST_TRACKS
) -> tuple[Int64[np.ndarray, "e"], np.ndarray]:
    """One entry of each track of a listener, for all that there are of it.

    Args:
        entries: none of them is empty.
        most: entries of a listener, at most.

    Returns:
        As `entries_of_events`.
    """
    order = np.lexsort((entries["last_ms"], entries["track"], listener))
    listener, entries = listener[order], entries[order]
    track, time_ms = entries["track"], entries["last_ms"]
    is_first = changes(listener, track)
    starts = np.flatnonzero(is_first)
    if not len(starts):
        return listener, np.zeros(0, ENTRY)
    last = time_ms[np.append(starts[1:], len(order)) - 1]
    left = remaining(last[is_first.cumsum() - 1] - time_ms)
    sums = np.zeros(len(starts), ENTRY)
    sums["track"], sums["last_ms"] = track[starts], last
    for name in ("plays", "shares"):
        sums[name] = np.add.reduceat(left * entries[name], starts)
    sums["hour"] = np.add.reduceat(left[:, None] * entries["hour"], starts)
    sums["best"] = np.maximum.reduceat(entries["best"], starts)
    own = listener[starts]
    order = np.lexsort((-last, own))
    own, sums = own[order], sums[order]
    kept = np.arange(len(own)) - np.searchsorted(own, own) < most
    return own[kept], sums[kept]


def padded(owner: Int64[np.ndarray, "E"], entries: np.ndarray, num: int) -> np.ndarray:
    """Profiles as an array of one line for each listener, which empty entries fill up.

    Args:
        owner: place of the listener of each entry, ascending, in 0..num-1.

    Returns:
        Records of `ENTRY`, S × P.
    """
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    lines = np.zeros((num, int(place.max(initial=-1)) + 1), ENTRY)
    lines[owner, place] = entries
    return lines


@dataclass(frozen=True, eq=False, kw_only=True)
class Profiles:
    """The profiles of many listeners.

    Args:
        listeners: key of each listener, ascending.
        ends: place after the last entry of each.
        entries: their entries, those of a listener one after another; `track` is a key, or a row (`in_rows`).
    """

    listeners: Int64[np.ndarray, "L"]
    ends: Int64[np.ndarray, "L"]
    entries: np.ndarray

    @classmethod
    def of(cls, owner: Int64[np.ndarray, "E"], entries: np.ndarray) -> "Profiles":
        """Build it from what `entries_of_events` returned.

        Args:
            owner: key of the listener of each entry, ascending.
            entries: the entries, with the keys of tracks.
        """
        listeners, first = np.unique(owner, return_index=True)
        return cls(listeners=listeners, ends=np.append(first[1:], len(owner))[: len(first)], entries=entries)

    def in_rows(self, catalog: Catalog) -> "Profiles":
        """The same with rows in the place of the keys of tracks; -1 for one that is not in the catalogue."""
        entries = self.entries.copy()
        entries["track"] = catalog.rows_of(entries["track"])
        return replace(self, entries=entries)

    def of_listeners(self, keys: Int64[np.ndarray, "S"]) -> np.ndarray:
        """The profiles of some listeners, S × P.

        Args:
            keys: of the listeners; one without a profile has empty entries only.
        """
        found = np.searchsorted(self.listeners, keys)
        is_known = np.append(self.listeners, 0)[found] == keys if len(self.listeners) else np.zeros(len(keys), bool)
        is_known &= found < len(self.listeners)
        place = np.where(is_known, found, 0)
        ends = np.append(0, self.ends)
        length = np.where(is_known, ends[np.minimum(place + 1, len(self.ends))] - ends[place], 0)
        owner = np.arange(len(keys)).repeat(length)
        nth = np.arange(len(owner)) - (length.cumsum() - length).repeat(length)
        return padded(owner, self.entries[ends[place].repeat(length) + nth], len(keys))

    def num_silent(self, before_ms: int) -> int:
        """How many listeners have played nothing since a time."""
        num_played = np.append(0, (self.entries["last_ms"] > before_ms).cumsum())[np.append(0, self.ends)]
        return int((np.diff(num_played) == 0).sum())

    def write(self, path: Path) -> None:
        """Write a file, which appears under its name only when it is complete.

        Args:
            path: the file; its name ends in `.npz`.
        """
        columns: dict[str, Any] = {name: self.entries[name] for name in ENTRY.names or ()}
        arrays = {"listeners": self.listeners, "ends": self.ends, **columns}
        write_whole(path, lambda partial: np.savez_compressed(partial, allow_pickle=False, **arrays))

    @classmethod
    def read(cls, path: Path) -> "Profiles":
        """Read a file.

        Raises:
            InputError: the file cannot be read, or is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                listeners, ends = file["listeners"], file["ends"]
                columns = {name: file[name] for name in ENTRY.names or ()}
        except UNREADABLE as error:
            raise _damaged(path, " ".join(str(error).split())) from None
        num = int(ends[-1]) if ends.ndim == 1 and ends.dtype == np.int64 and len(ends) else 0
        for name, column in {"listeners": listeners, "ends": ends, **columns}.items():
            kind = ENTRY[name] if name in columns else np.dtype(np.int64)
            shape = (num, *kind.shape) if name in columns else (len(listeners) if listeners.ndim else 0,)
            if (column.dtype, column.shape) != (kind.base, shape):
                found = f"{column.dtype} of {column.shape}"
                raise _damaged(path, f"{name} must be {kind.base} of the shape {shape}, and is {found}")
        entries = np.zeros(num, ENTRY)
        for name, column in columns.items():
            entries[name] = column
        plays, shares, best = (entries[name] for name in ("plays", "shares", "best"))
        is_right = {
            "listeners must increase": (np.diff(listeners) > 0).all(),
            "ends must increase": (np.diff(ends, prepend=0) > 0).all(),
            "all numbers must be finite": all(np.isfinite(entries[name]).all() for name in _NUMBERS),
            "plays must be above 0": (plays > 0).all(),
            "shares must be between 0 and plays": ((shares >= 0) & (shares <= plays * _ROUNDED)).all(),
            "best must be between 0 and 1": ((best >= 0) & (best <= _ROUNDED)).all(),
        }
        if wrong := [rule for rule, holds in is_right.items() if not holds]:
            raise _damaged(path, wrong[0])
        return cls(listeners=listeners, ends=ends, entries=entries)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged: {why}; train again, or use context=session")
