"""Event logs of a simulated day in the format of the service: one JSON object per line, sorted by time.

V sessions, E listens, U listeners, N tracks.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd  # noqa: F401 - pyarrow imports it at its first array, while the first day is written
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int, Int64, Integer, Shaped, UInt8

from segue.atomic import write_whole
from segue.runs.profiles import DAY_MS
from segue.simulation.listener import REST_MS, WHOLE, durations
from segue.simulation.traffic import Day, Plays, planned_ms
from segue.simulation.world import World

_CHUNK = 100_000  # events that are encoded by a thread
_CHUNKS_TOGETHER = 2  # as many are encoded, by a thread each, while as many are written


@dataclass(frozen=True, eq=False, kw_only=True)
class Events:
    """Events (E) sorted by time.

    Args:
        timestamps: end of each track, in milliseconds since 1970, UTC.
        users: row of each listener.
        tracks: row of each track.
        shares: share played of each track, in hundredths, 0 to 100.
        following: row of the track recommended next; -1 at the end of a session.
        arms: number of the arm of each event.
        propensities: probability with which the arm recommends `following`; NaN where it is not known, and at the end
            of a session.
    """

    timestamps: Int64[np.ndarray, "E"]
    users: Int64[np.ndarray, "E"]
    tracks: Int[np.ndarray, "E"]
    shares: UInt8[np.ndarray, "E"]
    following: Int[np.ndarray, "E"]
    arms: Int64[np.ndarray, "E"]
    propensities: Float64[np.ndarray, "E"]

    def next_midnight(self, midnight: int) -> int:
        """Start of the next day. It is later than 24 hours if the sessions of the day take longer.

        Args:
            midnight: start of the day, in milliseconds since 1970.

        Returns:
            A multiple of 24 hours after `midnight`, in milliseconds since 1970.
        """
        busy_ms = int(self.timestamps.max(initial=midnight)) + REST_MS - midnight
        return midnight - (-busy_ms // DAY_MS) * DAY_MS

    @classmethod
    def of(cls, plays: Plays, *, plan: Day, midnight: int, track_ms: int) -> "Events":
        """Compute the times of the events of a day.

        A session starts at its planned time, or after the previous session of the same listener and a rest. The time of
        an event is the end of a track, when the next one is requested.

        Args:
            midnight: start of the day, in milliseconds since 1970.
            track_ms: duration of a track that is played in full, in milliseconds.

        Returns:
            The events of all sessions, sorted by time.
        """
        last = plays.lengths.cumsum() - 1
        elapsed = durations(plays.shares, track_ms).cumsum()
        before = elapsed[last - plays.lengths + 1] - durations(plays.shares[last - plays.lengths + 1], track_ms)
        planned = planned_ms(plan.starts[(plan.num_visits.cumsum() - plan.num_visits)[plays.users] + plays.visits])
        started, free = np.empty_like(planned), np.zeros(len(plan.num_visits), np.int64)
        for own in np.split(np.argsort(plays.visits, kind="stable"), np.bincount(plays.visits).cumsum()[:-1]):
            users = plays.users[own]  # one session of each
            started[own] = np.maximum(planned[own], free[users])
            free[users] = started[own] + (elapsed[last] - before)[own] + REST_MS
        timestamps = elapsed + np.repeat(midnight + started - before, plays.lengths)
        following, propensities = np.roll(plays.tracks, -1), np.roll(plays.propensities, -1)
        following[last] = -1  # and the first track of a session has no propensity
        order = np.argsort(timestamps, kind="stable")
        return cls(
            timestamps=timestamps[order],
            users=np.repeat(plays.users, plays.lengths)[order],
            tracks=plays.tracks[order],
            shares=plays.shares[order],
            following=following[order],
            arms=np.repeat(plan.arm_of[plays.users], plays.lengths)[order],
            propensities=propensities[order],
        )


def write_events(events: Events, world: World, experiments: Sequence[str], path: Path, *, release: str) -> None:
    """Write a log. The file appears under its name only when it is complete.

    Args:
        world: has the ids of listeners and tracks.
        experiments: for each arm, the JSON value of the key `experiments` in its lines.
        path: the file; its folder is created if missing.
        release: the key `release` of `next` lines.
    """
    users, tracks = _json_of(world.listeners.user_ids), _json_of(world.catalog.track_ids)

    def encode(start: int) -> pa.Buffer:
        part = Events(**{name: column[start : start + _CHUNK] for name, column in vars(events).items()})
        return _encode(part, users, tracks, experiments, release)

    def write(partial: Path) -> None:
        starts, encoded = range(0, len(events.timestamps), _CHUNK), iter([pa.Buffer][:0])
        with partial.open("wb") as file, ThreadPoolExecutor(_CHUNKS_TOGETHER) as threads:
            for first in range(0, len(starts) + _CHUNKS_TOGETHER, _CHUNKS_TOGETHER):
                following = threads.map(encode, starts[first : first + _CHUNKS_TOGETHER])  # while others are written
                file.writelines(encoded)
                encoded = following

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def _encode(
    events: Events, users: pa.StringArray, tracks: pa.StringArray, experiments: Sequence[str], release: str
) -> pa.Buffer:
    """Events as JSON lines in UTF-8. The latency is 0: nothing is requested over a network.

    Args:
        users: the JSON text of the id of each listener (U).
        tracks: that of each track (N).
    """
    is_next, known = events.following >= 0, pa.array(events.propensities).dictionary_encode()
    texts = ["null" if np.isnan(value) else str(value) for value in known.dictionary.to_pylist()]
    ends = ["}\n", *(f', "propensity": {text}, "release": {json.dumps(release)}}}\n' for text in texts)]
    kinds = events.arms * len(ends) + np.where(is_next, known.indices.to_numpy() + 1, 0)
    is_used = np.bincount(kinds) > 0  # few are: each of these ends is made once
    pairs = (divmod(kind, len(ends)) for kind in np.flatnonzero(is_used).tolist())
    lines = pc.binary_join_element_wise(
        _take(['{"message": "last", "timestamp": ', '{"message": "next", "timestamp": '], is_next.view(np.uint8)),
        _json_of(events.timestamps),
        ', "user": ',
        users.take(pa.array(events.users)),
        ', "track": ',
        tracks.take(pa.array(events.tracks)),
        _take(
            [f', "time": {share / WHOLE}, "latency": 0.0, "recommendation": ' for share in range(WHOLE + 1)],
            events.shares,
        ),
        tracks.take(pa.array(events.following, mask=~is_next)).fill_null("null"),
        _take([f', "experiments": {experiments[arm]}{ends[end]}' for arm, end in pairs], (is_used.cumsum() - 1)[kinds]),
        "",  # the separator
    )
    return lines.buffers()[2]  # all lines, concatenated


def _json_of(column: Shaped[np.ndarray, "n"]) -> pa.StringArray:
    """The JSON text of each whole number or text."""
    if column.dtype == object:
        return pa.array([json.dumps(text, ensure_ascii=False) for text in column.tolist()], pa.string())
    return pc.cast(pa.array(column), pa.string())


def _take(words: Sequence[str], which: Integer[np.ndarray, "E"]) -> pa.StringArray:
    return pa.array(words, pa.string()).take(pa.array(which))
