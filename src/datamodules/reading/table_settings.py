"""The settings of a source: the keys of `conf/datamodule/*.yaml` that say what its files contain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import available_timezones

import duckdb

from segue.datamodules.reading.attribute_settings import AttributeSettings, attribute_settings
from segue.datamodules.reading.column_roles import ROLES
from segue.datamodules.reading.files import FileSettings, refuse_unknown
from segue.datamodules.reading.queries import one_line
from segue.datamodules.reading.units import unit_of_duration, unit_of_ratio, unit_of_time
from segue.errors import InputError

SHARES = ("auto", "ratio", "played", "skipped", "gap", "none")
"""What the share played is computed from; see `TableSettings.share`."""

UNITS = ("timestamp", "played", "duration", "played_ratio")
"""Roles that have a unit; the keys of `datamodule.units`."""

_FILE_KEYS = ("format", "delimiter", "quote", "header", "names", "skip", "encoding")


@dataclass(frozen=True, kw_only=True)
class CatalogueSettings:
    """A file of tracks beside the events; the keys of `datamodule.catalogue`.

    Args:
        files: the file, and how it is written.
        columns: the column of each of `track`, `title`, `artist` and `duration`.
        duration_unit: unit of the duration.
        required: whether the file must exist; without it, titles and artists come from the events, if they have them.
        unknown: `reject` events of tracks that it does not have, or `add` these tracks.
        repeated: `refuse` a track that it has twice, or take the `first`.
        sql: expressions that roles can name like columns; their values are texts.
    """

    files: FileSettings
    columns: Mapping[str, str | None]
    duration_unit: str
    required: bool
    unknown: str
    repeated: str
    sql: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SqlSettings:
    """What columns alone cannot describe, as SQL of DuckDB; the keys of `datamodule.sql`.

    Args:
        each: a list; each of its elements, named `item`, is an event. `row` is the number of its row, and `place`
            is its place in the list.
        columns: expressions that roles can name like columns.
        drop: conditions of rows that are left out, by the name under which they are counted.
        reject: conditions of rows that are rejected, by the reason.
    """

    each: str | None
    columns: Mapping[str, str]
    drop: Mapping[str, str]
    reject: Mapping[str, str]

    @property
    def texts(self) -> list[str]:
        """All expressions."""
        return [*filter(None, [self.each]), *self.columns.values(), *self.drop.values(), *self.reject.values()]


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How the files of a source become events.

    Args:
        files: the files of the events.
        columns: the column of each role; None for none, `auto` for one that has a usual name.
        units: unit of each of `UNITS`; see `units.py`.
        zone: time zone of times that have none, such as Europe/Berlin.
        clock: whether a timestamp is the `start` or the `end` of a play.
        ids: `whole` numbers, `text`, or `auto`: whole numbers if all ids are.
        artist_separator: what separates several artists in a text, of whom the first counts; None for nothing.
        share: what the share played is computed from: a `ratio`, the time `played` and the duration (of the longest
            play in training, if no column has it), whether the track was `skipped`, the `gap` to the next start and the
            duration, or `none`; `auto`: the first of these for which there are columns, except the gap.
        shares_above_one: `cap` them at 1, or `reject` the row.
        unknown_shares: `keep` rows without a ratio, or `reject` them.
        optional: columns that files may lack; they are empty then.
        catalogue: a file of tracks; None if the events have all that is known of them.
        sql: expressions for special layouts.
        attributes: what else is known of the tracks, by name.
    """

    files: FileSettings
    columns: Mapping[str, str | None]
    units: Mapping[str, str]
    zone: str
    clock: str
    ids: str
    artist_separator: str | None
    share: str
    shares_above_one: str
    unknown_shares: str
    optional: Sequence[str]
    catalogue: CatalogueSettings | None
    sql: SqlSettings
    attributes: Mapping[str, AttributeSettings]

    def __post_init__(self) -> None:
        refuse_unknown(self.columns, ROLES, key="datamodule.columns")
        refuse_unknown(self.units, UNITS, key="datamodule.units")
        for name, allowed in (
            ("clock", ("start", "end")),
            ("ids", ("auto", "whole", "text")),
            ("share", SHARES),
            ("shares_above_one", ("cap", "reject")),
            ("unknown_shares", ("keep", "reject")),
        ):
            check_choice(f"datamodule.{name}", getattr(self, name), allowed)
        unit_of_time([], self.units["timestamp"], column="")
        unit_of_ratio([], self.units["played_ratio"], column="")
        for role in ("played", "duration"):
            unit_of_duration([], self.units[role], column="", key=f"datamodule.units.{role}")


