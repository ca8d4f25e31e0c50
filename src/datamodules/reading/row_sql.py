"""From the rows of files to parsed rows: the SQL that reads the roles of each row, and says why a row is rejected.

A parsed row has the columns `file`, `user` and `track` (ids that are numbers, or the keys of `key_of_text`), `user_id`
and `track_id` (the texts of which they are keys, otherwise NULL), `timestamp` (ms), `title`, `artist`, `share`,
`session`, `is_last`, `recommendation`, `dropped` (name of the rule that leaves it out) and `reason` (why it is
rejected); those without a meaning for a source are NULL. `row` and `place` are there if a row has several events,
`is_blank` for text.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from segue.catalog import MOST_ID_BYTES
from segue.datamodules.reading.column_roles import Roles
from segue.datamodules.reading.queries import quoted_text
from segue.datamodules.reading.raw_rows import RawRows
from segue.datamodules.reading.table_settings import TableSettings
from segue.datamodules.reading.units import HMS, LATEST_MS, MS_OF, NO, YES, time_of_text
from segue.errors import InputError

_SHORT = "DECIMAL(18, 3)"  # a cast to BIGINT would round 1.7 to 2 without an error
_LONG = "DECIMAL(22, 3)"  # for ids above 10¹⁵; arithmetic with its 128 bits is ten times as slow
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_YES, _NO = (f"({', '.join(map(quoted_text, texts))})" for texts in (YES, NO))
NO_TEXT, _NO_NUMBER, _NO_SHARE = (f"CAST(NULL AS {type_})" for type_ in ("VARCHAR", "BIGINT", "FLOAT"))
CONSTANTS = ("FALSE", NO_TEXT, _NO_NUMBER, _NO_SHARE)
"""SQL of columns that have no meaning for a source."""
_NAME_OF_UNIT = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What is read, after all that was left open has been decided.

    Args:
        roles: the columns, and what is known of them.
        decimal_commas: columns of numbers such as 0,85.
        units: unit of `timestamp`, `played`, `duration` and `played_ratio`, for the roles that have a column.
        share: `ratio`, `played`, `longest`, `gap`, `skipped` or `none`; with `longest` the share of a parsed row is the
            milliseconds played, with `gap` the duration.
        track_ids: `whole`, `text` or `auto`, as the catalogue has them.
        drop: conditions of rows that are left out, by name.
        drop_times: the same, over the parsed `timestamp` of a row that is valid and not left out by another rule.
    """

    rows: RawRows
    settings: TableSettings
    roles: Roles
    decimal_commas: frozenset[str]
    units: Mapping[str, str]
    share: str
    track_ids: str
    catalogue_has_durations: bool
    drop: Mapping[str, str | None]
    drop_times: Mapping[str, str]

    @property
    def mapping(self) -> Mapping[str, str]:
        """The column of each role."""
        return self.roles.mapping


def parsed_columns(plan: Plan) -> dict[str, str]:
    """SQL of each column of a parsed row."""
    rows, settings, mapping = plan.rows, plan.settings, plan.mapping
    user, user_id, user_reason = _id(mapping.get("user") or mapping.get("session"), rows, settings.ids)
    track, track_id, track_reason = _track(plan)
    timestamp, time_reason = _timestamp(plan)
    share, share_reason = _share(plan)
    session, last = mapping.get("session"), mapping.get("last")
    reasons = ["WHEN fields IS NULL THEN 'not a JSON object'"] * rows.is_json
    reasons += [f"WHEN {condition} THEN {quoted_text(reason)}" for reason, condition in settings.sql.reject.items()]
    drops = [f"WHEN {condition} THEN {quoted_text(name)}" for name, condition in plan.drop.items()]
    return {
        "user": user,
        "user_id": user_id,
        "timestamp": timestamp,
        "track": track,
        "track_id": track_id,
        "title": rows.text(mapping["title"]) if "title" in mapping else NO_TEXT,
        "artist": artist_of(mapping.get("artist"), rows, settings),
        "share": share,
        "session": key_of_text(rows.text(session)) if session else _NO_NUMBER,
        "is_last": f"COALESCE({_is_yes(last, rows)}, FALSE)" if last else "FALSE",
        "recommendation": _recommendation(plan),
        "dropped": _case(drops),
        "reason": _case([*reasons, *time_reason, *user_reason, *track_reason, *share_reason]),
    }


def _is_yes(path: str, rows: RawRows) -> str:
    """SQL of whether a cell says yes, by a truth value or a text; NULL where it is empty."""
    return rows.value(path) if rows.type_of(path) == "BOOLEAN" else f"lower({rows.text(path)}) IN {_YES}"


def _case(branches: list[str]) -> str:
    return f"CASE {' '.join(branches)} END" if branches else NO_TEXT


