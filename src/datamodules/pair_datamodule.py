"""The `LightningDataModule` of a source: reads its files, cuts sessions, pairs tracks and splits.

N tracks, S sessions, P pairs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from segue.datamodules.pairs.pair_rules import PairRules, Policies
from segue.datamodules.pairs.pairs_in_splits import pairs_in_splits, track_facts, training_plays
from segue.datamodules.pairs.sessions import Sessions, cut_sessions
from segue.datamodules.reading.rejected_rows import Rejections
from segue.datamodules.reading.table import SourceEvents, read_table
from segue.datamodules.reading.table_settings import table_settings
from segue.datamodules.remarks import remarks_on
from segue.datamodules.split_datamodule import SplitDataModule
from segue.datamodules.splits import SPLITS, split
from segue.errors import InputError, check_flag, check_number


class PairDataModule(SplitDataModule):
    """Pairs of tracks from the listening logs or playlists of one source.

    Args:
        path: file or folder of the source; also a glob, or an address such as `s3://…`.
        prepare: creates the files where they are missing: takes `path` and returns the folder that holds them. None if
            the files must exist.
        files: which files, and how they are written; see `FileSettings`.
        columns: the column of each role; see `TableSettings` for this and the next eight.
        units: units of times and shares.
        zone: time zone of times that have none.
        clock: whether a timestamp is the `start` or the `end` of a play.
        ids: kind of the ids.
        artist_separator: what separates several artists.
        share: what the share played is computed from.
        shares_above_one: whether shares above 1 are capped.
        unknown_shares: whether rows without a ratio are kept.
        optional: columns that files may lack.
        catalogue: a file of tracks; see `CatalogueSettings`.
        sql: SQL for special layouts; see `SqlSettings`.
        attributes: what else is known of the tracks: a kind, or settings, for each name; see `AttributeSettings`.
        attribute_defaults: value of each setting that an attribute does not give.
        policies: which events are left out; see `Policies`.
        pairing: `consecutive`, `first` or `window`; see `PairRules` for this and the next two.
        window: largest distance for `pairing=window`, at least 1.
        split: `time`, `session`, `pair` or `auto`.
        history: largest number of tracks of the session that a batch has for each pair, at least 0. `context=` sets it.
        split_seed: seed of `split=session|pair`, in [0, 2³²). It is separate from `seed`, therefore runs with different
            seeds have the same test set.
        cold_share: share of the tracks played in training that are hidden from it, in [0, 0.9]; 0 hides none. Their
            events are left out of the training sessions, as in a log from before their release. Validation and test
            keep them.
        cold_seed: decides which tracks are hidden, in [0, 2³²). Runs with different seeds hide the same ones.
        session_gap_minutes: a longer pause ends a session, in minutes, above 0.
        max_rejected: largest share of rows that may be rejected, in [0, 1].
        rejected_path: file that rejected rows are written to.
        rejected_text: whether this file has the text of the rows, which may have ids of users.
        batch_size: number of pairs in a batch, at least 1.
        seed: seed of the order of the training pairs, in [0, 2³²).

    Raises:
        InputError: an argument is out of range.

    `rules` are the settings from `policies` to `session_gap_minutes`. `prepared_by` is `prepare`; `prepare_data` and
    `setup` set `path`. What else `setup` sets is described in `SplitDataModule`.
    """

    def __init__(
        self,
        *,
        path: str,
        prepare: Callable[[Path], Path] | None,
        files: Mapping[str, Any],
        columns: Mapping[str, str | None],
        units: Mapping[str, str],
        zone: str,
        clock: str,
        ids: str,
        artist_separator: str | None,
        share: str,
        shares_above_one: str,
        unknown_shares: str,
        optional: Sequence[str],
        catalogue: Mapping[str, Any] | None,
        sql: Mapping[str, Any],
        attributes: Any,
        attribute_defaults: Mapping[str, Any],
        policies: Mapping[str, Any],
        pairing: str,
        window: int,
        history: int,
        split: str,
        split_seed: int,
        cold_share: int | float,
        cold_seed: int,
        session_gap_minutes: float,
        max_rejected: float,
        rejected_path: str,
        rejected_text: bool,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(path=path, prepared_by=prepare, history=history, seed=seed)
        check_number("batch_size", batch_size, whole=True, least=1)
        check_flag("datamodule.rejected_text", rejected_text)
        self._prepare = prepare
        self._settings = table_settings(
            files=files,
            columns=columns,
            units=units,
            zone=zone,
            clock=clock,
            ids=ids,
            artist_separator=artist_separator,
            share=share,
            shares_above_one=shares_above_one,
            unknown_shares=unknown_shares,
            optional=optional,
            catalogue=catalogue,
            sql=sql,
            attributes=attributes,
            attribute_defaults=attribute_defaults,
        )
        self.rules = PairRules(
            policies=Policies.from_config(policies),
            pairing=pairing,
            window=window,
            split=split,
            split_seed=split_seed,
            cold_share=cold_share,
            cold_seed=cold_seed,
            session_gap_minutes=session_gap_minutes,
        )
        self._max_rejected = max_rejected
        self._rejections = Rejections(path=Path(rejected_path), with_text=rejected_text)
        self.batch_size = batch_size

    def prepare_data(self) -> None:
        """Create the files of the source if `prepare` was given. Later calls do nothing.

        Raises:
            InputError: the files cannot be created.
        """
        if self._prepare is not None:
            self.path, self._prepare = str(self._prepare(Path(self.path))), None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - signature of Lightning; every stage needs all data
        """Read the source and split it. Later calls do nothing.

        Args:
            stage: ignored.

        Raises:
            InputError: the files cannot be read (see `read_table`), or a split has no pairs.
        """
        if self.sizes is not None:
            return
        with self.source() as source:
            self.reading, self.catalog = source.reading, source.catalog
            sessions = cut_sessions(source, self.rules)
        self._assign(sessions)

    def source(self) -> AbstractContextManager[SourceEvents]:
        """Read the events of the source; `setup` cuts them into sessions.

        Returns:
            A context that has the events; see `read_table`.
        """
        return read_table(
            self.path,
            self._settings,
            min_seconds=self.rules.policies.min_seconds,
            max_rejected=self._max_rejected,
            rejections=self._rejections,
        )

    def _assign(self, sessions: Sessions) -> None:
        """Split the sessions, or the pairs, and apply what is computed from training data alone."""
        rules, num_tracks, is_longest = self.rules, len(self.catalog), self.reading.share == "longest"
        kind = rules.split_of(has_clock=sessions.has_clock)
        num_pairs = int(np.minimum(sessions.place, rules.reach).sum())
        parts = split(kind, rules.split_seed, len(sessions), num_pairs, lambda: sessions.key)
        facts = track_facts(
            lambda: [training_plays(sessions, parts, rules, num_tracks)], self.catalog, rules, is_longest=is_longest
        )
        found = pairs_in_splits(sessions, parts, rules, facts)
        self.sessions, self._part_of_session, self._dropped = found.sessions, found.part, found.dropped
        self.pairs = {
            name: found.pairs.where(found.is_kept & (found.part_of_pair == part)) for part, name in enumerate(SPLITS)
        }
        if empty := [name for name, part in self.pairs.items() if not len(part)]:
            if not len(found.pairs):
                raise InputError(
                    f"no pairs: none of {len(found.sessions):,} sessions in {self.path} has two tracks; check "
                    "datamodule.columns.user, datamodule.columns.timestamp and datamodule.units.timestamp"
                )
            raise InputError(
                f"no pairs left for {' and '.join(empty)}: {len(found.sessions)} sessions with {len(found.pairs)} "
                f"pairs in {self.path} are too few for split={kind}; {self._remedy_of_few()}"
            )
        self.describe_pairs(facts.hidden)

    def _remedy_of_few(self) -> str:
        """What to do about too few pairs: name columns that were not found, or add data."""
        columns = self.reading.columns
        if "session" in columns or {"user", "timestamp"} <= set(columns):
            return "add more logs"
        missing = [role for role in ("user", "timestamp") if role not in columns]
        return (
            f"no column is the {' or the '.join(missing)}: give "
            f"{' and '.join(f'datamodule.columns.{role}=<column>' for role in missing)}, or add more logs"
        )

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        return remarks_on(
            self.reading,
            self.sessions,
            self.pairs,
            self.catalog,
            dropped=self.dropped,
            interleaved=self.rules.policies.interleaved,
            now_ms=time.time() * 1000,
        )
