"""The settings of a source: the keys of `conf/datamodule/*.yaml` that say what its files contain."""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar, get_args

import duckdb
from omegaconf import OmegaConf

from segue.datamodules.reading.database import connect
from segue.datamodules.reading.queries import one_line
from segue.errors import InputError
from segue.settings import Setting, checked, from_config, settings

RESERVED = ("track", "artist")
"""Names of what every catalogue has, which no attribute may have."""
_TIMES = ("auto", "s", "ms", "us", "iso")
_OF_TIME = "since 1970: s, ms or us; iso: a date and time; or a format of strptime such as '%d %b %Y, %H:%M'"
_Text = str | None
_Column = str | int | None
_Format = Literal["auto", "csv", "jsonl", "json", "parquet", "lines"]
_Duration = Literal["auto", "s", "ms", "us", "hms"]
_Share = Literal["auto", "ratio", "played", "skipped", "gap", "none"]
_Kind = Literal["value", "values", "number", "vector"]
_Part = TypeVar("_Part")
Attributes = Annotated[
    Mapping[str, Any] | None,
    Setting("what else is known of the tracks", hint="a kind for each name, such as {year: number}, or its settings"),
]
"""The setting `datamodule.attributes`; see `AttributeSettings`."""
_Expressions = Mapping[str, str | None]


@dataclass(kw_only=True)
class FileFormat:
    """How files are written.

    Args:
        group: what comes before the names of these settings on the command line.

    Raises:
        InputError: Python does not know the encoding.
    """

    group: str
    format: Annotated[_Format, Setting("jsonl: an object in each line; json: an array; lines: plain text")] = "auto"
    delimiter: Annotated[str, Setting("what separates the columns of csv; auto: what most rows agree on")] = "auto"
    quote: Annotated[Literal["auto", "", '"', "'"], Setting("around texts of csv; empty: a part of texts")] = "auto"
    header: Annotated[Literal["auto"] | bool, Setting("whether csv begins with the names of its columns")] = "auto"
    names: Annotated[Sequence[str | int] | None, Setting("names of the columns of csv without a header")] = None
    skip: Annotated[int, Setting("number of lines before the header, or before the first row", least=0)] = 0
    encoding: Annotated[str, Setting("such as windows-1252; auto: UTF-8, or UTF-16 by its mark")] = "auto"

    def __post_init__(self) -> None:
        if self.encoding == "auto":
            return
        try:
            "".encode(self.encoding)
            self.encoding = "utf-8" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding
        except (LookupError, ValueError):
            raise InputError(
                f"{self.group}.encoding must be auto or an encoding that Python knows, such as utf-8, utf-16, "
                f"windows-1252 or shift_jis, got {self.encoding!r}"
            ) from None


@settings("datamodule.files")
@dataclass(kw_only=True)
class FileSettings(FileFormat):
    """The files of the events; the keys of `datamodule.files`."""

    pattern: Annotated[str | Sequence[str], Setting("glob of files; of several, the first that fits")] = "**/*"
    newest_first: Annotated[bool, Setting("whether of two events with one time the later row was the first")] = False


@settings("datamodule.columns")
@dataclass(frozen=True, kw_only=True)
class Columns:
    """The keys of `datamodule.columns`: the column of each role; None for none, `auto` to find it."""

    user: Annotated[_Column, Setting("listener; without it there is one listener")] = None
    timestamp: Annotated[_Column, Setting("without it there is no order of time: split=session")] = None
    track: Annotated[_Column, Setting("id; without it, title and artist make the track")] = None
    title: Annotated[_Column, Setting("title of the track")] = None
    artist: Annotated[_Column, Setting("without it, every track has an artist of its own")] = None
    played_ratio: Annotated[_Column, Setting("share played")] = None
    played: Annotated[_Column, Setting("time played")] = None
    duration: Annotated[_Column, Setting("length of the track")] = None
    skipped: Annotated[_Column, Setting("whether the track was skipped")] = None
    session: Annotated[_Column, Setting("id of a session or a playlist")] = None
    last: Annotated[_Column, Setting("whether an event ends its session")] = None
    recommendation: Annotated[_Column, Setting("track that was recommended next")] = None