def artist_of(path: str | None, rows: RawRows, settings: TableSettings) -> str:
    """SQL of the first artist of a row: of a list, of a JSON array, or of a text with a separator."""
    if path is None:
        return NO_TEXT
    text = rows.text(path)
    if rows.is_json:
        is_list = f"{text} LIKE '[%' AND json_valid({text})"
        first = f"COALESCE(json_extract_string({text}, '$[0].name'), json_extract_string({text}, '$[0]'))"
        text = f"CASE WHEN {is_list} THEN {first} ELSE {text} END"
    if settings.artist_separator:
        text = f"trim(string_split({text}, {quoted_text(settings.artist_separator)})[1])"
    return f"NULLIF({text}, '')"


def whole(path: str, rows: RawRows) -> str:
    """SQL of a value as BIGINT; NULL where it is not a whole number."""
    if rows.type_of(path) in _INTEGERS:
        return f"CAST({rows.typed(path, 'BIGINT')} AS BIGINT)"
    short = rows.typed(path, _SHORT)
    long = rows.typed(path, _LONG)
    return f"""CASE WHEN {short} % CAST(1 AS {_SHORT}) = 0 THEN CAST({short} AS BIGINT)
                    WHEN {short} IS NULL AND TRY_CAST({long} AS BIGINT) = {long} THEN TRY_CAST({long} AS BIGINT) END"""


def key_of_text(text: str) -> str:
    """SQL of the key of a text while a source is read, where numbers join tables; it is not `catalog.key_of`."""
    return f"CAST(hash({text}) >> 1 AS BIGINT)"


def _id(path: str | None, rows: RawRows, ids: str) -> tuple[str, str, list[str]]:
    """SQL of an id, and when it is a reason to reject the row. Without a column, every row has the id 0.

    An id is a number, or the key of a text, and this text.
    """
    if path is None:
        return "CAST(0 AS BIGINT)", NO_TEXT, []
    if ids == "whole" or (ids == "auto" and rows.type_of(path) in _INTEGERS):
        number, text = whole(path, rows), NO_TEXT
        wrong = {"must be a whole number": f"{number} IS NULL"}
    else:
        text = rows.text(path)
        number = key_of_text(text)
        wrong = {"is empty": f"{text} IS NULL", **problems_of_text(text)}
    reasons = [f"WHEN {condition} THEN {quoted_text(f'{path} {reason}')}" for reason, condition in wrong.items()]
    return number, text, reasons


def problems_of_text(text: str) -> dict[str, str]:
    """What may be wrong with an id that is not empty, and the SQL of the condition, as in `catalog.id_problem`."""
    return {
        f"must have 1 to {MOST_ID_BYTES} bytes": f"strlen({text}) > {MOST_ID_BYTES}",
        "has a NUL": f"contains({text}, chr(0))",
    }


def _track(plan: Plan) -> tuple[str, str, list[str]]:
    """SQL of the id of a track; without one, the key of title and artist."""
    if path := plan.mapping.get("track"):
        return _id(path, plan.rows, plan.track_ids)
    title = plan.rows.text(plan.mapping["title"])
    artist = artist_of(plan.mapping.get("artist"), plan.rows, plan.settings)
    reason = f"WHEN {title} IS NULL THEN {quoted_text(plan.mapping['title'] + ' is empty')}"
    return key_of_text(f"{title}, {artist}"), NO_TEXT, [reason]


def _recommendation(plan: Plan) -> str:
    """SQL of the id of the recommended track. What is no id has no row in the catalogue, therefore a cast is enough."""
    if (path := plan.mapping.get("recommendation")) is None:
        return _NO_NUMBER
    return plan.rows.typed(path, "BIGINT") if plan.track_ids == "whole" else _id(path, plan.rows, plan.track_ids)[0]


def _timestamp(plan: Plan) -> tuple[str, list[str]]:
    path, rows = plan.mapping.get("timestamp"), plan.rows
    if path is None:
        return _NO_NUMBER, []
    unit = plan.units["timestamp"]
    if rows.type_of(path).startswith(("TIMESTAMP", "DATE")):
        time, rule = f"epoch_ms(CAST({rows.typed(path, 'TIMESTAMPTZ')} AS TIMESTAMPTZ))", "a time"
    elif unit == "us":
        time, rule = f"{rows.typed(path, 'BIGINT')} // 1000", "a whole number of microseconds since 1970"
    elif unit in ("s", "ms"):
        seconds = f"TRY_CAST({_number(path, plan, 'DOUBLE')} * 1000 AS BIGINT)"
        time = whole(path, rows) if unit == "ms" else seconds
        rule = f"a {'whole ' * (unit == 'ms')}number of {_NAME_OF_UNIT[unit]} since 1970"
    else:
        time = f"epoch_ms({time_of_text(rows.text(path), unit)})"
        rule = "a date and time such as 2026-01-31T12:00:00Z" if unit == "iso" else f"a time of the format {unit}"
    is_wrong = f"COALESCE({time} NOT BETWEEN 0 AND {LATEST_MS - 1}, TRUE)"
    reasons = [_must_be(f"{rule}, from 1970 to 2099", is_wrong, path, rows)]
    if plan.settings.clock == "end" and "played" in plan.mapping:
        time = f"{time} - COALESCE(TRY_CAST({_milliseconds('played', plan)} AS BIGINT), 0)"
        too_long = quoted_text(f"{plan.mapping['played']} is longer than the time since 1970")
        reasons += [_bad_time("played", plan), f"WHEN {time} < 0 THEN {too_long}"]
    return time, reasons