def table_settings(
    *,
    files: Mapping[str, Any],
    catalogue: Mapping[str, Any] | None,
    sql: Mapping[str, Any],
    attributes: Any,
    attribute_defaults: Mapping[str, Any],
    **settings: Any,
) -> TableSettings:
    """Check all settings of a source.

    Args:
        files: see `FileSettings`.
        catalogue: see `CatalogueSettings`.
        sql: see `SqlSettings`.
        attributes: see `attribute_settings`, like the next.
        attribute_defaults: value of each setting that an attribute does not give.
        settings: the other arguments of `TableSettings`.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    names = ("columns", "zone", "artist_separator", "optional")
    settings |= _checked(**{name: settings[name] for name in names})
    return TableSettings(
        files=FileSettings.from_config(files, key="datamodule.files"),
        catalogue=catalogue_settings(catalogue),
        sql=sql_settings(sql),
        attributes=attribute_settings(attributes, attribute_defaults),
        **settings,
    )


def _checked(*, columns: Mapping[str, Any], zone: Any, artist_separator: Any, optional: Any) -> dict[str, Any]:
    """The settings whose type may be wrong; names of columns as texts."""
    for role, column in columns.items():
        if column is not None and (not isinstance(column, str | int) or column in ("", True, False)):
            raise InputError(f"datamodule.columns.{role} must be the name of a column, or null, got {column!r}")
    if zone not in available_timezones():
        raise InputError(f"datamodule.zone must be a time zone such as UTC or Europe/Berlin, got {zone!r}")
    if artist_separator is not None and (not isinstance(artist_separator, str) or not artist_separator):
        raise InputError(f"datamodule.artist_separator must be a text such as ';', or null, got {artist_separator!r}")
    if isinstance(optional, str) or not isinstance(optional, Sequence):
        raise InputError(f"datamodule.optional must be a list of columns, got {optional!r}")
    return {
        "columns": {role: None if column is None else str(column) for role, column in columns.items()},
        "zone": zone,
        "artist_separator": artist_separator,
        "optional": optional,
    }


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a setting that is not one of a few words.

    Raises:
        InputError: it is another one.
    """
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def catalogue_settings(config: Mapping[str, Any] | None) -> CatalogueSettings | None:
    """Check the settings of a file of tracks.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    if config is None or config.get("file") is None:
        return None
    key = "datamodule.catalogue"
    refuse_unknown(config, ["file", "columns", "units", "required", "unknown", "repeated", "sql", *_FILE_KEYS], key=key)
    columns = config["columns"]
    refuse_unknown(columns, ["track", "title", "artist", "duration"], key=f"{key}.columns")
    if columns.get("track") is None:
        raise InputError(f"{key}.columns.track must name the column of the ids of tracks")
    check_choice(f"{key}.unknown", config["unknown"], ("reject", "add"))
    check_choice(f"{key}.repeated", config["repeated"], ("refuse", "first"))
    files = {"pattern": config["file"], **{name: config[name] for name in _FILE_KEYS}}
    return CatalogueSettings(
        files=FileSettings.from_config(files, key=key),
        columns=columns,
        duration_unit=config["units"]["duration"],
        required=bool(config["required"]),
        unknown=config["unknown"],
        repeated=config["repeated"],
        sql=_expressions(config["sql"], f"{key}.sql"),
    )


def sql_settings(config: Mapping[str, Any]) -> SqlSettings:
    """Check the expressions of special layouts; those that are null are left out.

    Raises:
        InputError: a key is unknown, or a value is not one expression.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"datamodule.sql must have the keys each, columns, drop and reject, got {config!r}")
    refuse_unknown(config, ["each", "columns", "drop", "reject"], key="datamodule.sql")
    for name in ("columns", "drop", "reject"):
        if not isinstance(config.get(name) or {}, Mapping):
            raise InputError(f"datamodule.sql.{name} must be expressions by name, got {config[name]!r}")
    parts = {
        name: _expressions(config.get(name) or {}, f"datamodule.sql.{name}") for name in ("columns", "drop", "reject")
    }
    each = _expressions({"each": config.get("each")}, "datamodule.sql").get("each")
    return SqlSettings(each=each, **parts)


def _expressions(config: Mapping[str, Any], key: str) -> dict[str, str]:
    """Expressions by name without those that are null. A text that ends its query could begin another one."""
    given = {str(name): str(text) for name, text in config.items() if text is not None}
    for name, text in given.items():
        try:
            duckdb.SQLExpression(text)
        except duckdb.Error as error:
            raise InputError(
                f"{key}.{name} must be one SQL expression of DuckDB, got {text!r}: {one_line(error)[:200]}"
            ) from None
    return given
