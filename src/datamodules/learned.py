"""What a run remembers of the plays it has learned: enough for another run to go on where it ended.

N tracks, S sessions, E events.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from segue.attributes import Attribute, Values, Vectors
from segue.catalog import Catalog, Listens, Vocabulary
from segue.datamodules.pairs.pairs import slices
from segue.datamodules.pairs.sessions import Sessions, gather
from segue.datamodules.reading.files import digest_of_file, is_address
from segue.datamodules.reading.table import FilesRead
from segue.datamodules.shards.shard_vocabulary import read_vocabulary, write_vocabulary
from segue.errors import InputError
from segue.runs.atomic import write_record, write_whole
from segue.runs.extended_catalogue import with_tracks

if TYPE_CHECKING:
    from segue.datamodules.split_datamodule import SplitDataModule

FOLDER = "learned"
"""The folder of a run that has it."""
_RECORD, _TRACKS, _PLAYS = "learned.json", "tracks.parquet", "plays.parquet"
_VERSION = 2
_BEGINNING = 1024  # bytes that distinguish a file from others
MOST_KEPT = 100_000
"""Sessions that a head keeps, a random sample of all that it has learned. A baseline keeps all: it counts them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Learned:
    """What a model has learned.

    Args:
        catalog: the tracks; tracks that come later get the rows after them.
        sessions: all of its sessions that are not too old, or a sample of them. They have no ids of users: a listener
            is a number, and those of two nights are not recognised.
        is_whole: whether they are no sample.
        plays: number of plays of each track, of all sessions.
        previous_counts: number of pairs that have each track as the previous one, of all sessions.
        next_counts: number of pairs that have it as the next one, of all sessions.
        until_ms: time of the last play, in milliseconds since 1970; 0 without a clock.
        later_ms: times of plays after `until_ms` that were learned too: they were of the future when they were read.
        files: path of each file whose plays are all among them, by digest.
        plays_of_files: number of plays of each file that was read, by its name and by how it begins.
        reading: what the rows of the files were: `columns`, `units` and `share` of `Reading`.
        half_life: of plays, in days, as validation chose it; see `Calendar`.
        newest_days: the same of the floor `recent`.
        source: settings of the source, of a run that was trained from its shards; None where the run has them itself.
    """

    catalog: Catalog
    sessions: Sessions
    is_whole: bool
    plays: Int64[np.ndarray, "N"]
    previous_counts: Int64[np.ndarray, "N"]
    next_counts: Int64[np.ndarray, "N"]
    until_ms: int
    num_sessions: int
    files: Mapping[str, str]
    plays_of_files: Mapping[str, int]
    reading: Mapping[str, Any]
    half_life: float | None
    newest_days: float | None
    source: Mapping[str, Any] | None = None
    later_ms: Int64[np.ndarray, "l"] = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(
        cls,
        data: "SplitDataModule",
        sessions: Sessions,
        *,
        is_whole: bool,
        now_ms: int | None,
        before: "Learned | None" = None,
        **known: Any,
    ) -> "Learned":
        """What a model has learned that has learned these data, and what it had learned before.

        Args:
            data: all of it is training data.
            sessions: its sessions, with those that are kept of what was learned before.
            is_whole: whether all sessions are kept, not only a sample.
            now_ms: the moment of reading. What is learned ends there: a later play, of the same day, would hide those
                that happen before it; None where the clock does not matter.
        """
        words, calendar, last_ms = data.vocabulary, data.vocabulary.calendar, int(sessions.timestamp.max())
        if now_ms is not None:
            last_ms = max(0 if before is None else before.until_ms, min(last_ms, now_ms))
        later_ms = np.unique(np.append(sessions.timestamp, [] if before is None else before.later_ms)).astype(np.int64)
        chosen = np.ones(len(sessions), bool) if is_whole else sample(sessions, MOST_KEPT)
        if before is not None:
            known |= {name: {**getattr(before, name), **known[name]} for name in ("files", "plays_of_files")}
        return cls(
            catalog=data.catalog,
            sessions=chosen_sessions(sessions, chosen),
            is_whole=bool(chosen.all()) and (before is None or before.is_whole),
            until_ms=last_ms,
            later_ms=later_ms[later_ms > last_ms],
            num_sessions=len(sessions) if before is None else data.num_learned[0],
            reading={name: getattr(data.reading, name) for name in ("columns", "units", "share")},
            half_life=None if calendar is None else calendar.half_life,
            newest_days=None if calendar is None else calendar.newest_days,
            **{name: getattr(words, name) for name in _COUNTS},
            **known,
        )

    @classmethod
    def read(cls, folder: Path, called: str) -> "Learned":
        """Read what `write` wrote.

        Raises:
            InputError: a file is missing or damaged.
        """
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            if record["version"] != _VERSION:
                raise ValueError(f"version {record['version']}")
            tracks, events = pd.read_parquet(folder / _TRACKS), pd.read_parquet(folder / _PLAYS)
            counts: dict[str, Any] = {name: np.array(tracks[name]) for name in _COUNTS}
            return cls(
                catalog=read_vocabulary(folder)[0],
                sessions=_sessions_of(events, has_clock=record["has_clock"]),
                **counts,
                **{name: record[name] for name in _OF_RECORD},
                source=record.get("source"),
                later_ms=np.array(record.get("later_ms", []), np.int64),
            )
        except (OSError, ValueError, LookupError, TypeError) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(
                f"{called}: cannot read what it has learned, {folder} ({why}); begin from another run"
            ) from None

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        write_whole(folder, self._fill, is_folder=True)

    def _fill(self, folder: Path) -> None:
        sessions, listens = self.sessions, self.sessions.listens
        write_vocabulary(self.catalog, np.zeros(len(self.catalog), bool), folder)
        pd.DataFrame({name: getattr(self, name) for name in _COUNTS}).to_parquet(
            folder / _TRACKS, index=False, compression="zstd"
        )
        events = {
            "session": listens.session,
            "listener": sessions.listener[listens.session],
            "track": listens.track,
            "played_ratio": listens.played_ratio,
            "timestamp": sessions.timestamp,
        }
        pd.DataFrame(events).to_parquet(folder / _PLAYS, index=False, compression="zstd")
        record: dict[str, Any] = {name: getattr(self, name) for name in _OF_RECORD}
        record |= {} if self.source is None else {"source": self.source}
        record |= {"later_ms": self.later_ms.tolist()} if len(self.later_ms) else {}
        write_record({"version": _VERSION, "has_clock": sessions.has_clock, **record}, folder / _RECORD)

    def late(self, num_learned: Mapping[str, int]) -> dict[str, int]:
        """Number of plays of each file that are too old to be learned, and were not there when it was read before.

        Args:
            num_learned: see `FilesRead`.
        """
        late = dict[str, int]()
        for name, num in num_learned.items() if self.plays_of_files else ():  # shards of an older version have none
            before = next((self.plays_of_files[key] for key in _keys(name) if key in self.plays_of_files), 0)
            if num > before:
                late[name] = num - before
        return late

    def alone(self, vocabulary: Vocabulary) -> Vocabulary:
        """The vocabulary of the tracks that were known.

        Args:
            vocabulary: of the sessions that are kept.
        """
        return replace(vocabulary, catalog=self.catalog, **{name: getattr(self, name) for name in _COUNTS})

    def counts_in(self, vocabulary: Vocabulary) -> Vocabulary:
        """The vocabulary of a larger catalogue as training with these plays alone would have it.

        Args:
            vocabulary: of the sessions that are kept.
        """
        return _with_counts(vocabulary, {name: _longer(getattr(self, name), len(vocabulary.plays)) for name in _COUNTS})

    def counts_added(self, vocabulary: Vocabulary, kept: Vocabulary) -> Vocabulary:
        """The vocabulary of these plays and new ones.

        Args:
            vocabulary: of the sessions that are kept, and of new ones.
            kept: of the sessions that are kept.
        """
        own = {
            name: _longer(getattr(self, name), len(kept.plays)) + getattr(vocabulary, name) - getattr(kept, name)
            for name in _COUNTS
        }
        return _with_counts(vocabulary, own)