def _share(plan: Plan) -> tuple[str, list[str]]:
    if plan.share == "none":
        return _NO_SHARE, []
    if plan.share == "ratio":
        return _ratio(plan)
    if plan.share == "skipped":
        path, rows = plan.mapping["skipped"], plan.rows
        text = f"lower({rows.text(path)})"
        share = f"CASE WHEN {text} IN {_YES} THEN 0.0 WHEN {text} IN {_NO} THEN 1.0 END"
        return share, [_must_be("true or false", f"{text} IS NOT NULL AND ({share}) IS NULL", path, rows)]
    reasons = [_bad_time(role, plan) for role in ("played", "duration") if role in plan.mapping]
    has_duration = "duration" in plan.mapping
    duration = f"NULLIF({_milliseconds('duration', plan)}, 0)" if has_duration else "CAST(NULL AS DOUBLE)"
    if plan.share == "gap":
        return duration, reasons
    is_divided = plan.share != "longest" and not plan.catalogue_has_durations
    return _milliseconds("played", plan) + f" / {duration}" * is_divided, reasons


def _ratio(plan: Plan) -> tuple[str, list[str]]:
    path, rows, settings = plan.mapping["played_ratio"], plan.rows, plan.settings
    value = _number(path, plan, "DOUBLE")
    share = f"{value} / 100" if plan.units["played_ratio"] == "percent" else value
    text = rows.text(path)
    reasons = [_must_be("a number", f"{value} IS NULL AND {text} IS NOT NULL", path, rows)]
    if settings.unknown_shares == "reject":
        reasons.append(f"WHEN {value} IS NULL THEN {quoted_text(f'{path} must be a number')}")
    is_capped = settings.shares_above_one == "cap"
    wrong = f"{share} < 0 OR NOT isfinite({share})" if is_capped else f"{share} NOT BETWEEN 0 AND 1"
    return share, [*reasons, f"WHEN {wrong} THEN 'the share played must lie in [0, 1], got ' || ({share})"]


def _number(path: str, plan: Plan, type_: str) -> str:
    """SQL of a number, which may have a decimal comma or a sign of percent; NULL where it is none."""
    if path not in plan.decimal_commas:
        return plan.rows.typed(path, type_)
    return f"TRY_CAST(replace(rtrim({plan.rows.text(path)}, ' %'), ',', '.') AS {type_})"


def _amount(role: str, plan: Plan) -> str:
    """SQL of a duration in its unit; one such as 1:03:25 in seconds."""
    path, rows = plan.mapping[role], plan.rows
    if plan.units[role] != "hms":
        return _number(path, plan, "DOUBLE")
    text = rows.text(path)
    parts = f"string_split(replace({text}, ',', '.'), ':')"
    seconds, minutes, hours = (f"TRY_CAST({parts}[-{place}] AS DOUBLE)" for place in (1, 2, 3))
    total = f"{seconds} + 60 * {minutes} + 3600 * COALESCE({hours}, 0)"
    return f"CASE WHEN regexp_full_match({text}, '{HMS}') THEN {total} END"


def _milliseconds(role: str, plan: Plan) -> str:
    number = _amount(role, plan)
    return number if (factor := MS_OF[plan.units[role]]) == 1 else f"({number} * {factor:g})"


def _bad_time(role: str, plan: Plan) -> str:
    path, rows, unit = plan.mapping[role], plan.rows, plan.units[role]
    value = _amount(role, plan)
    no_number = f"({value} IS NULL AND NULLIF({rows.shown(path)}, '') IS NOT NULL)"
    rule = "a duration such as 3:25" if unit == "hms" else f"a number of {_NAME_OF_UNIT[unit]}, at least 0"
    return _must_be(rule, f"{no_number} OR {value} < 0 OR NOT isfinite({value})", path, rows)


def _must_be(rule: str, is_wrong: str, path: str, rows: RawRows) -> str:
    """SQL of a reason to reject a row, which ends with the value."""
    got = f"COALESCE(', got ' || left({rows.shown(path)}, 60), ', got nothing')"
    return f"WHEN {is_wrong} THEN {quoted_text(f'{path} must be {rule}')} || {got}"


def min_seconds_rule(seconds: int | float, plan: Plan) -> str:
    """SQL condition of a play that is too short.

    Raises:
        InputError: no column says how long a track was played, or the gap to the next play would be wrong.
    """
    if plan.share == "gap":
        raise InputError(
            f"datamodule.policies.min_seconds={seconds:g} cannot be used with datamodule.share=gap: the gap would also "
            "span the plays that are left out"
        )
    if "played" not in plan.mapping:
        raise InputError(
            f"datamodule.policies.min_seconds={seconds:g} needs the time played; give "
            "datamodule.columns.played=<column>"
        )
    return f"COALESCE({_milliseconds('played', plan)} < {seconds * 1000:g}, FALSE)"
