"""From a source to rows of shards that can be made range by range: what only all sessions together decide.

Between the parts of the listeners and the ranges of sessions, the sessions are numbered and split; between two passes
over the ranges, training says what it knows of the tracks. S sessions, P pairs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int8, Int64, Shaped

from segue.catalog import Catalog
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.sessions import session_keys
from segue.datamodules.pairs.training_tracks import track_facts
from segue.datamodules.reading.table import Reading
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.row_maker import RowMaker, SessionRange
from segue.datamodules.shards.session_files import SessionFiles, write_events
from segue.datamodules.splits import split


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedRows:
    """All that is known of the rows before they are written.

    Args:
        maker: makes them.
        catalog: the tracks.
        reading: what was read.
        hidden: True for each track that is hidden from training.
        numbers: of `rows` and `events`, of pairs by their split, of sessions that ran at the same time as another one
            of their user (`interleaved`), and of events with the timestamp of the event before them (`tied`).
        remaining: numbers of the sessions that are left, among all of `maker` (S).
        num_listeners: number of listeners.
        dropped: number of events (of pairs) that each rule left out.
        digests: of the rows of each range.
        parts: place in `SPLITS` of each session or, where single pairs are split, of each pair.
        pairs_before: number of pairs before each session, and of all.
    """

    maker: RowMaker
    catalog: Catalog
    reading: Reading
    hidden: Bool[np.ndarray, "N"]
    numbers: Mapping[str, int]
    remaining: Int64[np.ndarray, "S"]
    num_listeners: int
    dropped: Mapping[str, int]
    digests: list[str]
    parts: Int8[np.ndarray, "_"]
    pairs_before: Int64[np.ndarray, "_"]

    def shards(self, folder: Path, rows_at_once: int) -> list[SessionRange]:
        """The shards in their order.

        Args:
            folder: where they will be written.
            rows_at_once: number of rows of a shard, about.
        """
        tasks: list[SessionRange] = []
        for first, end in _edges(len(self.remaining), self.numbers["rows"], rows_at_once):
            low, last = self.remaining[[first, end - 1]].tolist()
            parts = _parts_of(self.maker, self.parts, self.pairs_before, low, last + 1)
            tasks.append(SessionRange(low, last + 1, parts, first, folder / f"pairs-{len(tasks):05d}.parquet"))
        return tasks


def prepare_rows(datamodule: PairDataModule, engine: DuckDBEngine, folder: Path, rows_at_once: int) -> PreparedRows:
    """Read a source, cut and split its sessions, and count the rows.

    Args:
        datamodule: the source; its files exist.
        engine: computes the parts.
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

    def keys() -> Shaped[np.ndarray, "S"]:
        return session_keys(user if names is None else names[user], number)

    parts = split(kind, rules.split_seed, len(user), int(pairs_before[-1]), keys)
    maker = RowMaker(files=files, rules=rules, num_tracks=len(catalog))
    edges = _edges(len(user), len(user) + int(pairs_before[-1]), rows_at_once)  # rows: first events, and pairs
    ranges = [
        SessionRange(first, end, _parts_of(maker, parts, pairs_before, first, end), first, folder)
        for first, end in edges
    ]
    is_longest = reading.share == "longest"
    facts = track_facts(lambda: engine.map(maker.plays, ranges), catalog, rules, is_longest=is_longest)
    maker = replace(maker, facts=facts)
    counts = list(engine.map(maker.count, ranges))
    numbers, dropped = Counter[str](), Counter[str]()
    for counted in (*(of_part[1:] for of_part in cut), *((some.numbers, some.dropped) for some in counts)):
        numbers.update(counted[0])
        dropped.update(counted[1])
    return PreparedRows(
        maker=maker,
        catalog=catalog,
        reading=reading,
        hidden=facts.hidden,
        numbers=numbers,
        remaining=np.concatenate([np.empty(0, np.int64), *(some.remaining for some in counts)]),
        num_listeners=max((some.num_listeners for some in counts), default=0),
        dropped=dict(dropped),
        digests=[some.digest for some in counts],
        parts=parts,
        pairs_before=pairs_before,
    )


def _edges(num_sessions: int, num_rows: int, rows_at_once: int) -> Iterator[tuple[int, int]]:
    """The first session of each range, and the number after its last one."""
    at_once = max(1, -(-num_sessions // max(1, -(-num_rows // rows_at_once))))
    return ((first, min(first + at_once, num_sessions)) for first in range(0, num_sessions, at_once))


def _parts_of(
    maker: RowMaker, parts: Int8[np.ndarray, "_"], pairs_before: Int64[np.ndarray, "_"], first: int, end: int
) -> Int8[np.ndarray, "_"]:
    """The parts of a range of sessions, or of their pairs."""
    return parts[pairs_before[first] : pairs_before[end]] if maker.rules.split == "pair" else parts[first:end]