@settings("datamodule.sql")
@dataclass(kw_only=True)
class SqlSettings:
    """What columns alone cannot describe, as SQL of DuckDB; the keys of `datamodule.sql`. What is null is left out.

    Args:
        group: what comes before the names of these settings on the command line.

    Raises:
        InputError: a text is not one expression.
    """

    group: str
    each: Annotated[_Text, Setting("a list; each element, named item, is an event at a place of a row")] = None
    columns: Annotated[_Expressions, Setting("expressions that roles can name like columns")] = field(
        default_factory=dict
    )
    drop: Annotated[_Expressions, Setting("conditions of rows that are left out, by the name in counts")] = field(
        default_factory=dict
    )
    reject: Annotated[_Expressions, Setting("conditions of rows that are rejected, by the reason")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        _checked({"each": self.each}, self.group)
        for name in ("columns", "drop", "reject"):
            setattr(self, name, _checked(getattr(self, name), f"{self.group}.{name}"))

    @property
    def texts(self) -> list[str]:
        """All expressions."""
        return [*filter(None, [self.each, *self.columns.values(), *self.drop.values(), *self.reject.values()])]


def _checked(expressions: _Expressions, key: str) -> _Expressions:
    """Expressions by name without those that are null. A text that ends its query could begin another one."""
    given = {name: text for name, text in expressions.items() if text is not None}
    for name, text in given.items():
        try:
            duckdb.SQLExpression(text)
        except duckdb.Error as error:
            raise InputError(
                f"{key}.{name} must be one SQL expression of DuckDB, got {text!r}: {one_line(error)[:200]}"
            ) from None
    return given


@settings("datamodule.units")
@dataclass(frozen=True, kw_only=True)
class Units:
    """The keys of `datamodule.units`; `auto`: what most rows show. See `units.py`.

    Raises:
        InputError: a time has no such unit, and DuckDB knows no such format.
    """

    timestamp: Annotated[str, Setting(_OF_TIME)] = "auto"
    played: Annotated[_Duration, Setting("of the time played")] = "auto"
    duration: Annotated[_Duration, Setting("of the length of a track")] = "auto"
    played_ratio: Annotated[Literal["auto", "fraction", "percent"], Setting("of a share played")] = "auto"

    def __post_init__(self) -> None:
        if self.timestamp in _TIMES:
            return
        try:
            connect(threads=1).execute("SELECT try_strptime('', ?)", [self.timestamp])
            reason = "" if "%" in self.timestamp else "it has no part such as %d"
        except duckdb.Error as error:
            reason = one_line(error)
        if reason:
            raise InputError(
                f"datamodule.units.timestamp must be one of {', '.join(_TIMES)}, or a format of strptime such as "
                f"'%d %b %Y, %H:%M', got {self.timestamp!r}: {reason}"
            )


@settings("datamodule.catalogue")
@dataclass(kw_only=True)
class CatalogueSettings(FileFormat):
    """A file of tracks beside the events; the keys of `datamodule.catalogue`."""

    file: Annotated[str | Sequence[str] | None, Setting("glob of the file in the folder of the events")] = None
    columns: Annotated[Mapping[str, _Column], Setting("those of track, title, artist and duration")] = field(
        default_factory=lambda: {"track": None, "title": None, "artist": None, "duration": None}
    )
    units: Annotated[Mapping[str, _Duration], Setting("unit of the duration")] = field(
        default_factory=lambda: {"duration": "auto"}
    )
    required: Annotated[bool, Setting("whether it must exist; without it, the events have titles and artists")] = True
    unknown: Annotated[
        Literal["reject", "add"], Setting("events of tracks that it lacks: reject them, or add these")
    ] = "reject"
    sql: Annotated[_Expressions, Setting("expressions that roles can name like columns")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sql = _checked(self.sql, f"{self.group}.sql")


@dataclass(kw_only=True)
class AttributeSettings(FileFormat):
    """Where an attribute of the tracks is read from; the keys of `datamodule.attributes.<name>`.

    Raises:
        InputError: settings of a file are given without it, or do not fit a `.npy` file.
    """

    name: str
    kind: Annotated[_Kind, Setting("one value of many, several, a number, or a list of numbers")]
    column: Annotated[_Text, Setting("the column of its file, or of the tracks; null: that of its name")] = None
    file: Annotated[_Text, Setting("its file in the folder of the events; .npy is memory-mapped")] = None
    track: Annotated[_Text, Setting("column of the ids in its file; null: entry n is that of track n")] = None
    ids: Annotated[_Text, Setting("file with an id in a line for each row of a .npy file")] = None
    separator: Annotated[_Text, Setting("between several values in a text; a JSON array needs none")] = None
    unknown: Annotated[Sequence[str], Setting("texts that mean nothing, such as #")] = ()
    required: Annotated[bool, Setting("whether the file must exist, or without a file the column")] = True
    most_shared: Annotated[float, Setting("largest share of tracks with the same value", above=0, most=1)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        is_numpy = self.file is not None and self.file.endswith(".npy")
        if self.track is not None and self.file is None:
            raise InputError(f"{self.group}.track belongs to {self.group}.file, which is not given; give it too")
        if self.ids is not None and not is_numpy:
            raise InputError(f"{self.group}.ids belongs to a .npy file; give {self.group}.track=<column of the ids>")
        if is_numpy and self.kind not in ("number", "vector"):
            raise InputError(f"{self.group}.kind={self.kind}: a .npy file has numbers; give {self.group}.kind=vector")

    @property
    def path(self) -> str:
        """The column that has it."""
        return self.column or self.name


def attribute_settings(config: Any) -> list[AttributeSettings]:
    """Check the settings of all attributes.

    Args:
        config: by the name of the attribute, its kind, or its settings; those that are null are left out.

    Raises:
        InputError: a name cannot be used, a key is unknown, or a value is not allowed.
    """
    checked("datamodule.attributes", config, *get_args(Attributes))
    found = []
    for name, given in (config or {}).items():
        key = f"datamodule.attributes.{name}"
        if name in RESERVED or not str(name).isidentifier():
            raise InputError(
                f"{key}: an attribute needs a name of letters, digits and underscores other than "
                f"{' and '.join(RESERVED)}; datamodule.columns and datamodule.catalogue.columns say where those are"
            )
        if given is not None:
            values = {"kind": None, **given} if isinstance(given, Mapping) else {"kind": given}
            found.append(from_config(AttributeSettings, values, key=key, group=key, name=str(name)))
    return found


@settings("datamodule", FileSettings, Columns, Units, CatalogueSettings, SqlSettings)
@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How the files of a source become events.

    Args:
        files: the files of the events.
        columns: the column of each role; None for none, `auto` for one that names or values show.
        units: unit of times and shares.
        catalogue: a file of tracks; without its `file`, the events have all that is known of them.
        sql: expressions for special layouts.
        attributes: what else is known of the tracks.

    Raises:
        InputError: a value is not allowed.
    """

    files: FileSettings
    columns: Mapping[str, str | None]
    units: Units
    catalogue: CatalogueSettings
    sql: SqlSettings
    attributes: Sequence[AttributeSettings]
    zone: Annotated[str, Setting("time zone of times that have none, such as Europe/Berlin")] = "UTC"
    clock: Annotated[Literal["start", "end"], Setting("which moment of a play its timestamp is")] = "start"
    ids: Annotated[Literal["auto", "whole", "text"], Setting("auto: whole numbers if all ids are")] = "auto"
    artist_separator: Annotated[_Text, Setting("between several artists in a text, of whom the first counts")] = None
    share: Annotated[_Share, Setting("source of shares played; auto: the first that has columns, but not the gap")] = (
        "auto"
    )
    shares_above_one: Annotated[Literal["cap", "reject"], Setting("cap shares at 1, or reject the row")] = "cap"
    unknown_shares: Annotated[Literal["keep", "reject"], Setting("keep rows without a ratio, or reject them")] = "keep"
    optional: Annotated[Sequence[str], Setting("columns that files may lack; they are empty then")] = ()


def _part(made: type[_Part], config: Any, key: str) -> _Part:
    return from_config(made, config, key=key, group=key)


def table_settings(
    *, files: Any, columns: Mapping[str, Any], units: Any, catalogue: Any, sql: Any, attributes: Any, **others: Any
) -> TableSettings:
    """Check all settings of a source.

    Args:
        files: see `FileSettings`.
        columns: see `Columns`.
        units: see `Units`.
        catalogue: see `CatalogueSettings`; None for none.
        sql: see `SqlSettings`.
        attributes: see `attribute_settings`.
        others: the other arguments of `TableSettings`.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    named = asdict(from_config(Columns, columns, key="datamodule.columns"))
    return TableSettings(
        files=_part(FileSettings, files, "datamodule.files"),
        columns={role: None if column is None else str(column) for role, column in named.items()},
        units=from_config(Units, units, key="datamodule.units"),
        catalogue=_part(CatalogueSettings, catalogue or {}, "datamodule.catalogue"),
        sql=_part(SqlSettings, sql, "datamodule.sql"),
        attributes=attribute_settings(attributes),
        **others,
    )


def settings_in(config: Any) -> TableSettings:
    """What the files of a source contain, without the rest of a run.

    Args:
        config: of the datamodule, as OmegaConf has it.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    keys = [field.name for field in fields(TableSettings)]
    chosen: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
    return table_settings(**chosen)
