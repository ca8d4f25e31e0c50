"""From a source to rows of shards, range by range of sessions. A row is a pair, or an event without one.

What only all sessions together decide comes between the steps: between the parts of the listeners and the ranges of
sessions, the sessions are numbered and split; between two passes over the ranges, training says what it knows of the
tracks. N tracks, S sessions, P pairs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int64

from segue.atomic import write_whole
from segue.catalog import Catalog
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.pairs import paired_events
from segue.datamodules.pairs.pairs_in_splits import (
    Plays,
    SplitPairs,
    TrackFacts,
    pairs_in_splits,
    track_facts,
    training_plays,
)
from segue.datamodules.pairs.sessions import session_keys
from segue.datamodules.reading.files import digest_of_file
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import ROW, Shard
from segue.datamodules.shards.session_files import SessionFiles, write_events
from segue.datamodules.splits import SPLITS, split

if TYPE_CHECKING:
    from segue.datamodules.pair_datamodule import PairDataModule  # needs torch, which other machines may not have

# Columns with many different values, with their encoding in Parquet. With dictionaries, as pyarrow makes them of all
# columns, files would be half as large again.
_RISING = dict.fromkeys(("session", "timestamp"), "DELTA_BINARY_PACKED")


class SessionRange(NamedTuple):
    """Sessions that follow each other.

    Attributes:
        first: number of the first one, among all sessions that `SessionFiles` has.
        end: the number after that of the last one.
        parts: place in `SPLITS` of each session, or of each of their pairs.
        number: the number of the first session in the shards.
        path: of the shard.
    """

    first: int
    end: int
    parts: Int8[np.ndarray, "_"]
    number: int
    path: Path


class RangeCounts(NamedTuple):
    """What a range has.

    Attributes:
        remaining: numbers of the sessions that are left, among all sessions.
        numbers: of rows and events, and of pairs by their split.
        num_listeners: the highest number of a listener, plus 1.
        dropped: number of events (of pairs) that each rule left out.
    """

    remaining: Int64[np.ndarray, "S"]
    numbers: Counter[str]
    num_listeners: int
    dropped: Counter[str]


@dataclass(frozen=True, kw_only=True)
class RowMaker:
    """Makes rows from ranges of sessions; what it returns can be computed on another machine.

    Args:
        facts: of the tracks; None before they are known.
    """

    files: SessionFiles
    rules: PairRules
    num_tracks: int
    facts: TrackFacts | None = None

    def plays(self, sessions: SessionRange) -> Plays:
        """Count the training plays of each track."""
        loaded = self.files.load(sessions.first, sessions.end)
        return training_plays(loaded, sessions.parts, self.rules, self.num_tracks)

    def count(self, sessions: SessionRange) -> RangeCounts:
        """Count rows."""
        found, rows, pairs = self._rows(sessions)
        return RangeCounts(
            remaining=sessions.first + found.remaining,
            numbers=Counter({"rows": len(rows["session"]), "events": len(found.sessions.place), **pairs}),
            num_listeners=int(rows["listener"].max(initial=-1)) + 1,
            dropped=Counter({**found.sessions.dropped, **found.dropped}),
        )

    def write(self, shard: SessionRange) -> Shard:
        """Write a shard. Its file appears when it is whole."""
        _, rows, pairs = self._rows(shard)
        write_whole(shard.path, lambda partial: _write_parquet(rows, partial))
        size, digest = shard.path.stat().st_size, digest_of_file(shard.path)
        return Shard(file=shard.path.name, rows=len(rows["session"]), bytes=size, sha256=digest, pairs=pairs)

    def _rows(self, given: SessionRange) -> tuple[SplitPairs, dict[str, np.ndarray], dict[str, int]]:
        """Pairs of sessions; the columns of `ROW`, where -1 and NaN stand for NULL; and number of pairs of each split.

        Each pair is a row. The first event of a session is a row without a previous track, as is an event whose pair is
        left out: the rows of a session show all that was heard.
        """
        assert self.facts is not None, "rows need to know the tracks"
        found = pairs_in_splits(self.files.load(given.first, given.end), given.parts, self.rules, self.facts)
        sessions, listens = found.sessions, found.sessions.listens
        previous, following = paired_events(sessions.place, self.rules)
        begins = np.flatnonzero(sessions.place == 0)
        event = np.concatenate([begins, following])
        before = np.concatenate([np.full(len(begins), -1), np.where(found.is_kept, previous, -1)])
        part_of_event = np.full(len(begins), -1, np.int8) if found.part is None else found.part
        order = np.lexsort((before, event))
        event, before, is_alone = event[order], before[order], before[order] < 0
        session = listens.session[event]
        rows = {
            "session": given.number + session,
            "listener": sessions.listener[session],
            "position": sessions.place[event],
            "timestamp": sessions.timestamp[event],
            "following": listens.track[event],
            "played_ratio": listens.played_ratio[event],
            "previous_position": np.where(is_alone, -1, sessions.place[before]),
            "previous": np.where(is_alone, -1, listens.track[before]),
            "split": np.concatenate([part_of_event, found.part_of_pair])[order],
        }
        pairs = np.bincount(found.part_of_pair[found.is_kept], minlength=len(SPLITS)).tolist()
        return found, rows, dict(zip(SPLITS, pairs, strict=True))


def _write_parquet(rows: Mapping[str, np.ndarray], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    null = {"played_ratio": np.isnan(rows["played_ratio"])}
    null |= {name: rows[name] < 0 for name in ("previous_position", "previous")}
    columns = {name: pa.array(rows[name], pa.type_for_alias(kind), mask=null.get(name)) for name, kind in ROW.items()}
    others = [name for name in ROW if name not in _RISING]
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=others, column_encoding=_RISING)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedRows:
    """All that is known of the rows before they are written.

    Args:
        hidden: True for each track that is hidden from training.
        numbers: of `rows` and `events`, of pairs by their split, and of sessions that ran at the same time as another
            one of their user (`interleaved`).
        remaining: numbers of the sessions that are left, among all of `maker` (S).
        dropped: number of events (of pairs) that each rule left out.
        parts: place in `SPLITS` of each session or, where single pairs are split, of each pair.
        begins: place in `parts` of the first one of each session, and the number of all.
    """

    maker: RowMaker
    catalog: Catalog
    hidden: Bool[np.ndarray, "N"]
    numbers: Mapping[str, int]
    remaining: Int64[np.ndarray, "S"]
    num_listeners: int
    dropped: Mapping[str, int]
    parts: Int8[np.ndarray, "_"]
    begins: Int64[np.ndarray, "_"]

    def shards(self, folder: Path, rows_at_once: int) -> list[SessionRange]:
        """The shards in their order."""
        tasks: list[SessionRange] = []
        for first, end in _edges(len(self.remaining), self.numbers["rows"], rows_at_once):
            low, last = self.remaining[[first, end - 1]].tolist()
            parts = self.parts[self.begins[low] : self.begins[last + 1]]
            tasks.append(SessionRange(low, last + 1, parts, first, folder / f"pairs-{len(tasks):05d}.parquet"))
        return tasks


def prepare_rows(datamodule: "PairDataModule", engine: DuckDBEngine, folder: Path, rows_at_once: int) -> PreparedRows:
    """Read a source, cut and split its sessions, and count the rows.

    Args:
        datamodule: the source; its files exist.
        folder: for files that are needed until the rows are written; every machine of the engine sees it.
        rows_at_once: number of rows that are made together, about.

    Raises:
        InputError: the engine cannot be started, the source cannot be read, or it has no clock for its split.
    """
    rules = datamodule.rules
    engine.begin()
    with datamodule.source() as source:
        catalog, reading, names = source.catalog, source.reading, source.user_names
        kind = rules.split_of(has_clock="timestamp" in reading.columns)
        write_events(source, folder, engine.num_parts(reading.num_events))
    files = SessionFiles(folder=folder, reading=reading, rules=rules)
    cut = list(engine.map(files.cut, files.parts))
    user, number, num_pairs = files.number([num_listeners for num_listeners, *_ in cut]).values()
    pairs_before = np.append(0, num_pairs.cumsum())
    total = int(pairs_before[-1])
    parts = split(kind, len(user), total, lambda: session_keys(user if names is None else names[user], number))
    maker = RowMaker(files=files, rules=rules, num_tracks=len(catalog))
    edges = _edges(len(user), len(user) + total, rows_at_once)  # rows: first events, and pairs
    begins = pairs_before if rules.split == "pair" else np.arange(len(user) + 1)
    ranges = [SessionRange(first, end, parts[begins[first] : begins[end]], first, folder) for first, end in edges]
    facts = track_facts(lambda: engine.map(maker.plays, ranges), catalog, rules, is_longest=reading.share == "longest")
    maker = replace(maker, facts=facts)
    counts = list(engine.map(maker.count, ranges))
    numbers, dropped = Counter[str](), Counter[str]()
    for counted in (*(of_part[1:] for of_part in cut), *((some.numbers, some.dropped) for some in counts)):
        numbers.update(counted[0])
        dropped.update(counted[1])
    return PreparedRows(
        maker=maker,
        catalog=catalog,
        hidden=facts.hidden,
        numbers=numbers,
        remaining=np.concatenate([np.empty(0, np.int64), *(some.remaining for some in counts)]),
        num_listeners=max((some.num_listeners for some in counts), default=0),
        dropped=dict(dropped),
        parts=parts,
        begins=begins,
    )


def _edges(num_sessions: int, num_rows: int, rows_at_once: int) -> Iterator[tuple[int, int]]:
    """The first session of each range, and the number after its last one."""
    at_once = max(1, -(-num_sessions // max(1, -(-num_rows // rows_at_once))))
    return ((first, min(first + at_once, num_sessions)) for first in range(0, num_sessions, at_once))
