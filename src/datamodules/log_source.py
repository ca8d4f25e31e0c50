"""A source of logs: its files, and the settings that say how they are read and which of their events make pairs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from segue.datamodules.describing.facts import MAX_PLAYS, measure_sessions
from segue.datamodules.describing.warnings import find_warnings
from segue.datamodules.pairs.pair_rules import PairRules, Policies
from segue.datamodules.pairs.profiles_of_sessions import ids_in
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.datamodules.reading.rejected_rows import Rejections
from segue.datamodules.reading.table import LeftOut, SourceEvents, read_table
from segue.datamodules.reading.table_settings import Attributes, TableSettings, table_settings
from segue.datamodules.remarks import remarks_on, remarks_on_columns
from segue.settings import Setting, from_config, settings


@settings("datamodule", PairRules, TableSettings)
class LogSource:
    """Event logs or playlists.

    Args:
        path: file or folder; also a glob, or an address such as `s3://…`.
        prepare: creates the files where they are missing: takes `path` and returns the folder that holds them. None if
            the files must exist.
        max_rejected: the run stops if a larger share of the rows is rejected.
        rejected_path: file that rejected rows are written to.
        attributes: what else is known of the tracks; see `AttributeSettings`.
        groups: the settings of `PairRules`, and those of `TableSettings`, as the config has them.

    Attributes:
        rules: the `PairRules`.
        prepared_by: `prepare`.
        read_on: the last day (UTC) whose plays are read, if the clock of this machine says so.
    """

    read_on: str | None = None
    shuffled_together: int | None = None  # all
    batch_size = 1024
    not_as_training = None

    def __init__(
        self,
        *,
        path: str,
        prepare: Callable[[Path], Path] | None = None,
        max_rejected: Annotated[
            float, Setting("most rejected rows, as a share", least=0, most=1, hint="such as 0.01")
        ] = 0.01,
        rejected_path: Annotated[str, Setting("file that rejected rows are written to")],
        attributes: Attributes = None,
        **groups: Any,
    ) -> None:
        self.path, self.prepared_by, self._prepare = str(path), prepare, prepare
        rules = {field.name: groups.pop(field.name) for field in fields(PairRules)}
        policies = from_config(Policies, rules["policies"], key="datamodule.policies")
        self.rules = PairRules(**{**rules, "policies": policies})
        self._settings = table_settings(attributes=attributes, **groups)
        self._rejections = Rejections(path=Path(rejected_path), most=max_rejected)

    def prepare(self) -> None:
        """Create the files if `prepare` was given. Later calls do nothing.

        Raises:
            InputError: the files cannot be created.
        """
        if self._prepare is not None:
            self.path, self._prepare = str(self._prepare(Path(self.path))), None

    def events(self) -> AbstractContextManager[SourceEvents]:
        """Read the events: a context that has them; see `read_table`."""
        policies = self.rules.policies
        self.read_on = str(policies.last_day) if policies.ends_now else None
        left_out = LeftOut(
            min_seconds=policies.min_seconds,
            since=policies.first_day,
            until=policies.last_day,
            listeners=ids_in(policies.without),
        )
        return read_table(self.path, self._settings, left_out=left_out, rejections=self._rejections)

    def remarks(self, data: SplitPairs) -> list[str]:
        """What to print of what was read."""
        facts = measure_sessions(data.sessions) if len(data.sessions.listens.track) <= MAX_PLAYS else None
        warnings = find_warnings(data.reading, data.dropped, self.read_on, facts)
        return [
            *remarks_on_columns(data.reading),
            *remarks_on(data, self.rules.policies.interleaved),
            *(f"warning      {warning.says}; {warning.remedy}" for warning in warnings),
        ]
