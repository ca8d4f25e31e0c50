"""The `LightningDataModule` of a source: reads its files, cuts sessions, pairs tracks and splits.

N tracks, S sessions, P pairs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Int8, Int64

from segue.catalog import Catalog, quoted
from segue.datamodules.describing.facts import MAX_PLAYS, measure_sessions
from segue.datamodules.describing.warnings import find_warnings
from segue.datamodules.pairs.pair_rules import PairRules, Policies
from segue.datamodules.pairs.pairs_in_splits import pairs_in_splits, track_facts, training_plays
from segue.datamodules.pairs.profiles_of_sessions import ids_in, profiles_of
from segue.datamodules.pairs.sessions import cut_sessions
from segue.datamodules.reading.rejected_rows import Rejections
from segue.datamodules.reading.table import LeftOut, SourceEvents, read_table
from segue.datamodules.reading.table_settings import Attributes, TableSettings, table_settings
from segue.datamodules.remarks import remarks_on, remarks_on_columns
from segue.datamodules.split_datamodule import SplitDataModule
from segue.datamodules.splits import SPLITS, split
from segue.errors import InputError
from segue.runs.profiles import Profiles
from segue.settings import Setting, from_config, settings


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
            self.reading, self.catalog = source.reading, source.catalog
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
        rows, listens = catalog.rows_of(self.catalog.track_ids), self._cut.listens
        if (rows < 0).all():
            of_read, of_known = (quoted(one.track_ids.item(0)) for one in (self.catalog, catalog))
            raise InputError(
                f"none of the {len(rows):,} tracks in {self.path}, such as {of_read}, is among the {len(catalog):,} of "
                f"the run, such as {of_known}; give logs with the ids of the run, or wait for plays of known tracks"
            )
        other = copy(self)
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

    def profiles(self) -> Profiles:
        """See `SplitDataModule`."""
        return profiles_of(self.sessions, self.catalog)

    def source(self) -> AbstractContextManager[SourceEvents]:
        """Read the events of the source: a context that has them; see `read_table`."""
        policies = self.rules.policies
        self.read_on = str(policies.last_day) if policies.ends_now else None
        left_out = LeftOut(
            min_seconds=policies.min_seconds,
            since=policies.first_day,
            until=policies.last_day,
            listeners=ids_in(policies.without),
        )
        return read_table(self.path, self._settings, left_out=left_out, rejections=self._rejections)

    def remarks(self) -> list[str]:
        """What to print below the summary. Call it after `setup`."""
        facts = measure_sessions(self.sessions) if len(self.sessions.listens.track) <= MAX_PLAYS else None
        warnings = find_warnings(self.reading, self.dropped, self.read_on, facts)
        return [
            *remarks_on_columns(self.reading),
            *remarks_on(self, self.rules.policies.interleaved),
            *(f"warning      {warning.says}; {warning.remedy}" for warning in warnings),
            *super().remarks(),
        ]

    @property
    def last_day(self) -> str | None:
        """See `SplitDataModule`."""
        return self.read_on if self.reading.dropped.get("until") else None
