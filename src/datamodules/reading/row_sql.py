"""From the rows of files to parsed rows: the SQL that reads the roles of each row, and says why a row is rejected.

A parsed row has the columns `file`, `user`, `timestamp` (ms), `track` (its key), `title`, `artist`, `share`, `session`,
`is_last`, `recommendation`, `dropped` (name of the rule that leaves it out) and `reason` (why it is rejected); those
without a meaning for a source are NULL. `row` and `place` are there if a row has several events, `is_blank` for text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from segue.datamodules.reading.queries import quoted_name
from segue.datamodules.reading.raw_rows import RawRows
from segue.datamodules.reading.table_settings import TableSettings
from segue.datamodules.reading.units import LATEST_MS, MS_OF, USUAL_FORMATS
from segue.errors import InputError

_SHORT = "DECIMAL(18, 3)"  # a cast to BIGINT would round 1.7 to 2 without an error
_LONG = "DECIMAL(22, 3)"  # for ids above 10¹⁵; arithmetic with its 128 bits is ten times as slow
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_YES, _NO = "('true', 't', '1', 'yes', 'y', '1.0')", "('false', 'f', '0', 'no', 'n', '0.0')"
_NAME_OF_UNIT = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is read, after all that was left open has been decided.

    Args:
        mapping: the column of each role.
        units: unit of `timestamp`, `played`, `duration` and `played_ratio`, for the roles that have a column.
        share: `ratio`, `played`, `longest`, `gap`, `skipped` or `none`; with `longest` the share of a parsed row is the
            milliseconds played, with `gap` the duration.
        track_ids: `whole`, `text` or `auto`, as the catalogue has them.
        catalogue_has_durations: whether the catalogue gives durations.
        drop: conditions of rows that are left out, by name.
    """

    mapping: Mapping[str, str]
    units: Mapping[str, str]
    share: str
    track_ids: str
    catalogue_has_durations: bool
    drop: Mapping[str, str]


class Cells:
    """SQL of the cells of a relation.

    Args:
        rows: the rows of the files.
        derived: type of each column that `datamodule.sql` defines.
    """

    def __init__(self, rows: RawRows, derived: Mapping[str, str]) -> None:
        self.rows, self._derived = rows, derived

    def type_of(self, path: str) -> str:
        """Type of a column; VARCHAR for what is text."""
        if path in self._derived:
            return self._derived[path]
        return "VARCHAR" if self.rows.is_json else self.rows.cell(path)[1]

    def typed(self, path: str, type_: str) -> str:
        """The value as another type, NULL where it is not one."""
        if path not in self._derived and self.rows.is_json:
            return self.rows.cell(path, type_)[0]
        return f"TRY_CAST({self._plain(path)[0]} AS {type_})"

    def text(self, path: str) -> str:
        """The value as text, NULL where it is empty."""
        plain, type_ = self._plain(path)
        if type_.endswith("[]"):
            return f"CAST({plain}[1] AS VARCHAR)"
        if type_ in ("FLOAT", "DOUBLE"):  # ids of pandas, where one was missing: 7.0
            return f"regexp_replace(CAST({plain} AS VARCHAR), '[.]0$', '')"
        return f"NULLIF({plain}, '')" if type_ == "VARCHAR" else f"CAST({plain} AS VARCHAR)"

    def shown(self, path: str) -> str:
        """The value as text for a message, also of a JSON value that is read as a number."""
        if path not in self._derived and self.rows.is_json:
            keys = "".join(f'."{key}"' for key in self.rows.parts(path))
            return f"TRY(json_extract_string(line, '${_sql(keys)}'))"
        return f"CAST({self._plain(path)[0]} AS VARCHAR)"

    def whole_text(self, path: str) -> str:
        """The value as text, NULL where it is empty; a list is a JSON array."""
        plain, type_ = ("", "VARCHAR") if self.rows.is_json and path not in self._derived else self._plain(path)
        if type_.endswith("]"):
            return f"CAST(to_json({plain}) AS VARCHAR)"
        return self.shown(path) if self.rows.is_json and path not in self._derived else self.text(path)

    def reread(self, path: str, type_: str) -> str:
        """The value as another type, also of a JSON value that `fields` has as some type; slow."""
        if path in self._derived or not self.rows.is_json:
            return self.typed(path, type_)
        schema: object = type_
        parts = self.rows.parts(path)
        for key in reversed(parts):
            schema = {key: schema}
        inner = ".".join(map(quoted_name, parts))
        return f"TRY(json_transform(line, '{_sql(json.dumps(schema))}')).{inner}"

    def _plain(self, path: str) -> tuple[str, str]:
        return (quoted_name(path), self._derived[path]) if path in self._derived else self.rows.cell(path)


