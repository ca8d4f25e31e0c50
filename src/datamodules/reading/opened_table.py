"""Opens a source: which of its columns are read, in which units, and what the share played is computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import duckdb

from segue.datamodules.reading.column_roles import map_columns, refuse_private
from segue.datamodules.reading.files import find_files
from segue.datamodules.reading.queries import one_line, quoted_name, run
from segue.datamodules.reading.raw_rows import RawRows, find_late_keys, open_rows
from segue.datamodules.reading.row_sql import Cells, Plan, min_seconds_rule
from segue.datamodules.reading.table_settings import TableSettings
from segue.datamodules.reading.track_file import Tracks, read_track_file
from segue.datamodules.reading.units import check_times, unit_of_duration, unit_of_ratio, unit_of_time
from segue.errors import InputError

_OF_ITEMS = ("item", "row", "place")
"""Columns of events that are elements of a list."""

_SAMPLE = 10_000
"""Rows whose values decide the units that the settings leave open."""


@dataclass(frozen=True, kw_only=True)
class OpenedTable:
    """The rows of a source before they are read: `relation` has them with all derived columns.

    Args:
        rows: the rows of its files.
        cells: their cells.
        plan: what is read.
        settings: of the table.
        folder: the folder of the source, or its file.
        has_catalogue: whether a file has the tracks.
    """

    rows: RawRows
    cells: Cells
    plan: Plan
    settings: TableSettings
    folder: Path
    has_catalogue: bool

    def relation(self) -> str:
        """SQL of the rows with all derived columns."""
        return _with_derived(self.rows.relation(), self.settings)


def open_table(
    database: duckdb.DuckDBPyConnection, path: str, settings: TableSettings, folder: Path, *, min_seconds: int | float
) -> tuple[Tracks | None, OpenedTable]:
    """The catalogue, if the source has one in a file, and the rows; nothing is read but the first of them.

    Raises:
        InputError: files are missing or damaged, or a column is missing.
    """
    files = find_files(path, settings.files, unpacked=folder / "unpacked")
    archive = folder / "unpacked"
    place = archive if archive.is_dir() else Path(path)
    tracks = read_track_file(database, settings, place)
    rows = open_rows(database, files, settings.files, key="datamodule.files", optional=settings.optional)
    columns = [*settings.columns.values(), *(a.column for a in settings.attributes.values() if a.file is None)]
    of_files = [path for path in columns if path and path not in (*settings.sql.columns, *_OF_ITEMS)]
    find_late_keys(database, rows, [*settings.optional, *of_files])
    refuse_private(rows.columns, settings.sql.texts)
    rows.use_in_sql(settings.sql.texts)
    derived = _derived_types(database, rows, settings)
    cells = Cells(rows, derived)
    values = partial(_values, database, cells, settings)
    mapping = map_columns(
        rows,
        settings.columns,
        list(derived),
        has_numbers=lambda column: _are_numbers(values(column)),
        is_filled=partial(_is_filled, database, cells, settings),
    )
    has_durations = tracks is not None and tracks.has_durations
    plan = Plan(
        mapping=mapping,
        units=_units(mapping, values, settings),
        share=_share(mapping, settings, has_durations=has_durations),
        track_ids=settings.ids if tracks is None else tracks.ids,
        catalogue_has_durations=has_durations,
        drop=dict(settings.sql.drop),
    )
    if min_seconds:
        if plan.share == "gap":
            raise InputError(
                f"datamodule.policies.min_seconds={min_seconds:g} cannot be used with datamodule.share=gap: the gap "
                "would also span the plays that are left out"
            )
        rule = {"min_seconds": min_seconds_rule(min_seconds, plan, cells)}
        plan = replace(plan, drop={**plan.drop, **rule})
    return tracks, OpenedTable(
        rows=rows, cells=cells, plan=plan, settings=settings, folder=place, has_catalogue=tracks is not None
    )


def _with_derived(relation: str, settings: TableSettings) -> str:
    """SQL of rows with the columns of `datamodule.sql`; a row for each item, if a row has several."""
    sql = settings.sql
    if sql.each is not None:
        relation = f"""
            SELECT *, unnest(items) AS item, unnest(range(len(items))) AS place FROM (
                SELECT * EXCLUDE items, COALESCE(len(items) = 0, FALSE) AS has_no_item,
                       CASE WHEN items IS NULL OR len(items) = 0 THEN [NULL] ELSE items END AS items
                FROM (SELECT *, row_number() OVER () - 1 AS row, ({sql.each}) AS items FROM ({relation})))"""
    if sql.columns:
        columns = ", ".join(f"({text}) AS {quoted_name(name)}" for name, text in sql.columns.items())
        relation = f"SELECT *, {columns} FROM ({relation})"
    return relation


def _derived_types(database: duckdb.DuckDBPyConnection, rows: RawRows, settings: TableSettings) -> dict[str, str]:
    names = [*(_OF_ITEMS if settings.sql.each else ()), *settings.sql.columns]
    if not names:
        return {}
    query = f"DESCRIBE {_with_derived(rows.relation(limit=1), settings)}"
    try:
        described = database.execute(query, rows.parameters).fetchall()
    except duckdb.Error as error:
        raise InputError(
            f"datamodule.sql does not fit {rows.files.shown[0]}: {one_line(error)[:300]}; its columns are "
            f"{', '.join(rows.columns[:30])}"
        ) from None
    return {name: str(type_) for name, type_, *_ in described if name in names}


def _values(
    database: duckdb.DuckDBPyConnection, cells: Cells, settings: TableSettings, path: str, num: int = _SAMPLE
) -> list[str]:
    """The first values of a column as texts, without empty ones."""
    relation = _with_derived(cells.rows.relation(limit=num), settings)
    query = f"SELECT value FROM (SELECT {cells.shown(path)} AS value FROM ({relation})) WHERE value <> '' LIMIT {num}"
    found = run(database, query, cells.rows.parameters, files=cells.rows.files).fetchall()
    return [str(value) for (value,) in found]


def _is_filled(database: duckdb.DuckDBPyConnection, cells: Cells, settings: TableSettings, path: str) -> bool:
    """Whether 99 % of the first rows have a value in a column."""
    relation = _with_derived(cells.rows.relation(limit=_SAMPLE), settings)
    query = f"SELECT COALESCE(avg((COALESCE({cells.shown(path)}, '') <> '')::INT), 0) FROM ({relation})"
    [(share,)] = run(database, query, cells.rows.parameters, files=cells.rows.files).fetchall()
    return bool(share >= 0.99)


def _are_numbers(values: list[str]) -> bool:
    return bool(values) and all(value.lstrip("-").isdecimal() for value in values)


def _units(mapping: Mapping[str, str], values: "partial[list[str]]", settings: TableSettings) -> dict[str, str]:
    given = settings.units
    samples = {
        role: values(column) if given[role] == "auto" else [] for role, column in mapping.items() if role in given
    }
    units: dict[str, str] = {}
    if column := mapping.get("timestamp"):
        units["timestamp"] = unit_of_time(samples["timestamp"], given["timestamp"], column=column)
        if given["timestamp"] == "auto" and units["timestamp"] == "iso":
            check_times(samples["timestamp"], column=column)
    for role in ("played", "duration"):
        if column := mapping.get(role):
            key = f"datamodule.units.{role}"
            units[role] = unit_of_duration(samples[role], given[role], column=column, key=key)
    if column := mapping.get("played_ratio"):
        units["played_ratio"] = unit_of_ratio(samples["played_ratio"], given["played_ratio"], column=column)
    return units


def _share(mapping: Mapping[str, str], settings: TableSettings, *, has_durations: bool) -> str:
    """What the share played is computed from; see `Plan.share`."""
    has_duration = has_durations or "duration" in mapping
    of_played = "played" if has_duration else "longest"
    possible = {
        "ratio": "ratio" if "played_ratio" in mapping else None,
        "played": of_played if "played" in mapping else None,
        "skipped": "skipped" if "skipped" in mapping else None,
        "none": "none",
    }
    if settings.share == "auto":
        return next(filter(None, possible.values()))
    if settings.share == "gap":
        if not has_duration or "timestamp" not in mapping:
            raise InputError(
                "datamodule.share=gap needs the columns timestamp and duration; give datamodule.columns.duration="
            )
        if settings.clock == "end":
            raise InputError("datamodule.share=gap needs the start of each play; clock=end says that times are the end")
        return "gap"
    if (share := possible[settings.share]) is None:
        role = {"ratio": "played_ratio"}.get(settings.share, settings.share)
        raise InputError(
            f"datamodule.share={settings.share} needs a column; give datamodule.columns.{role}=<column>, or share=auto"
        )
    return share
