"""Sessions of all listeners in files, part by part: more of them than fit into memory.

Each part has all sessions of some listeners, in the order of their starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from segue.catalog import Listens
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.sessions import Sessions, cut_events, gather
from segue.datamodules.reading.table import Reading, SourceEvents

_EVENTS = "events"
_COLUMNS = ("place", "owner", "session", "track", "played_ratio", "timestamp")  # of sessions, then of events


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


class CutPart(NamedTuple):
    """The sessions of a part.

    Attributes:
        sessions: a line for each: its `user`, its `number` among theirs, its `listener` among those of the part, when
            it `started`, the `position` of its first event in the source, and the number of its pairs, `num_pairs`.
        num_listeners: number of listeners.
        counts: number of events that each rule left out, and of interleaved sessions, under no name.
    """

    sessions: pd.DataFrame
    num_listeners: int
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class CutParts:
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

    def cut(self, part: int) -> CutPart:
        """Cut the events of a part into sessions, and write their events."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / _EVENTS / f"part={part}")
        events = {name: table[name].to_numpy() for name in table.column_names}
        sessions, position, num_listeners = cut_events(events, self.reading, self.rules)
        for name, column in {**vars(sessions.listens), "timestamp": sessions.timestamp}.items():
            np.save(self._file(name, part), column)
        begins = np.flatnonzero(sessions.place == 0)
        pairs_before = np.append(0, self.rules.num_pairs(sessions.place).cumsum())
        columns = {name: getattr(sessions, name) for name in ("user", "number", "listener")}
        columns |= {"started": sessions.timestamp[begins], "position": position}
        columns["num_pairs"] = np.diff(pairs_before[np.append(begins, len(sessions.place))])
        counts = {**sessions.dropped, "": sessions.num_interleaved}
        return CutPart(pd.DataFrame(columns), num_listeners, counts)

    def _file(self, column: str, part: int) -> Path:
        return self.folder / f"{column}-{part}.npy"

    def number(self, cut: Sequence[CutPart]) -> pd.DataFrame:
        """Number the sessions and the listeners of all parts, and write the numbers beside their events.

        Returns:
            All sessions in the order of their starts: `user`, `number` and `num_pairs`.
        """
        found = pd.concat([one.sessions for one in cut], ignore_index=True)
        order = np.lexsort((found["position"], found["started"]))
        place, before, begin = np.argsort(order), 0, 0
        for part, one in zip(self.parts, cut, strict=True):
            end = begin + len(one.sessions)
            np.save(self._file("owner", part), before + one.sessions["listener"].to_numpy())
            np.save(self._file("place", part), place[begin:end])
            before, begin = before + one.num_listeners, end
        return found[["user", "number", "num_pairs"]].iloc[order]

    def load(self, first: int, end: int) -> Sessions:
        """Sessions in the order of their starts, of all parts.

        Args:
            first: number of the first session.
            end: the number after that of the last one.

        Returns:
            The sessions. `user` is the number of the listener, `number` counts from 0, and the counts are empty.
        """
        found = list[tuple[np.ndarray, ...]]()
        for part in self.parts:
            place, owner, session, *columns = (np.load(self._file(name, part), mmap_mode="r") for name in _COLUMNS)
            low, high = np.searchsorted(place, (first, end))
            begin, stop = np.searchsorted(session, (low, high))
            length = np.bincount(session[begin:stop] - low, minlength=high - low)
            found.append((place[low:high], owner[low:high], length, *(column[begin:stop] for column in columns)))
        place, owner, length, *columns = map(np.concatenate, zip(*found, strict=True))
        order = np.argsort(place)
        session, nth, event = gather((length.cumsum() - length)[order], length[order])
        track, played_ratio, timestamp = (column[event] for column in columns)
        return Sessions(
            user=owner[order],
            number=np.arange(len(order)),
            listener=owner[order],
            has_clock="timestamp" in self.reading.columns,
            listens=Listens(session=session, track=track, played_ratio=played_ratio),
            timestamp=timestamp,
            place=nth,
        )