def parse_select(plan: Plan, cells: Cells, settings: TableSettings) -> str:
    """SQL SELECT list of a parsed row.

    Args:
        plan: what is read.
        cells: the cells of a row.
        settings: of the table.

    Raises:
        InputError: an expression needs a column that has no role.
    """
    user, user_reason = _id(plan.mapping.get("user") or plan.mapping.get("session"), cells, settings.ids)
    track, track_reason = _track(plan, cells, settings)
    timestamp, time_reason = _timestamp(plan, cells, settings)
    share, share_reason = _share(plan, cells, settings)
    title = cells.text(plan.mapping["title"]) if "title" in plan.mapping else "CAST(NULL AS VARCHAR)"
    session = plan.mapping.get("session")
    recommendation = plan.mapping.get("recommendation")
    last = plan.mapping.get("last")
    reasons = [f"WHEN {condition} THEN '{_sql(reason)}'" for reason, condition in settings.sql.reject.items()]
    reasons += [*time_reason, *user_reason, *track_reason, *share_reason]
    if cells.rows.is_json:
        reasons.insert(0, "WHEN fields IS NULL THEN 'not a JSON object'")
    drops = [f"WHEN {condition} THEN '{_sql(name)}'" for name, condition in plan.drop.items()]
    return f"""
        {user} AS user, {timestamp} AS timestamp, {track} AS track, {title} AS title,
        {artist_of(plan.mapping.get("artist"), cells, settings)} AS artist, {share} AS share,
        {f"CAST(hash({cells.text(session)}) >> 1 AS BIGINT)" if session else "CAST(NULL AS BIGINT)"} AS session,
        {f"COALESCE(lower({cells.text(last)}) IN {_YES}, FALSE)" if last else "FALSE"} AS is_last,
        {_recommendation(recommendation, plan, cells)} AS recommendation,
        {f"CASE {' '.join(drops)} END" if drops else "CAST(NULL AS VARCHAR)"} AS dropped,
        {f"CASE {' '.join(reasons)} END" if reasons else "CAST(NULL AS VARCHAR)"} AS reason"""


def artist_of(path: str | None, cells: Cells, settings: TableSettings) -> str:
    """SQL of the first artist of a row: of a list, of a JSON array, or of a text with a separator."""
    if path is None:
        return "CAST(NULL AS VARCHAR)"
    text = cells.text(path)
    if cells.rows.is_json:
        is_list = f"{text} LIKE '[%' AND json_valid({text})"
        text = f"CASE WHEN {is_list} THEN json_extract_string({text}, '$[0]') ELSE {text} END"
    if settings.artist_separator is not None:
        text = f"trim(string_split({text}, '{_sql(settings.artist_separator)}')[1])"
    return f"NULLIF({text}, '')"


def whole(path: str, cells: Cells) -> str:
    """SQL of a value as BIGINT; NULL where it is not a whole number."""
    if cells.type_of(path) in _INTEGERS:
        return f"CAST({cells.typed(path, 'BIGINT')} AS BIGINT)"
    short = cells.typed(path, _SHORT)
    long = cells.reread(path, _LONG)
    return f"""CASE WHEN {short} % CAST(1 AS {_SHORT}) = 0 THEN CAST({short} AS BIGINT)
                    WHEN {short} IS NULL AND TRY_CAST({long} AS BIGINT) = {long} THEN TRY_CAST({long} AS BIGINT) END"""


