"""Sessions of all listeners in files, part by part: more of them than fit into memory.

Each column is a file with the numbers of an array and nothing else, so that it can be mapped into memory.
S sessions, E events. Each part has all sessions of some listeners, in the order of their starts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from segue.catalog import Listens
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.sessions import Sessions, cut_events, gather
from segue.datamodules.reading.table import Reading, SourceEvents

_EVENTS = "events"
_KINDS = {"played_ratio": np.float32, "part": np.int8}  # types of columns; the others are int64
_EVENT = ("track", "played_ratio", "timestamp")


def kind_of(column: str) -> np.dtype[Any]:
    """Type of the numbers of a column."""
    return np.dtype(_KINDS.get(column, np.int64))


def column_file(folder: Path, table: str, column: str) -> Path:
    """The file of a column.

    Args:
        table: name of the columns that have the same rows.
    """
    return folder / f"{table}-{column}.bin"


def map_column(folder: Path, table: str, column: str) -> Any:
    """A column as an array that is read from its file where it is looked at; what is written into it is not kept."""
    path = column_file(folder, table, column)
    if not path.stat().st_size:
        return np.empty(0, kind_of(column))
    return np.memmap(path, kind_of(column), "c").view(np.ndarray)


def write_events(source: SourceEvents, folder: Path, num_parts: int) -> None:
    """Divide the events of a source into parts with about as many events. All events of a listener are in one part."""
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
    """

    folder: Path
    reading: Reading
    rules: PairRules

    @property
    def parts(self) -> list[int]:
        """Numbers of the parts, in the order of their listeners. A listener with many events may leave one out."""
        return sorted(int(path.name.removeprefix("part=")) for path in (self.folder / _EVENTS).iterdir())

    def cut(self, part: int) -> tuple[int, Counter[str], Counter[str]]:
        """Cut the events of a part into sessions, and write these.

        Returns:
            Number of listeners; number of interleaved sessions; and of events that each rule left out.
        """
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / _EVENTS / f"part={part}")
        events = {name: table[name].to_numpy() for name in table.column_names}
        sessions, position, num_listeners = cut_events(events, self.reading, self.rules)
        is_first = sessions.place == 0
        pairs_before = np.append(0, self.rules.num_pairs(sessions.place).cumsum())
        columns = {
            **{name: getattr(sessions, name) for name in ("user", "number", "listener")},
            "started": sessions.timestamp[is_first],
            "position": position,
            "num_pairs": np.diff(pairs_before[np.append(np.flatnonzero(is_first), len(is_first))]),
        }
        self._write(f"sessions-{part}", columns)
        columns = {**vars(sessions.listens), "timestamp": sessions.timestamp, "place": sessions.place}
        self._write(f"listens-{part}", columns)
        return num_listeners, Counter({"interleaved": sessions.num_interleaved}), Counter(sessions.dropped)

    def _write(self, table: str, columns: dict[str, np.ndarray]) -> None:
        for name, column in columns.items():
            column_file(self.folder, table, name).write_bytes(np.ascontiguousarray(column, kind_of(name)).data)

    def _all(self, column: str) -> Int64[np.ndarray, "S"]:
        return np.concatenate([map_column(self.folder, f"sessions-{part}", column) for part in self.parts])

    def number(self, num_listeners: Sequence[int]) -> dict[str, Int64[np.ndarray, "S"]]:
        """Number the sessions and the listeners of all parts, and write the numbers beside the sessions.

        Returns:
            Of all sessions in the order of their starts: `user` (as in `user_id`), `number` (of the session among those
            of its listener) and `num_pairs`.
        """
        order = np.lexsort((self._all("position"), self._all("started")))
        numbers = np.empty_like(order)
        numbers[order] = np.arange(len(order))
        sessions = listeners = 0
        for part, num in zip(self.parts, num_listeners, strict=True):
            listener = map_column(self.folder, f"sessions-{part}", "listener")
            own = numbers[sessions : sessions + len(listener)]
            self._write(f"numbers-{part}", {"session": own, "listener": listeners + listener})
            sessions, listeners = sessions + len(listener), listeners + num
        return {name: self._all(name)[order] for name in ("user", "number", "num_pairs")}

    def load(self, first: int, end: int) -> Sessions:
        """Sessions in the order of their starts, of all parts.

        Args:
            first: number of the first session.
            end: the number after that of the last one.

        Returns:
            The sessions. `user` is that of the listener, `number` counts from 0, and the counts are empty.
        """
        found, mapped = list[tuple[np.ndarray, ...]](), partial(map_column, self.folder)
        for part in self.parts:
            number, listener = (mapped(f"numbers-{part}", name) for name in ("session", "listener"))
            session, *columns = (mapped(f"listens-{part}", name) for name in ("session", *_EVENT))
            low, high = np.searchsorted(number, (first, end))
            begin, stop = np.searchsorted(session, (low, high))
            length = np.bincount(session[begin:stop] - low, minlength=high - low)
            found.append((number[low:high], listener[low:high], length, *(column[begin:stop] for column in columns)))
        number, listener, length, *columns = map(np.concatenate, zip(*found, strict=True))
        order = np.argsort(number)
        session, place, event = gather((length.cumsum() - length)[order], length[order])
        track, played_ratio, timestamp = (column[event] for column in columns)
        return Sessions(
            user=listener[order],
            number=np.arange(len(order)),
            listener=listener[order],
            has_clock="timestamp" in self.reading.columns,
            listens=Listens(session=session, track=track, played_ratio=played_ratio),
            timestamp=timestamp,
            place=place,
        )
