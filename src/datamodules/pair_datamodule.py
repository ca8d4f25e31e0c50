"""The `LightningDataModule` of a source: reads its files, cuts sessions, pairs tracks and splits.

N tracks, S sessions, P pairs.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from segue.catalog import Catalog, Listens, key_of, quoted
from segue.datamodules.describing.facts import measure_sessions
from segue.datamodules.describing.warnings import find_warnings
from segue.datamodules.learned import Learned, by_keys, chosen_sessions, joined, known_files, with_new_tracks
from segue.datamodules.pairs.pair_rules import PairRules, Policies
from segue.datamodules.pairs.pairs_in_splits import pairs_in_splits, track_facts, training_plays
from segue.datamodules.pairs.profiles_of_sessions import ids_in, profiles_of
from segue.datamodules.pairs.sessions import Sessions, cut_sessions
from segue.datamodules.reading.rejected_rows import Rejections
from segue.datamodules.reading.table import LeftOut, NothingNew, SourceEvents, read_table
from segue.datamodules.reading.table_settings import Attributes, TableSettings, table_settings
from segue.datamodules.remarks import remarks_on, remarks_on_columns
from segue.datamodules.split_datamodule import SplitDataModule
from segue.datamodules.splits import SPLITS, split
from segue.errors import InputError
from segue.runs.profiles import Profiles
from segue.settings import Setting, from_config, settings


@dataclass(frozen=True, eq=False, kw_only=True)
class NewPlays:
    """The plays that a run has not learned, and those that it keeps of what it has learned.

    Args:
        evaluated: the new sessions are the test sessions, and also those for validation, of which there are no others;
            what training shows is what the run has learned.
        whole: all of them, as training data.
        since_ms: time of the last play that was learned, in milliseconds since 1970; 0 without a clock.
        until_ms: time of the last new play.
        num_kept: number of sessions of `whole` that the run had learned; the new ones are after them.
        num_sessions: number of new sessions.
        num_plays: number of new plays.
        num_tracks: number of new tracks of the catalogue.
        num_artists: number of new artists.
        num_late: number of plays of each file that are not after `since_ms`, were not there before, and are left out.
        num_later: number of plays of each file that are of the future, and are left out until then.
        shares: sum of the shares played of each new session with a known share; empty where none is known.
    """

    evaluated: "PairDataModule"
    whole: "PairDataModule"
    since_ms: int
    until_ms: int
    num_kept: int
    num_sessions: int
    num_plays: int
    num_tracks: int
    num_artists: int
    num_late: Mapping[str, int]
    num_later: Mapping[str, int]
    shares: Float64[np.ndarray, "S"]

    def replayed(self, seed: int, times: int) -> "PairDataModule":
        """The whole, of which training shows the new sessions several times, and some of the others once.

        Args:
            seed: of the run; each night draws others.
            times: how often it shows the new sessions. With each time it shows half as many others, none of them twice.
        """
        data, pairs, is_new = copy(self.whole), self.whole.pairs["train"], self.whole.sessions.number >= self.num_kept
        rng, num_others = np.random.default_rng([seed, self.num_kept, self.until_ms]), times * is_new.sum() // 2
        others = rng.permutation(np.flatnonzero(~is_new))[:num_others]
        old, new = np.flatnonzero(np.isin(pairs.session, others)), np.flatnonzero(is_new[pairs.session])
        data.pairs = {**data.pairs, "train": pairs.where(np.concatenate([old, *[new] * times]))}
        return data


def _refuse_other_ids(path: str, read: Catalog, known: Catalog, *, may_be_new: bool = False) -> None:
    if (known.rows_of(read.track_ids) >= 0).any() or (may_be_new and _has_only_new_tracks(read, known)):
        return
    of_read, of_known = (quoted(one.track_ids.item(0)) for one in (read, known))
    raise InputError(
        f"none of the {len(read):,} tracks in {path}, such as {of_read}, is among the {len(known):,} of the run, such "
        f"as {of_known}; give logs with the ids of the run, or wait for plays of known tracks"
    )


def _has_only_new_tracks(read: Catalog, known: Catalog) -> bool:
    """Whether tracks are new ones of known artists, and none is a known one with another id."""
    names = {name for name in known.artists.tolist() if name}
    pairs, known_pairs = (
        set(zip(one.artists[one.artist_of].tolist(), one.titles.tolist(), strict=True)) for one in (read, known)
    )
    return not names.isdisjoint(read.artists.tolist()) and pairs.isdisjoint(known_pairs)


def _sums_of_shares(listens: Listens) -> Float64[np.ndarray, "S"]:
    known = listens.where(~np.isnan(listens.played_ratio))
    sums, counts = np.bincount(known.session, known.played_ratio.astype(np.float64)), np.bincount(known.session)
    return np.asarray(sums[counts > 0], np.float64)  # without any, they are whole numbers


@settings("datamodule", SplitDataModule, PairRules, TableSettings)
class PairDataModule(SplitDataModule):
    """Pairs of tracks from the listening logs or playlists of one source.

    Args:
        path: file or folder of the source; also a glob, or an address such as `s3://…`.
        prepare: creates the files where they are missing: takes `path` and returns the folder that holds them. None if
            the files must exist.
        history: see `SplitDataModule` for this and the next three.
        seed: of the order of the training pairs.
        batch_size: number of pairs in a batch.
        max_rejected: the run stops if a larger share of the rows is rejected.
        rejected_path: file that rejected rows are written to.
        attributes: what else is known of the tracks; see `AttributeSettings`.
        groups: the settings of `PairRules`, and those of `TableSettings`, as the config has them.

    `rules` are the `PairRules`. `prepared_by` is `prepare`; `prepare_data` and `setup` set `path`. What else `setup`
    sets is described in `SplitDataModule`. `read_on` is the last day (UTC) whose plays are read, if the clock of this
    machine says so.
    """

    read_on: str | None = None

    _learned: Learned | None = None
    _read: Sessions | None = None  # in a night, the new sessions, with the ids of their users
    _read_ms: int | None = None
    _before: Path | None = None  # in a night, the file of the profiles of the run that it begins from

    def __init__(
        self,
        *,
        path: str,
        prepare: Callable[[Path], Path] | None = None,
        history: int,
        half_life: int | float | Literal["auto"] | None = None,
        whole_sessions: bool = False,
        seed: int,
        batch_size: Annotated[int, Setting("number of pairs in a batch", least=1)],
        max_rejected: Annotated[
            float, Setting("most rejected rows, as a share", least=0, most=1, hint="such as 0.01")
        ] = 0.01,
        rejected_path: Annotated[str, Setting("file that rejected rows are written to")],
        attributes: Attributes = None,
        **groups: Any,
    ) -> None:
        common: dict[str, Any] = {"history": history, "half_life": half_life, "whole_sessions": whole_sessions}
        super().__init__(path=path, prepared_by=prepare, seed=seed, **common)
        rules = {field.name: groups.pop(field.name) for field in fields(PairRules)}
        policies = from_config(Policies, rules["policies"], key="datamodule.policies")
        self.rules = PairRules(**{**rules, "policies": policies})
        self._settings = table_settings(attributes=attributes, **groups)
        self._prepare, self.batch_size = prepare, batch_size
        self._rejections = Rejections(path=Path(rejected_path), most=max_rejected)

    def prepare_data(self) -> None:
        """Create the files of the source if `prepare` was given. Later calls do nothing.

        Raises:
            InputError: the files cannot be created.
        """
        if self._prepare is not None:
            self.path, self._prepare = str(self._prepare(Path(self.path))), None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - signature of Lightning; every stage needs all data
        """Read the source and split it. Later calls do nothing.

        Raises:
            InputError: the files cannot be read (see `read_table`), or a split has no pairs.
        """
        if self.sizes is not None:
            return
        with self.source() as source:
            self.reading, self.catalog, self._files = source.reading, source.catalog, source.files
            self._cut = cut_sessions(source, self.rules)
        rules, sessions = self.rules, self._cut
        kind = rules.split_of(has_clock=sessions.has_clock)
        num_pairs = int(rules.num_pairs(sessions.place).sum())
        parts = split(kind, len(sessions), num_pairs, lambda: sessions.key)
        self._parts, self.is_by_time = parts, kind in ("time", "order")
        hidden, num_pairs = self._pair(parts, rules)
        if empty := [name for name, part in self.pairs.items() if not len(part)]:
            found = f"no pairs left for {' and '.join(empty)}: {len(self.sessions):,} sessions with {num_pairs:,} pairs"
            raise InputError(f"{found} in {self.path} are too few for split={kind}; see describe.py, or add more logs")
        self.describe_pairs(hidden)

    def _pair(self, parts: Int8[np.ndarray, "_"], rules: PairRules) -> tuple[Bool[np.ndarray, "N"], int]:
        """Set the sessions and pairs of a division into splits; returns the hidden tracks and the number of pairs."""
        facts = track_facts(
            lambda: [training_plays(self._cut, parts, rules, len(self.catalog))],
            self.catalog,
            rules,
            is_longest=self.reading.share == "longest",
        )
        found = pairs_in_splits(self._cut, parts, rules, facts)
        self.sessions, self._part_of_session, self._dropped = found.sessions, found.part, found.dropped
        self.pairs = {
            name: found.pairs.where(found.is_kept & (found.part_of_pair == part)) for part, name in enumerate(SPLITS)
        }
        return facts.hidden, len(found.pairs)

    def divided(self, parts: Int8[np.ndarray, "_"]) -> "PairDataModule":
        """Divide the same sessions in another way. Call it after `setup`.

        Args:
            parts: place in `SPLITS` of each session, in the order of their starts (with `split=pair`, of each pair). No
                session needs to be in a split.

        Returns:
            A copy, in which no track is hidden.
        """
        other = copy(self)
        hidden, _ = other._pair(parts, replace(self.rules, cold_share=0.0))
        other.describe_pairs(hidden)
        return other

    def as_training(self) -> "PairDataModule":
        """See `SplitDataModule`."""
        whole = self.divided(np.zeros_like(self._parts))
        whole.take_choices(self)
        return whole

    def as_test_of(self, catalog: Catalog, plays: Int64[np.ndarray, "N"]) -> "PairDataModule":
        """The same sessions as test data of a model that was trained on others. Call it after `setup`.

        Plays of tracks that the model does not know are left out; `dropped` counts them as `unknown`.

        Args:
            catalog: of the model.
            plays: how often each of its tracks was played in training.

        Returns:
            A copy, with the tracks of the model. Validation has the same pairs as the test, and training has none.

        Raises:
            InputError: the model knows none of the tracks, or no pair is left.
        """
        _refuse_other_ids(self.path, self.catalog, catalog)
        other, rows, listens = copy(self), catalog.rows_of(self.catalog.track_ids), self._cut.listens
        cut, _ = self._cut.without({"unknown": rows[listens.track] < 0})
        other.catalog, other._cut = catalog, replace(cut, listens=replace(cut.listens, track=rows[cut.listens.track]))
        other.rules = replace(self.rules, split="auto")  # whole sessions
        other = other.divided(np.full(len(cut), SPLITS.index("test"), np.int8))
        if not len(other.pairs["test"]):
            raise InputError(f"no pair of {self.path} has two tracks of the model; give longer logs of its tracks")
        other.vocabulary = replace(other.vocabulary, plays=plays)
        other.new_tracks &= plays == 0
        other.pairs["val"] = other.pairs["test"]
        return other

    @property
    def num_learned(self) -> tuple[int, int]:
        """See `SplitDataModule`; with what another run has learned."""
        if self._learned is None:
            return super().num_learned
        return self._learned.num_sessions + self._num_new, int(self.vocabulary.next_counts.sum())

    def remember(self, folder: Path, *, is_whole: bool) -> None:
        """See `SplitDataModule`."""
        known = {"files": known_files(self._files), "plays_of_files": by_keys(self._files.num_plays)}
        before, source = self._learned, None if self._learned is None else self._learned.source
        Learned.of(
            self, self._cut, is_whole=is_whole, now_ms=self._read_ms, before=before, source=source, **known
        ).write(folder)

    def read_new(self, learned: Learned, keep_days: float | None = None, before: Path | None = None) -> NewPlays:
        """Read the plays that a run has not learned, instead of `setup`.

        Args:
            learned: what it has learned.
            keep_days: older sessions are left out, in days before the last play; None for none.
            before: file of what the run knows of its listeners, with which `profiles` begins; it may be absent.

        Raises:
            InputError: the files cannot be read, or have no track of the run.
            NothingNew: there are none, or they make no pair.
        """
        self._prepare, self._before = None, before  # the files are there
        has_clock, num_known = learned.sessions.has_clock, len(learned.catalog)
        if not has_clock and keep_days is not None:
            raise InputError(f"keep_days= beside from= needs timestamps, and {self.path} has none; train a new run")
        rules = self.rules = replace(self.rules, split="auto", cold_share=0.0)
        was, settings = learned.reading, self._settings
        columns = {role: was["columns"].get(role) if to == "auto" else to for role, to in settings.columns.items()}
        self._settings = replace(settings, columns=columns, units=replace(settings.units, **was["units"]))
        with self.source(learned) as source:
            self.reading, self._files = source.reading, source.files
            num_learned, num_later = source.files.num_learned, source.files.num_later
            read, catalog = cut_sessions(source, rules), source.catalog
        if has_clock != read.has_clock:
            raise InputError(
                f"from=: {self.path} has {'no ' * has_clock}timestamps, and the plays that the run has learned have "
                f"{'' if has_clock else 'none'}; give the logs of the same source"
            )
        if self.reading.share != was["share"]:
            raise InputError(
                f"from=: shares of {self.path} are from {self.reading.share}, and those of the run are from "
                f"{was['share']}; give logs with the columns of the run"
            )
        if len(learned.later_ms):
            read, _ = read.without({"learned": np.isin(read.timestamp, learned.later_ms)})
            if not len(read):
                raise NothingNew(num_learned, num_later)
        if not has_clock:
            if len(read) <= learned.num_sessions:
                raise NothingNew
            read = chosen_sessions(read, np.arange(len(read)) >= learned.num_sessions)
        _refuse_other_ids(self.path, catalog, learned.catalog, may_be_new=True)
        self.catalog, rows = with_new_tracks(learned.catalog, catalog)
        read = replace(read, listens=replace(read.listens, track=rows[read.listens.track]))
        self._num_new, self._read = len(read), read
        self._learned, kept = learned, learned.sessions
        self._cut, self.is_by_time = joined(kept, read), True
        evaluated = self.divided(np.repeat(np.array([0, 2], np.int8), [len(kept), len(read)]))
        if keep_days is not None:  # the model that was served has learned the others too
            oldest = read.timestamp.max() - keep_days * 86_400_000
            self._cut = joined(chosen_sessions(kept, kept.timestamp[kept.place == 0] >= oldest), read)
        whole = self.divided(np.zeros(len(self._cut), np.int8))
        if not len(evaluated.pairs["test"]):
            raise NothingNew(num_learned, num_later)
        known = evaluated.vocabulary
        for data in (evaluated, whole):
            if (own := data.vocabulary.calendar) is not None:
                calendar = replace(own, half_life=learned.half_life, newest_days=learned.newest_days)
                data.vocabulary = replace(data.vocabulary, calendar=calendar)
        evaluated.vocabulary = learned.counts_in(evaluated.vocabulary)
        if not learned.is_whole:
            whole.vocabulary = learned.counts_added(whole.vocabulary, known)
        evaluated.new_tracks &= evaluated.vocabulary.plays == 0
        evaluated.pairs["val"] = evaluated.pairs["test"]
        times = read.timestamp
        return NewPlays(
            evaluated=evaluated,
            whole=whole,
            since_ms=learned.until_ms,
            until_ms=int(times.max()),
            num_kept=len(self._cut) - len(read),
            num_sessions=len(read),
            num_plays=len(times),
            num_tracks=len(self.catalog) - num_known,
            num_artists=self.catalog.num_artists - learned.catalog.num_artists,
            num_late=learned.late(num_learned),
            num_later=num_later,
            shares=_sums_of_shares(evaluated._test_listens()),
        )

    def profiles(self) -> Profiles:
        """See `SplitDataModule`; in a night those of the run that it begins from, after the new plays."""
        profiles = profiles_of(self.sessions if self._read is None else self._read, self.catalog)
        if self._before is None or not self._before.is_file():
            return profiles
        left_out = np.array([key_of(id) for id in ids_in(self.rules.policies.without)], np.int64)
        return Profiles.read(self._before).without(left_out).continued_by(profiles)

    def _test_listens(self) -> Listens:
        parts, listens = self._part_of_session, self.sessions.listens
        return listens if parts is None else listens.where(parts[listens.session] == SPLITS.index("test"))

    def source(self, learned: Learned | None = None) -> AbstractContextManager[SourceEvents]:
        """Read the events of the source; `setup` cuts them into sessions.

        Args:
            learned: plays and files that are left out; None for none.

        Returns:
            A context that has the events; see `read_table`.
        """
        policies, known = self.rules.policies, dict[str, Any]()
        self.read_on = str(policies.last_day) if policies.ends_now else None
        self._read_ms = int(1000 * time.time()) if policies.ends_now else None
        if learned is not None and learned.sessions.has_clock:  # without one, sessions are counted
            known = {"learned": f"timestamp <= {learned.until_ms}", "known_files": learned.files.keys()}
            known["now_ms"] = self._read_ms
        left_out = LeftOut(
            min_seconds=policies.min_seconds,
            since=policies.first_day,
            until=policies.last_day,
            is_now=policies.ends_now,
            listeners=ids_in(policies.without),
            **known,
        )
        return read_table(self.path, self._settings, left_out=left_out, rejections=self._rejections)

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        warnings = find_warnings(self.reading, self.dropped, self.read_on, measure_sessions(self.sessions))
        return [
            *remarks_on_columns(self.reading),
            *remarks_on(self, self.rules.policies.interleaved),
            *(f"warning      {warning.says}; {warning.remedy}" for warning in warnings),
            *super().remarks(),
        ]

    @property
    def rejected_path(self) -> Path:
        """File that rejected rows are written to."""
        return self._rejections.path

    @property
    def last_day(self) -> str | None:
        """See `SplitDataModule`."""
        return self.read_on if self.reading.dropped.get("until") else None
