"""Plays: what listeners heard, read from any source."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from segue.datamodules.reading.column_names import ROLES
from segue.datamodules.reading.files import is_address
from segue.datamodules.source_choice import sources_of
from segue.errors import InputError
from segue.verbs.api.calling import Folder, Result, call, value_of, words_of
from segue.verbs.describe import describe
from segue.verbs.train import read_data

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE = "plays.parquet"  # the temporary file of a table in memory


class Description(Result):
    """What data look like: numbers, warnings with remedies, a picture."""

    name = "describe"

    @property
    def warnings(self) -> pd.DataFrame:
        """A line for each warning: its name, what it says, the remedy."""
        return pd.DataFrame(self.record["warnings"])


class Plays:
    """What listeners heard: the events of a source, cut into sessions and divided into training, validation and test.

    It is printed as the table that `train.py` prints of its data. See `read_plays`.

    Attributes:
        datamodule: the data.
        names: what messages call its path.
    """

    def __init__(self, words: list[str], kept: Folder | None = None) -> None:
        self._words, self._kept = words, kept  # the temporary file of a DataFrame lives as long as this
        self.names = {"datamodule__path": "plays", **({} if kept is None else {str(kept.path / _TABLE): "the table"})}
        (self.datamodule, _), self._printed = call(read_data, words, names=self.names)
        path = self.datamodule.path
        self._path = None if is_address(path) else Path(path).absolute()

    @property
    def words(self) -> list[str]:
        """Words of the command line that name this source, also after a change of the working directory."""
        if self._path is None:
            return self._words
        here = Path.cwd()
        path = self._path.relative_to(here) if self._path.is_relative_to(here) else self._path
        return [self._words[0], f"datamodule.path={value_of(path)}", *self._words[2:]]

    @property
    def tracks(self) -> Shaped[np.ndarray, "N"]:
        """Ids of the tracks, whole numbers or texts."""
        return np.asarray(self.datamodule.catalog.track_ids)

    def __len__(self) -> int:
        """Number of plays that are in sessions."""
        return len(self.datamodule.sessions.listens.track)

    def describe(self, folder: str | Path | None = None, **options: Any) -> Description:
        """Describe the data before training, as `describe.py` does.

        Args:
            folder: where `describe.json` and `describe.png` are written; a temporary folder by default.
            options: of `describe.py`, by name.

        Returns:
            The numbers, warnings with their remedies, and a picture.

        Raises:
            InputError: an option is unknown or out of range.
        """
        place = Folder(folder)
        return Description(call(describe, [*self.words, *words_of(options)], place, self.names)[1], place)

    def __repr__(self) -> str:
        return self._printed.text()

    def _repr_html_(self) -> str:
        return self._printed.html()


def read_plays(plays: Any, source: str | None = None, **options: Any) -> Plays:
    """Read what listeners heard.

    Args:
        plays: a file, a folder, a glob or an address; a DataFrame of pandas or Polars, or an Arrow table, with a line
            for each play; or a mapping from roles, such as `user`, `timestamp`, `track`, `title` and `artist`, to
            columns of values. It is not changed; levels of the index of pandas that have a name are columns.
        source: the source, one of `datamodule=`; by default it is recognised by the names of the files, otherwise
            `table`: columns with usual names are found.
        options: settings of the source, such as `columns={"user": "listener"}` or `session_gap_minutes=60`; the page of
            settings lists those of `datamodule`.

    Raises:
        InputError: the data cannot be read, or an option is unknown or out of range.

    Examples:
        >>> import segue
        >>> plays = segue.read_plays("examples/plays.csv")
        >>> len(plays.tracks)
        200
    """
    try:
        return plays_of(plays, source, options)
    except InputError as error:
        raise InputError(str(error).replace("datamodule__", "").replace("datamodule=", "source=")) from error.__cause__


def plays_of(plays: Any, source: str | None, options: Mapping[str, Any]) -> Plays:
    """Read plays as `read_plays` does; messages name options as `fit` takes them, such as `datamodule__zone`."""
    kept = None
    if not isinstance(plays, str | Path):
        plays, options, kept = _as_file(plays, source, options)
    path = str(plays) if is_address(str(plays)) else str(Path(plays).expanduser())
    chosen = source or next(iter(sources_of(Path(path))), "table")
    words = [f"datamodule={value_of(chosen)}", f"datamodule.path={value_of(path)}"]
    return Plays([*words, *(f"datamodule.{word}" for word in words_of(options))], kept)


def _as_file(data: Any, source: str | None, options: Mapping[str, Any]) -> tuple[Path, dict[str, Any], Folder]:
    import pyarrow as pa
    from pyarrow import parquet

    if source not in (None, "table"):
        raise InputError(f"source={source} names files, and the plays are a table in memory; leave out source=")
    columns = options.get("columns", {})
    if not isinstance(columns, Mapping):
        raise InputError(f"columns={columns!r} must be a mapping from roles to columns: {{'user': 'listener'}}")
    try:
        if isinstance(data, Mapping):
            if unknown := [str(role) for role in data if role not in ROLES]:
                raise InputError(f"{unknown[0]!r} is not a role of a column; use {', '.join(ROLES)}")
            columns = {**{str(role): str(role) for role in data}, **columns}
            table = pa.table({str(role): pa.array(column) for role, column in data.items()})
        elif hasattr(data, "iloc") and hasattr(data, "columns"):  # pandas
            is_named = any(name is not None for name in data.index.names)
            table = pa.Table.from_pandas(data.reset_index() if is_named else data, preserve_index=False)
        elif hasattr(data, "__arrow_c_stream__") and not hasattr(data, "iloc"):
            table = pa.table(data)
        else:
            raise InputError(
                f"plays cannot be a {type(data).__name__}; give a path, a DataFrame of pandas or Polars, an Arrow "
                "table, or a mapping from roles to columns"
            )
        folder = Folder(content="plays")
        parquet.write_table(_as_plain(table), folder.path / _TABLE)
    except InputError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OSError) as error:
        raise InputError(f"the plays cannot be written as a table: {' '.join(str(error).split())[:300]}") from None
    return folder.path / _TABLE, {**options, **({"columns": columns} if columns else {})}, folder


def _as_plain(table: "pa.Table") -> "pa.Table":
    """The table with categories as values, and durations in seconds."""
    import pyarrow as pa
    from pyarrow import compute

    def plain(column: Any) -> Any:
        kind = column.type
        if pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):  # which Arrow cannot cast
            return pa.array(column.to_pylist(), pa.string())
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        column = column.cast(pa.string() if pa.types.is_string_view(kind) else kind)
        if pa.types.is_duration(kind):
            whole = column.cast(pa.duration("ns"), safe=False).cast(pa.int64())
            column = compute.divide(whole.cast(pa.float64(), safe=False), 1e9)
        return column

    return pa.table([plain(column) for column in table.columns], names=table.column_names)