_COUNTS = ("plays", "previous_counts", "next_counts")
_OF_RECORD = ("is_whole", "until_ms", "num_sessions", "files", "plays_of_files", "reading", "half_life", "newest_days")


def _longer(counts: Int64[np.ndarray, "n"], length: int) -> Int64[np.ndarray, "N"]:
    return np.append(counts, np.zeros(length - len(counts), np.int64))


def _with_counts(vocabulary: Vocabulary, counts: Mapping[str, Any]) -> Vocabulary:
    changed = replace(vocabulary, **counts)
    vars(changed)["trend"] = vocabulary.trend  # a ratio of plays of the same sessions, which are those that are kept
    return changed


def _sessions_of(events: pd.DataFrame, *, has_clock: bool) -> Sessions:
    length = np.bincount(events["session"].to_numpy())
    number, place, _ = gather(np.zeros(len(length), np.int64), length)
    listener = np.array(events["listener"])[place == 0]
    return Sessions(
        user=listener,
        number=np.arange(len(listener)),
        listener=listener,
        has_clock=has_clock,
        listens=Listens(session=number, track=np.array(events["track"]), played_ratio=np.array(events["played_ratio"])),
        timestamp=np.array(events["timestamp"]),
        place=place,
    )


def sample(sessions: Sessions, most: int) -> Bool[np.ndarray, "S"]:
    """Choose sessions, at most so many, by a digest of their ends: a random sample, whenever each was learned."""
    track, first = sessions.listens.track, np.flatnonzero(sessions.place == 0)
    last = np.append(first[1:], len(track)) - 1
    digests = np.empty(len(sessions), np.uint64)
    for some in slices(len(sessions)):
        begin, end = first[some], last[some]
        ends = {"first": track[begin], "last": track[end], "length": end - begin, "start": sessions.timestamp[begin]}
        digests[some] = pd.util.hash_pandas_object(pd.DataFrame(ends), index=False).to_numpy()
    chosen = np.zeros(len(sessions), bool)
    chosen[np.argsort(digests, kind="stable")[:most]] = True
    return chosen


