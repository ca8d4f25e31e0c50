"""Opens a source: which of its columns are read, in which units, and what the share played is computed from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from segue.datamodules.reading.column_roles import map_columns, refuse_private
from segue.datamodules.reading.files import find_files
from segue.datamodules.reading.raw_rows import OF_ITEMS, RawRows, open_rows
from segue.datamodules.reading.row_sql import Plan, min_seconds_rule
from segue.datamodules.reading.table_settings import TableSettings
from segue.datamodules.reading.track_file import Tracks, read_track_file
from segue.datamodules.reading.units import check_times, unit_of_duration, unit_of_ratio, unit_of_time
from segue.errors import InputError

_SAMPLE = 10_000
"""Rows whose values decide the units that the settings leave open."""


@dataclass(frozen=True, kw_only=True)
class OpenedTable:
    """The rows of a source before they are read.

    Args:
        rows: the rows of its files.
        plan: what is read.
        settings: of the table.
        folder: the folder of the source, or its file.
        tracks: the catalogue, if the source has one in a file.
    """

    rows: RawRows
    plan: Plan
    settings: TableSettings
    folder: Path
    tracks: Tracks | None


def open_table(
    database: duckdb.DuckDBPyConnection, path: str, settings: TableSettings, folder: Path, *, min_seconds: int | float
) -> OpenedTable:
    """Open the files; nothing is read but the catalogue, if it is in a file, and the first rows.

    Raises:
        InputError: files are missing or damaged, or a column is missing.
    """
    archive = folder / "unpacked"
    files = find_files(path, settings.files, patterns=settings.files.pattern, unpacked=archive)
    place = archive if archive.is_dir() else Path(path)
    tracks = read_track_file(database, settings, place)
    rows = open_rows(database, files, settings.files, optional=settings.optional)
    columns = [*settings.columns.values(), *(one.path for one in settings.attributes if one.file is None)]
    of_files = [str(path) for path in columns if path and path not in (*settings.sql.columns, *OF_ITEMS)]
    rows.find_late_keys([*settings.optional, *of_files])
    refuse_private(list(rows.types), settings.sql.texts)
    rows.name_in_sql(settings.sql.texts)
    rows.define(settings.sql.columns, key="datamodule.sql", each=settings.sql.each)

    def values(path: str) -> list[str]:
        """The first values of a column as texts, without empty ones."""
        query = f"SELECT {rows.shown(path)} AS value FROM ({rows.relation(limit=_SAMPLE)})"
        return [str(text) for (text,) in rows.run(f"FROM ({query}) WHERE value <> '' LIMIT {_SAMPLE}").fetchall()]

    def is_filled(path: str) -> bool:
        """Whether 99 % of the first rows have a value in a column."""
        query = f"SELECT avg((COALESCE({rows.shown(path)}, '') <> '')::INT) FROM ({rows.relation(limit=_SAMPLE)})"
        [(share,)] = rows.run(query).fetchall()
        return bool((share or 0) >= 0.99)

    def has_numbers(path: str) -> bool:
        return bool(found := values(path)) and all(value.lstrip("-").isdecimal() for value in found)

    mapping = map_columns(rows, settings.columns, has_numbers, is_filled)
    has_durations = tracks is not None and tracks.has_durations
    plan = Plan(
        mapping=mapping,
        units=_units(mapping, values, settings),
        share=_share(mapping, settings, has_durations=has_durations),
        track_ids=settings.ids if tracks is None else tracks.ids,
        catalogue_has_durations=has_durations,
        drop=settings.sql.drop,
    )
    if min_seconds:
        if plan.share == "gap":
            raise InputError(
                f"datamodule.policies.min_seconds={min_seconds:g} cannot be used with datamodule.share=gap: the gap "
                "would also span the plays that are left out"
            )
        plan = replace(plan, drop={**plan.drop, "min_seconds": min_seconds_rule(min_seconds, plan, rows)})
    return OpenedTable(rows=rows, plan=plan, settings=settings, folder=place, tracks=tracks)


def _units(mapping: Mapping[str, str], values: Callable[[str], list[str]], settings: TableSettings) -> dict[str, str]:
    """The unit of each role that has one and a column: the setting, or what the first values show."""
    deciders = {
        "timestamp": unit_of_time,
        "played": unit_of_duration,
        "duration": unit_of_duration,
        "played_ratio": unit_of_ratio,
    }
    units = {role: getattr(settings.units, role) for role in deciders if role in mapping}
    for role in [role for role, unit in units.items() if unit == "auto"]:
        sample = values(mapping[role])
        units[role] = deciders[role](sample, column=mapping[role])
        if units[role] == "iso":
            check_times(sample, column=mapping[role])
    return units


def _share(mapping: Mapping[str, str], settings: TableSettings, *, has_durations: bool) -> str:
    """What the share played is computed from; see `Plan.share`."""
    has_duration = has_durations or "duration" in mapping
    possible = {
        "ratio": "ratio" if "played_ratio" in mapping else None,
        "played": None if "played" not in mapping else "played" if has_duration else "longest",
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
