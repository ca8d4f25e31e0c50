"""Sessions of all listeners in files, part by part: more of them than fit into memory.

S sessions, E events. Each part has all sessions of some listeners, in the order of their starts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from segue.catalog import Listens
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.sessions import Sessions, cut_events, gather, in_order_of_start
from segue.datamodules.reading.table import Reading, SourceEvents
from segue.datamodules.shards.column_files import column_file, kind_of, map_column

_EVENTS = "events"
_SESSION = ("user", "number", "listener", "started", "position", "num_pairs")
_EVENT = ("session", "track", "played_ratio", "timestamp", "place")


class PartCounts(NamedTuple):
    """Numbers of a part: listeners, interleaved sessions, ties, and events that each rule left out."""

    num_listeners: int
    num_interleaved: int
    num_tied: int
    dropped: Counter[str]


class Numbered(NamedTuple):
    """All sessions in the order of their starts.

    Attributes:
        user: number of the listener of each, as in `user_id`.
        number: number of the session among those of its listener.
        num_pairs: number of pairs.
    """

    user: Int64[np.ndarray, "S"]
    number: Int64[np.ndarray, "S"]
    num_pairs: Int64[np.ndarray, "S"]


def write_events(source: SourceEvents, folder: Path, num_parts: int) -> None:
    """Divide the events of a source into parts with about as many events. All events of a listener are in one part.

    Args:
        source: the events.
        folder: gets a folder for each part.
        num_parts: number of parts, at least 1.
    """
    folder.mkdir(parents=True)
    quoted = str(folder / _EVENTS).replace("'", "''")
    before = "SUM(COUNT(*)) OVER (ORDER BY user_id) - 1"
    source.database.execute(f"""
        COPY (SELECT events.*, part FROM ({source.query}) AS events LEFT JOIN (
                  SELECT user_id, CAST(({before}) * {num_parts} // SUM(COUNT(*)) OVER () AS INTEGER) AS part
                  FROM events GROUP BY user_id) AS parts USING (user_id))
        TO '{quoted}' (FORMAT parquet, PARTITION_BY (part))""")


@dataclass(frozen=True, kw_only=True)
class SessionFiles:
    """The files.

    Args:
        folder: has the events of `write_events`; every machine of an engine sees it.
        reading: which columns the source has.
        rules: how sessions are cut.
    """

    folder: Path
    reading: Reading
    rules: PairRules

    @property
    def parts(self) -> list[int]:
        """Numbers of the parts, in the order of their listeners. A listener with many events may leave one out."""
        return sorted(int(path.name.removeprefix("part=")) for path in (self.folder / _EVENTS).iterdir())

    def cut(self, part: int) -> PartCounts:
        """Cut the events of a part into sessions, and write these.

        Args:
            part: its number.
        """
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / _EVENTS / f"part={part}")
        events = {name: table[name].to_numpy() for name in table.column_names}
        sessions, position, num_listeners = cut_events(events, self.reading, self.rules)
        listens, is_first = sessions.listens, sessions.place == 0
        pairs_before = np.append(0, np.minimum(sessions.place, self.rules.reach).cumsum())
        first = np.append(np.flatnonzero(is_first), len(is_first))
        columns = {
            "user": sessions.user,
            "number": sessions.number,
            "listener": sessions.listener,
            "started": sessions.timestamp[is_first],
            "position": position,
            "num_pairs": np.diff(pairs_before[first]),
        }
        self._write(f"sessions-{part}", columns)
        columns = {"session": listens.session, "track": listens.track, "played_ratio": listens.played_ratio}
        self._write(f"listens-{part}", {**columns, "timestamp": sessions.timestamp, "place": sessions.place})
        return PartCounts(num_listeners, sessions.num_interleaved, sessions.num_tied, Counter(sessions.dropped))

    def _write(self, table: str, columns: dict[str, np.ndarray]) -> None:
        for name, column in columns.items():
            column_file(self.folder, table, name).write_bytes(np.ascontiguousarray(column, kind_of(name)).data)

    def _all(self, column: str) -> Int64[np.ndarray, "S"]:
        return np.concatenate([map_column(self.folder, f"sessions-{part}", column) for part in self.parts])

    def number(self, num_listeners: Sequence[int]) -> Numbered:
        """Number the sessions and the listeners of all parts, and write the numbers beside the sessions.

        Args:
            num_listeners: number of listeners of each part.
        """
        order = in_order_of_start(self._all("started"), self._all("position"))
        numbers = np.empty_like(order)
        numbers[order] = np.arange(len(order))
        sessions = listeners = 0
        for part, num in zip(self.parts, num_listeners, strict=True):
            listener = map_column(self.folder, f"sessions-{part}", "listener")
            own = numbers[sessions : sessions + len(listener)]
            self._write(f"numbers-{part}", {"session": own, "listener": listeners + listener})
            sessions, listeners = sessions + len(listener), listeners + num
        return Numbered(self._all("user")[order], self._all("number")[order], self._all("num_pairs")[order])

    def load(self, first: int, end: int) -> Sessions:
        """Sessions in the order of their starts, of all parts.

        Args:
            first: number of the first session.
            end: the number after that of the last one.

        Returns:
            The sessions. `user` is that of the listener, `number` counts from 0, and the counts are empty.
        """
        of_session: dict[str, list[np.ndarray]] = {"session": [], "listener": [], "length": []}
        of_event: dict[str, list[np.ndarray]] = {name: [] for name in _EVENT}
        for part in self.parts:
            low, high = np.searchsorted(map_column(self.folder, f"numbers-{part}", "session"), (first, end))
            for name in ("session", "listener"):
                of_session[name].append(map_column(self.folder, f"numbers-{part}", name)[low:high])
            session = map_column(self.folder, f"listens-{part}", "session")
            begin, stop = np.searchsorted(session, (low, high))
            of_session["length"].append(np.bincount(session[begin:stop] - low, minlength=high - low))
            for name in _EVENT:
                of_event[name].append(map_column(self.folder, f"listens-{part}", name)[begin:stop])
        number, listener, length = map(np.concatenate, of_session.values())
        order = np.argsort(number)
        session, place, event = gather((length.cumsum() - length)[order], length[order])
        columns = {name: np.concatenate(of_event[name])[event] for name in ("track", "played_ratio", "timestamp")}
        return Sessions(
            user=listener[order],
            number=np.arange(len(order)),
            listener=listener[order],
            has_clock="timestamp" in self.reading.columns,
            listens=Listens(session=session, track=columns["track"], played_ratio=columns["played_ratio"]),
            timestamp=columns["timestamp"],
            place=place,
            num_interleaved=0,
            num_tied=0,
            dropped={},
        )