def chosen_sessions(sessions: Sessions, chosen: Bool[np.ndarray, "S"]) -> Sessions:
    """Select sessions.

    Args:
        chosen: True for each session to keep.
    """
    left, _ = sessions.without({"kept": ~chosen[sessions.listens.session]})
    return replace(left, dropped=sessions.dropped)


def joined(first: Sessions, second: Sessions) -> Sessions:
    """The sessions of two readings, one after the other.

    Args:
        first: the earlier ones.
        second: the later ones; what was left out and what is odd is said of these.
    """
    listener = np.concatenate([first.listener, second.listener + 1 + first.listener.max(initial=-1)])
    one, two = first.listens, second.listens
    return replace(
        second,
        user=listener,
        number=np.arange(len(listener)),
        listener=listener,
        listens=Listens(
            session=np.concatenate([one.session, two.session + len(first)]),
            track=np.concatenate([one.track, two.track]),
            played_ratio=np.concatenate([one.played_ratio, two.played_ratio]),
        ),
        timestamp=np.concatenate([first.timestamp, second.timestamp]),
        place=np.concatenate([first.place, second.place]),
    )


def known_files(read: FilesRead) -> dict[str, str]:
    """The paths of files whose plays are all known, by the digest of what was read of them.

    Args:
        read: the files. Those with plays of the future, and those that have become shorter since, are left out.
    """
    past = read.past
    if found := {digest: str(file.resolve()) for file, digest in read.digests.items() if file in past}:
        return found
    return {
        digest_of_file(file, size): str(file.resolve())
        for file, size in read.sizes.items()
        if file in past and file.is_file() and file.stat().st_size >= size
    }


def by_keys(num_plays: Mapping[str, int]) -> dict[str, int]:
    """The number of plays of each file by its name and by how it begins; see `Learned`.

    Args:
        num_plays: by name; see `FilesRead`.
    """
    return {key: num for name, num in num_plays.items() for key in _keys(name)}


def _keys(name: str) -> list[str]:
    """How a file is known again: by its beginning, which a rotation does not change, or else by its name."""
    if is_address(name):
        return [name]
    file = Path(name)
    is_long = file.is_file() and file.stat().st_size >= _BEGINNING
    return [*([digest_of_file(file, _BEGINNING)] if is_long else []), str(file.resolve())]


def with_new_tracks(old: Catalog, read: Catalog) -> tuple[Catalog, Int64[np.ndarray, "M"]]:
    """A catalogue, and the tracks of another one (M) that it lacks in the rows after its own; artists too.

    What the catalogue says of its tracks stays.

    Args:
        old: the catalogue.

    Returns:
        The larger catalogue, and the row of each track of the other one.
    """
    rows = old.rows_of(read.track_ids)
    [new] = (rows < 0).nonzero()
    rows[new] = len(old) + np.arange(len(new))
    names = read.titles[new].tolist(), read.artists[read.artist_of[new]].tolist()
    catalog = with_tracks(old, read.track_ids[new].tolist(), *names)
    attributes = {
        name: _longer_attribute(one, read.attributes.get(name), new, len(old)) for name, one in old.attributes.items()
    }
    return replace(catalog, attributes=attributes), rows


def _longer_attribute(old: Attribute, read: Attribute | None, new: Int64[np.ndarray, "n"], num_old: int) -> Attribute:
    """What is known of the tracks of both; new values get the rows after the old ones."""
    if isinstance(old, Values):
        if not isinstance(read, Values):
            return replace(old, offsets=np.append(old.offsets, np.full(len(new), old.offsets[-1])))
        rows = {name: row for row, name in enumerate(old.names.tolist())}
        row_of = np.array([rows.setdefault(name, len(rows)) for name in read.names.tolist()], np.int64)
        _, _, assignment = gather(read.offsets[new], read.counts[new])
        return Values(
            names=np.array(list(rows), object),
            offsets=np.append(old.offsets, old.offsets[-1] + read.counts[new].cumsum()),
            values=np.append(old.values, row_of[read.values[assignment]]),
        )
    if not isinstance(read, Vectors) or read.data.shape[1] != old.data.shape[1]:
        return replace(old, places=np.append(old.places, np.full(len(new), -1)))
    places = read.places[new]
    own = np.where(places >= 0, len(old.data) + np.cumsum(places >= 0) - 1, -1)
    data = np.concatenate([old.data, read.data[places[places >= 0]]])
    return replace(old, data=data, places=np.append(old.places[:num_old], own))
