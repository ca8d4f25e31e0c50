"""Event logs of a simulated day, in the service's own format: one JSON object a line, in the order of time.

V sessions, E listens.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, UInt8

from src.errors import InputError
from src.runs.atomic import write_whole
from src.simulation.listener import WHOLE
from src.simulation.traffic import Day, Plays
from src.simulation.world import World

DAY_MS = 24 * 60 * 60 * 1000
REQUEST_MS = 1000
"""Between the end of a track and the next, and so between two events, at least."""

REST_MS = 60_000
"""Between two sessions of a listener, at least."""

_CHUNK = 100_000
_AHEAD = 2
"""Pieces of a log that are encoded while another is written."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Events:
    """Events in the order of time; `following` is the track recommended, -1 after the last of a session.

    Args:
        timestamps: milliseconds since 1970, UTC.
        users: raw ids.
        tracks: raw ids.
        shares: share played, in hundredths.
        following: raw ids.
        arms: numbers of the arms.
    """

    timestamps: Int64[np.ndarray, "E"]
    users: Int64[np.ndarray, "E"]
    tracks: Int64[np.ndarray, "E"]
    shares: UInt8[np.ndarray, "E"]
    following: Int64[np.ndarray, "E"]
    arms: Int64[np.ndarray, "E"]

    def __len__(self) -> int:
        return len(self.timestamps)

    def part(self, start: int, stop: int) -> "Events":
        """Some of them, in their order."""
        return Events(**{name: getattr(self, name)[start:stop] for name in self.__dataclass_fields__})

    def next_midnight(self, midnight: int) -> int:
        """When the day after one that began at `midnight` begins: a busy day may take longer than 24 hours."""
        last = int(self.timestamps[-1]) + REST_MS if len(self) else midnight
        return midnight + max(1, -(-(last - midnight) // DAY_MS)) * DAY_MS

    @classmethod
    def of(cls, plays: Plays, *, plan: Day, world: World, midnight: int, track_ms: int) -> "Events":
        """Put the sessions of a day on the clock.

        A session starts when it was planned, or as soon as the listener's earlier one has ended. An event is when a
        track has been played, all of which takes `track_ms`, and the next is asked for.

        Args:
            plays: the sessions.
            plan: the day they were played on.
            world: gives raw ids.
            midnight: when the day begins, milliseconds since 1970.
            track_ms: how long a track lasts.
        """
        is_last = np.zeros(len(plays.tracks), bool)
        is_last[plays.lengths.cumsum() - 1] = True
        passed = (plays.shares.astype(np.int64) * track_ms // WHOLE + REQUEST_MS).cumsum()
        ends = passed[is_last]
        before = np.concatenate([[0], ends[:-1]])
        first_visits = plan.num_visits.cumsum() - plan.num_visits
        planned = (plan.starts[first_visits[plays.users] + plays.visits] * DAY_MS).astype(np.int64)
        started = _one_after_another(plays.users, plays.visits, planned, ends - before)
        timestamps = passed + np.repeat(midnight + started - before, plays.lengths)
        order = np.argsort(timestamps, kind="stable")
        ids = world.catalog.track_ids[plays.tracks]
        return cls(
            timestamps=timestamps[order],
            users=np.repeat(world.listeners.user_ids[plays.users], plays.lengths)[order],
            tracks=ids[order],
            shares=plays.shares[order],
            following=np.where(is_last, -1, np.roll(ids, -1))[order],
            arms=np.repeat(plan.arm_of[plays.users], plays.lengths)[order],
        )


def _one_after_another(
    users: Int64[np.ndarray, "V"],
    visits: Int64[np.ndarray, "V"],
    planned: Int64[np.ndarray, "V"],
    durations: Int64[np.ndarray, "V"],
) -> Int64[np.ndarray, "V"]:
    """When each session starts, so that none of a listener's begins before the one before has ended and they rested.

    `start_i = max(planned_i, start_{i-1} + busy_{i-1})`, which is `max over j ≤ i of (planned_j − total_{j-1})` plus
    `total_{i-1}`, with `total` the running sum of what each keeps the listener busy.
    """
    order = np.lexsort((visits, users))
    listener = np.unique(users[order], return_inverse=True)[1]
    busy = durations[order] + REST_MS
    total = busy.cumsum() - busy
    slack = planned[order] - total
    apart = (
        int(np.ptp(slack)) + 1 if len(slack) else 0
    )  # lifts each listener above all before, so that one pass will do
    latest = np.maximum.accumulate(slack + listener * apart) - listener * apart
    started = np.empty_like(planned)
    started[order] = latest + total
    return started


def write_events(events: Events, experiments: Sequence[str], path: Path) -> None:
    """Write a log that appears under its name only when it is whole.

    Args:
        events: what to write.
        experiments: for each arm, what its lines have under `experiments`, as JSON.
        path: the file; its folder is made.

    Raises:
        InputError: the file cannot be written.
    """
    parts = (events.part(start, start + _CHUNK) for start in range(0, len(events), _CHUNK))

    def write(partial: Path) -> None:
        with partial.open("wb") as file, ThreadPoolExecutor(_AHEAD) as threads:
            encoding = deque[Future[bytes]]()
            for part in parts:
                encoding.append(threads.submit(encode, part, experiments))
                if len(encoding) > _AHEAD:
                    file.write(encoding.popleft().result())
            file.writelines(piece.result() for piece in encoding)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def encode(events: Events, experiments: Sequence[str]) -> bytes:
    """The lines of some events; see `write_events`. Nothing was waited for, so every latency is 0."""
    is_next = events.following >= 0
    lines = pc.binary_join_element_wise(
        _chosen(['{"message": "last", "timestamp": ', '{"message": "next", "timestamp": '], is_next.view(np.uint8)),
        _text(events.timestamps),
        ', "user": ',
        _text(events.users),
        ', "track": ',
        _text(events.tracks),
        _chosen(
            [f', "time": {share / WHOLE}, "latency": 0.0, "recommendation": ' for share in range(WHOLE + 1)],
            events.shares,
        ),
        pc.if_else(pa.array(is_next), _text(events.following), "null"),
        _chosen([f', "experiments": {of_arm}}}\n' for of_arm in experiments], events.arms),
        "",  # stands between them
    )
    return bytes(lines.buffers()[2])  # all lines, one after another


def _text(column: Int64[np.ndarray, "E"]) -> pa.StringArray:
    return pc.cast(pa.array(column), pa.string())


def _chosen(words: Sequence[str], which: Int64[np.ndarray, "E"] | UInt8[np.ndarray, "E"]) -> pa.StringArray:
    return pa.array(words).take(pa.array(which))