def _id(path: str | None, cells: Cells, ids: str) -> tuple[str, list[str]]:
    """SQL of an id, and when it is a reason to reject the row. Without a column, every row has the id 0."""
    if path is None:
        return "CAST(0 AS BIGINT)", []
    if ids == "whole" or (ids == "auto" and cells.type_of(path) in _INTEGERS):
        return (number := whole(path, cells)), [f"WHEN {number} IS NULL THEN '{_sql(path)} must be a whole number'"]
    return (text := cells.text(path)), [f"WHEN {text} IS NULL THEN '{_sql(path)} is empty'"]


def _track(plan: Plan, cells: Cells, settings: TableSettings) -> tuple[str, list[str]]:
    """SQL of the key of a track: its id, otherwise the hash of title and artist."""
    if path := plan.mapping.get("track"):
        return _id(path, cells, plan.track_ids)
    title = cells.text(plan.mapping["title"])
    artist = artist_of(plan.mapping.get("artist"), cells, settings)
    key = f"CAST(hash({title}, {artist}) >> 1 AS BIGINT)"
    return key, [f"WHEN {title} IS NULL THEN '{_sql(plan.mapping['title'])} is empty'"]


def _recommendation(path: str | None, plan: Plan, cells: Cells) -> str:
    """SQL of the id of the recommended track. What is no id has no row in the catalogue, therefore a cast is enough."""
    if path is None:
        return "CAST(NULL AS BIGINT)"
    return cells.typed(path, "BIGINT") if plan.track_ids == "whole" else _id(path, cells, plan.track_ids)[0]


def _timestamp(plan: Plan, cells: Cells, settings: TableSettings) -> tuple[str, list[str]]:
    path = plan.mapping.get("timestamp")
    if path is None:
        return "CAST(NULL AS BIGINT)", []
    unit, type_ = plan.units["timestamp"], cells.type_of(path)
    if type_.startswith(("TIMESTAMP", "DATE")):
        time = f"epoch_ms(CAST({cells.typed(path, 'TIMESTAMPTZ')} AS TIMESTAMPTZ))"
        rule = "a time"
    elif unit in ("us", "ns"):
        time = f"CAST(TRY_CAST({cells.text(path)} AS HUGEINT) // {round(1 / MS_OF[unit])} AS BIGINT)"
        rule = f"a whole number of {_NAME_OF_UNIT[unit]} since 1970"
    elif unit in ("s", "ms"):
        number = whole(path, cells) if unit == "ms" else f"{cells.typed(path, _SHORT)} * {MS_OF[unit]:.0f}"
        time = f"CAST({number} AS BIGINT)"
        rule = f"a {'whole ' * (unit == 'ms')}number of {_NAME_OF_UNIT[unit]} since 1970"
    elif unit == "iso":
        text = cells.text(path)
        formats = ", ".join(f"'{format_}'" for format_ in USUAL_FORMATS)
        time = f"""epoch_ms(COALESCE(TRY_CAST({text} AS TIMESTAMPTZ),
                        CAST(TRY_STRPTIME({text}, [{formats}]) AS TIMESTAMPTZ)))"""
        rule = "a date and time such as 2026-01-31T12:00:00Z"
    else:
        time = f"epoch_ms(CAST(TRY_STRPTIME({cells.text(path)}, '{_sql(unit)}') AS TIMESTAMPTZ))"
        rule = f"a time of the format {unit}"
    reason = f"""WHEN COALESCE({time} NOT BETWEEN 0 AND {LATEST_MS - 1}, TRUE)
        THEN '{_sql(path)} must be {_sql(rule)}, from 1970 to 2099' || {_got(path, cells)}"""
    if settings.clock == "end" and "played" in plan.mapping:
        played = _milliseconds("played", plan, cells)
        time = f"{time} - COALESCE(TRY_CAST({played} AS BIGINT), 0)"
        too_long = f"WHEN {time} < 0 THEN '{_sql(plan.mapping['played'])} is longer than the time since 1970'"
        return time, [reason, *_bad_time("played", plan, cells), too_long]
    return time, [reason]


