"""Rows of shards, from ranges of sessions. A row is a pair, or an event without one.

N tracks, R rows.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8, Int64

from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.pairs import paired_events
from segue.datamodules.pairs.pairs_in_splits import SplitPairs, pairs_in_splits
from segue.datamodules.pairs.training_tracks import Plays, TrackFacts, training_plays
from segue.datamodules.shards.manifest import ROW, Shard, sha256
from segue.datamodules.shards.session_files import SessionFiles
from segue.datamodules.splits import SPLITS
from segue.runs.atomic import write_whole

_RISING = dict.fromkeys(("session", "timestamp"), "DELTA_BINARY_PACKED")
"""Columns whose values hardly repeat, with their encoding in Parquet: dictionaries would make files half as large
again."""


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
        digest: of all rows.
    """

    remaining: Int64[np.ndarray, "S"]
    numbers: Counter[str]
    num_listeners: int
    dropped: Counter[str]
    digest: str


@dataclass(frozen=True, kw_only=True)
class RowMaker:
    """Makes rows from ranges of sessions; what it returns can be computed on another machine.

    Args:
        files: the sessions.
        rules: which pairs they make.
        num_tracks: number of tracks (N).
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
        sha = hashlib.sha256()
        for column in rows.values():
            sha.update(np.ascontiguousarray(column).data)
        return RangeCounts(
            remaining=sessions.first + found.remaining,
            numbers=Counter({"rows": len(rows["session"]), "events": len(found.sessions.place), **pairs}),
            num_listeners=int(rows["listener"].max(initial=-1)) + 1,
            dropped=Counter({**found.sessions.dropped, **found.dropped}),
            digest=sha.hexdigest(),
        )

    def write(self, shard: SessionRange) -> Shard:
        """Write a shard. Its file appears when it is whole."""
        _, rows, pairs = self._rows(shard)
        write_whole(shard.path, lambda partial: _write_parquet(rows, partial))
        size = shard.path.stat().st_size
        return Shard(
            file=shard.path.name, rows=len(rows["session"]), bytes=size, sha256=sha256(shard.path), pairs=pairs
        )

    def _rows(self, sessions: SessionRange) -> tuple[SplitPairs, dict[str, np.ndarray], dict[str, int]]:
        """Pairs of sessions, their rows, and number of pairs of each split."""
        assert self.facts is not None, "rows need to know the tracks"
        found = pairs_in_splits(self.files.load(sessions.first, sessions.end), sessions.parts, self.rules, self.facts)
        pairs = np.bincount(found.part_of_pair[found.is_kept], minlength=len(SPLITS)).tolist()
        return found, rows_of(found, self.rules, sessions.number), dict(zip(SPLITS, pairs, strict=True))


def rows_of(found: SplitPairs, rules: PairRules, first: int) -> dict[str, np.ndarray]:
    """The columns of `ROW`; -1 and NaN stand for NULL.

    Each pair is a row. The first event of a session is a row without a previous track, as is an event whose pair is
    left out: the rows of a session show all that was heard.

    Args:
        found: pairs.
        rules: that made them.
        first: number of their first session.
    """
    sessions, listens = found.sessions, found.sessions.listens
    previous, following = paired_events(sessions.place, rules)
    begins = np.flatnonzero(sessions.place == 0)
    event = np.concatenate([begins, following])
    before = np.concatenate([np.full(len(begins), -1), np.where(found.is_kept, previous, -1)])
    part_of_event = np.full(len(begins), -1, np.int8) if found.part is None else found.part
    order = np.lexsort((before, event))
    event, before, is_alone = event[order], before[order], before[order] < 0
    session = listens.session[event]
    return {
        "session": first + session,
        "listener": sessions.listener[session],
        "position": sessions.place[event],
        "timestamp": sessions.timestamp[event],
        "following": listens.track[event],
        "played_ratio": listens.played_ratio[event],
        "previous_position": np.where(is_alone, -1, sessions.place[before]),
        "previous": np.where(is_alone, -1, listens.track[before]),
        "split": np.concatenate([part_of_event, found.part_of_pair])[order],
    }


def _write_parquet(rows: Mapping[str, np.ndarray], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    null = {"played_ratio": np.isnan(rows["played_ratio"])}
    null |= {name: rows[name] < 0 for name in ("previous_position", "previous")}
    columns = {name: pa.array(rows[name], pa.type_for_alias(kind), mask=null.get(name)) for name, kind in ROW.items()}
    others = [name for name in ROW if name not in _RISING]
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=others, column_encoding=_RISING)