def _share(plan: Plan, cells: Cells, settings: TableSettings) -> tuple[str, list[str]]:
    if plan.share == "none":
        return "CAST(NULL AS FLOAT)", []
    if plan.share == "ratio":
        return _ratio(plan, cells, settings)
    if plan.share == "skipped":
        path = plan.mapping["skipped"]
        text = f"lower({cells.text(path)})"
        share = f"CASE WHEN {text} IN {_YES} THEN 0.0 WHEN {text} IN {_NO} THEN 1.0 END"
        rule = f"'{_sql(path)} must be true or false' || {_got(path, cells)}"
        return share, [f"WHEN {text} IS NOT NULL AND ({share}) IS NULL THEN {rule}"]
    roles = [role for role in ("played", "duration") if role in plan.mapping]
    reasons = [reason for role in roles for reason in _bad_time(role, plan, cells)]
    if plan.share == "gap":
        duration = _milliseconds("duration", plan, cells) if "duration" in plan.mapping else "CAST(NULL AS DOUBLE)"
        return f"NULLIF({duration}, 0)", reasons
    played = _milliseconds("played", plan, cells)
    if plan.share == "longest" or plan.catalogue_has_durations:
        return played, reasons
    duration = f"NULLIF({_milliseconds('duration', plan, cells)}, 0)"
    return f"{played} / {duration}", reasons


def _ratio(plan: Plan, cells: Cells, settings: TableSettings) -> tuple[str, list[str]]:
    path = plan.mapping["played_ratio"]
    value = cells.typed(path, "DOUBLE")
    share = f"{value} / 100" if plan.units["played_ratio"] == "percent" else value
    reasons = []
    if not (cells.rows.is_json and cells.type_of(path) == "VARCHAR"):
        filled = f"{cells.text(path)} IS NOT NULL AND {value} IS NULL"
        reasons = [f"WHEN {filled} THEN '{_sql(path)} must be a number' || {_got(path, cells)}"]
    else:
        filled = f"{value} IS NULL AND {cells.shown(path)} IS NOT NULL"
        reasons = [f"WHEN {filled} THEN '{_sql(path)} must be a number' || {_got(path, cells)}"]
    if settings.unknown_shares == "reject":
        reasons.append(f"WHEN {value} IS NULL THEN '{_sql(path)} must be a number'")
    wrong = f"{share} < 0 OR NOT isfinite({share})"
    if settings.shares_above_one == "reject":
        wrong = f"{share} NOT BETWEEN 0 AND 1"
    reasons.append(f"WHEN {wrong} THEN 'the share played must lie in [0, 1], got ' || ({share})")
    return share, reasons


def capped(share: str) -> str:
    """SQL of a share that is at most 1; NULL stays NULL, which `least` would ignore."""
    return f"CASE WHEN {share} > 1 THEN 1 ELSE {share} END"


def _milliseconds(role: str, plan: Plan, cells: Cells) -> str:
    number = cells.typed(plan.mapping[role], "DOUBLE")
    return number if (factor := MS_OF[plan.units[role]]) == 1 else f"({number} * {factor:g})"


def _bad_time(role: str, plan: Plan, cells: Cells) -> list[str]:
    path = plan.mapping[role]
    value = cells.typed(path, "DOUBLE")
    text = cells.shown(path)
    is_bad = f"({value} IS NULL AND NULLIF({text}, '') IS NOT NULL) OR {value} < 0 OR NOT isfinite({value})"
    unit = _NAME_OF_UNIT[plan.units[role]]
    return [f"WHEN {is_bad} THEN '{_sql(path)} must be a number of {unit}, at least 0' || {_got(path, cells)}"]


def _got(path: str, cells: Cells) -> str:
    """SQL of the end of a reason: the value."""
    return f"COALESCE(', got ' || left({cells.shown(path)}, 60), ', got nothing')"


def min_seconds_rule(seconds: int | float, plan: Plan, cells: Cells) -> str:
    """SQL condition of a play that is too short.

    Raises:
        InputError: no column says how long a track was played.
    """
    if "played" not in plan.mapping:
        raise InputError(
            f"datamodule.policies.min_seconds={seconds:g} needs the time played; give "
            "datamodule.columns.played=<column>"
        )
    return f"COALESCE({_milliseconds('played', plan, cells)} < {seconds * 1000:g}, FALSE)"


def _sql(text: str) -> str:
    return text.replace("'", "''")
