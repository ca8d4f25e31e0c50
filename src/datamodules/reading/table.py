"""From the files of a source to its events. Every source is a table; `conf/datamodule/` has the settings of each.

DuckDB reads the files, and uses the disk where the memory that it may use is not enough. Each row becomes an event (or
several), or is *dropped* by a rule of the settings, or is *rejected* as invalid. All are counted.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np

from segue.catalog import Catalog
from segue.datamodules.reading.attribute_files import attribute_columns, read_attributes
from segue.datamodules.reading.column_names import ENDS, spellings
from segue.datamodules.reading.column_roles import map_columns, refuse_private
from segue.datamodules.reading.database import open_database
from segue.datamodules.reading.files import Files, find_files, is_address
from segue.datamodules.reading.queries import Database, are_whole, count, is_of_files, one_line, quoted_text
from segue.datamodules.reading.raw_rows import FILE, OF_ITEMS, RawRows, open_rows
from segue.datamodules.reading.rejected_rows import Rejections, find_rejected
from segue.datamodules.reading.row_sql import CONSTANTS, NO_TEXT, Plan, min_seconds_rule, parsed_columns
from segue.datamodules.reading.table_settings import TableSettings
from segue.datamodules.reading.track_file import Tracks, add_unknown, read_track_file, tracks_of_events
from segue.datamodules.reading.units import MS_OF, has_decimal_commas, unit_of_duration, unit_of_ratio, unit_of_time
from segue.errors import InputError

_MOST_NAMED = 5  # names of files that are not read, in a remark


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read of a source, for a report.

    Attributes:
        columns: the column of each role.
        guessed: roles whose column was found by its name or its values.
        unused: columns that have no role, if the settings leave a role open.
        units: unit of each role that has one.
        share: what the share played is computed from; see `Plan`.
        encoding: of text files.
        num_rows: number of rows of the files, without blank lines.
        num_events: number of events that were read; several for a row that is a list.
        rejected: number of rows that were rejected, for each reason, without the values.
        examples: some rejected rows: file, line or row, reason.
        dropped: number of events that each rule left out.
        evidence: why the column of a role was chosen, for those of `guessed`.
        holds: what columns that have no role hold, as far as their values show it.
        alternatives: the role that such a column could have.
        num_capped: number of events whose share was above 1 and is 1 now.
        remarks: what a user should know of the ids of the tracks, in lines.
    """

    columns: Mapping[str, str]
    guessed: list[str]
    unused: list[str]
    units: Mapping[str, str]
    share: str
    encoding: str
    num_rows: int
    num_events: int
    rejected: Mapping[str, int]
    examples: list[dict[str, str | int]]
    dropped: Mapping[str, int]
    num_capped: int
    remarks: Sequence[str] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, str] = field(default_factory=dict)
    alternatives: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_rejected(self) -> int:
        """Number of rows that were rejected."""
        return sum(self.rejected.values())


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Which valid plays are left out while a source is read.

    Args:
        min_seconds: those that are shorter, in seconds.
        since: those before this day (UTC).
        until: those after this day (UTC).
        listeners: ids of the listeners all of whose plays are left out.
    """

    min_seconds: int | float = 0
    since: date | None = None
    until: date | None = None
    listeners: Collection[str] = ()

    def of_times(self) -> dict[str, str]:
        """SQL condition of each rule about the time of a play, by its name."""
        rules = {
            "until": None if self.until is None else f"timestamp >= {_ms_of(self.until + timedelta(days=1))}",
            "since": None if self.since is None else f"timestamp < {_ms_of(self.since)}",
        }
        return {name: sql for name, sql in rules.items() if sql is not None}


def _ms_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


@dataclass(frozen=True, kw_only=True)
class SourceEvents:
    """The content of a source: its catalogue, and its events as a view in DuckDB.

    The view `events` has the columns `user_id`, `timestamp` (ms, NULL without a clock), `position` (order of the
    rows), `track` (row of the catalogue), `played_ratio` (FLOAT or NULL; see `Plan.share` for what it is),
    `source_session` (NULL where the source does not cut sessions itself) and `is_last` (BOOLEAN: a session ends here).
    A source that knows what was recommended after an event also has `recommendation` (row of the catalogue, or NULL).

    Attributes:
        database: connection to the database that holds the view `events`.
        catalog: the catalogue.
        user_names: id of each user in the source, where `user_id` is a number in 0..U-1 instead; otherwise None.
        reading: counts and choices.
    """

    database: Database
    catalog: Catalog
    user_names: np.ndarray | None
    reading: Reading

    @property
    def query(self) -> str:
        """SQL of the events without NULL, with `share` for `played_ratio`; what the source lacks is no column."""
        optional = {
            "session": ", COALESCE(source_session, 0) AS source_session",
            "last": ", is_last",
            "recommendation": ", COALESCE(recommendation, -1) AS recommendation",
        }
        more = "".join(text for role, text in optional.items() if role in self.reading.columns)
        return f"""
            SELECT user_id, COALESCE(timestamp, 0) AS timestamp, position, track,
                   COALESCE(played_ratio, 'nan'::FLOAT) AS share {more}
            FROM events"""


@contextmanager
def read_table(
    path: str, settings: TableSettings, *, left_out: LeftOut | None = None, rejections: Rejections
) -> Iterator[SourceEvents]:
    """Read the catalogue and the events of a source. The events are gone when the context ends.

    Args:
        path: a file, a folder, a glob, or an address.
        settings: what the files contain.
        left_out: which valid plays are left out; None for none.
        rejections: where rejected rows are written, and how many there may be.

    Raises:
        InputError: files are missing, damaged or empty, a column is missing, or too many rows are rejected.
    """
    left_out = left_out or LeftOut()
    with _database(settings, path) as (database, folder):
        files = find_files(path, settings.files, patterns=settings.files.pattern, unpacked=folder / "unpacked")
        plan, tracks = _open(database, files, settings, left_out)
        _parse(plan, has_catalogue=tracks is not None)
        plan.rows.check_rejects()
        yield _events(path, plan, tracks, left_out, rejections)


def look_at(path: str, settings: TableSettings) -> Plan:
    """Decide which columns are read, and how, from the first rows.

    Args:
        path: a file, a folder, a glob, or an address.
        settings: what the files contain.

    Raises:
        InputError: files are missing or damaged, or a column is missing.
    """
    with _database(settings, path) as (database, folder):
        files = find_files(path, settings.files, patterns=settings.files.pattern, unpacked=folder / "unpacked")
        return _open(database, files, settings, LeftOut())[0]


@contextmanager
def _database(settings: TableSettings, path: str) -> Iterator[tuple[Database, Path]]:
    """A database, and a folder for its files. What it cannot do with the source is an `InputError` of one line."""
    import pandas as pd  # noqa: F401 - otherwise DuckDB imports it, and a Ctrl-C in that import is lost

    with open_database() as (database, folder):
        try:
            database.execute(f"SET TimeZone = {quoted_text(settings.zone)}")
        except duckdb.Error as error:
            raise InputError(
                f"datamodule.zone must be a time zone such as UTC or Europe/Berlin, got {settings.zone!r}: "
                f"{one_line(error)[:100]}"
            ) from None
        # DuckDB makes a join of a long IN list, and threads then insert the rows of a file out of order
        # it also underestimates the events, and would hash these instead of the catalogue that they are joined with
        database.execute("SET disabled_optimizers = 'in_clause, build_side_probe_side'")
        try:
            yield database, folder
        except duckdb.Error as error:
            if not is_of_files(error):
                raise
            shown = path.partition("?")[0] if is_address(path) else path  # an address may have a secret after its name
            raise InputError(
                f"cannot read {shown}: DuckDB fails: {one_line(error).replace(path, shown)[:300]}; correct the files, "
                "or leave some out"
            ) from error
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
                raise KeyboardInterrupt from None
            raise


def _open(database: Database, files: Files, settings: TableSettings, left_out: LeftOut) -> tuple[Plan, Tracks | None]:
    """What is read, and the catalogue if it is in a file.

    Nothing is read but the catalogue and the first rows.
    """
    tracks = read_track_file(database, settings, files.folder)
    rows = open_rows(database, files, settings.files, optional=settings.optional)
    columns = [*settings.columns.values(), *(one.path for one in settings.attributes if one.file is None)]
    of_files = [str(path) for path in columns if path and path not in (*settings.sql.columns, *OF_ITEMS)]
    rows.find_late_keys([*settings.optional, *of_files])
    refuse_private(list(rows.types), settings.sql.texts)
    rows.name_in_sql(settings.sql.texts)
    rows.define(settings.sql.columns, key="datamodule.sql", each=settings.sql.each)
    roles = map_columns(rows, settings.columns, unit=settings.units.timestamp)
    mapping = roles.mapping
    units, decimal_commas = _units(mapping, rows, settings)
    has_durations = tracks is not None and tracks.has_durations
    plan = Plan(
        rows=rows,
        settings=settings,
        roles=roles,
        units=units,
        decimal_commas=decimal_commas,
        share=_share(mapping, settings, has_durations=has_durations),
        track_ids=settings.ids if tracks is None else tracks.ids,
        catalogue_has_durations=has_durations,
        drop=settings.sql.drop,
        drop_times=left_out.of_times() if "timestamp" in mapping else {},
    )
    if left_out.min_seconds:
        plan = replace(plan, drop={**plan.drop, "min_seconds": min_seconds_rule(left_out.min_seconds, plan)})
    return plan, tracks


def _units(mapping: Mapping[str, str], rows: RawRows, settings: TableSettings) -> tuple[dict[str, str], frozenset[str]]:
    """The unit of each role that has one and a column, and the columns of numbers such as 0,85 or 85 %.

    A unit is the setting, or what the first values show.
    """
    found, commas = dict[str, str](), set[str]()
    deciders = {"played": unit_of_duration, "duration": unit_of_duration, "played_ratio": unit_of_ratio}
    for role, decide in {"timestamp": unit_of_time, **deciders}.items():
        if (column := mapping.get(role)) is None:
            continue
        values: list[str] | None = None
        found[role] = getattr(settings.units, role)
        if found[role] == "auto":
            values = rows.first_values(column)
            found[role] = decide(values, column=column)
        if rows.type_of(column) == "VARCHAR" and found[role] in (*MS_OF, "fraction", "percent"):
            values = rows.first_values(column) if values is None else values
            if has_decimal_commas(values) or any(value.endswith("%") for value in values):
                commas.add(column)
    return found, frozenset(commas)


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


def _parse(plan: Plan, *, has_catalogue: bool) -> None:
    """Create the table `parsed` and the view `numbered`.

    Columns that have one value only are in the view alone.
    """
    rows, settings = plan.rows, plan.settings
    has_items = settings.sql.each is not None
    blank = ["has_no_item"] * has_items + ["line IS NULL"] * rows.has_blank_lines or ["FALSE"]
    columns = {"file": FILE, "is_blank": " OR ".join(blank), **parsed_columns(plan)}
    stored = [f"{sql} AS {name}" for name, sql in columns.items() if sql not in CONSTANTS]
    select = ", ".join(stored) + ", row, place" * has_items
    attributes = attribute_columns(() if has_catalogue else settings.attributes, rows)
    try:
        rows.run(f"CREATE OR REPLACE TABLE parsed AS SELECT {select} {attributes} FROM ({rows.relation()})")
    except (InputError, duckdb.Error) as error:
        if not settings.sql.texts or "datamodule" in str(error):
            raise
        where = "" if isinstance(error, InputError) else f"cannot read {rows.files.shown[0]}: "
        raise InputError(f"{where}{one_line(error)} (datamodule.sql has expressions of this source)") from None
    _number(plan)


def _number(plan: Plan) -> None:
    """Create the view `numbered` of the parsed rows that are not blank, with row, position and all columns."""
    database, has_items = plan.rows.database, plan.settings.sql.each is not None
    stored = {name for name, *_ in database.execute("DESCRIBE parsed").fetchall()}
    sign = "-" if plan.settings.files.newest_first else ""
    number = f"row, {sign}(row * 1048576 + place)" if has_items else f"rowid AS row, {sign}rowid"
    roles = {name: sql if sql in CONSTANTS else NO_TEXT for name, sql in parsed_columns(plan).items()}
    roles |= {name: name for name in stored & roles.keys()}
    if plan.drop_times:
        rules = " ".join(f"WHEN {sql} THEN {quoted_text(name)}" for name, sql in plan.drop_times.items())
        is_out = f"({roles['dropped']}) IS NOT NULL OR ({roles['reason']}) IS NOT NULL"
        roles["dropped"] = f"CASE WHEN {is_out} THEN {roles['dropped']} {rules} END"
    columns = [f"{sql} AS {name}" for name, sql in roles.items()]
    others = ", ".join([*(stored & roles.keys()), *(["row", "place"] if has_items else [])])
    database.execute(f"""
        CREATE OR REPLACE VIEW numbered AS
        SELECT {number} AS position, * EXCLUDE ({others}), {", ".join(columns)}
        FROM parsed {"WHERE NOT is_blank" if "is_blank" in stored else ""}""")


def _events(path: str, plan: Plan, tracks: Tracks | None, left_out: LeftOut, rejections: Rejections) -> SourceEvents:
    rows, settings = plan.rows, plan.settings
    database, has_items = rows.database, settings.sql.each is not None
    if tracks is None:
        tracks = tracks_of_events(database, settings.attributes, has_ids="track" in plan.mapping)
    elif settings.catalogue.unknown == "add":
        add_unknown(database)
    _validate(plan, tracks)
    found = find_rejected(rows, has_items=has_items)
    num_rows = count(database, f"SELECT count({'DISTINCT row' if has_items else '*'}) FROM numbered") + found.num_lost
    if num_rows == 0:
        raise InputError(f"no events: {rows.files.shown[0]} has no rows of data; check datamodule.path")
    rejections.check(found, num_rows, path)
    _leave_out_listeners(database, left_out.listeners)
    num_events, num_without = _count_events(database)
    dropped = dict.fromkeys([*plan.drop, *plan.drop_times], 0)
    dropped |= _counts(database, "SELECT dropped, count(*) FROM numbered WHERE dropped IS NOT NULL GROUP BY 1")
    if left_out.listeners:
        num_events, dropped["without"] = num_events - num_without, num_without
    if num_events == 0:
        raise InputError(
            f"no events: of {num_rows} rows in {path}, {found.num} are invalid and {num_rows - found.num} are left "
            "out; check datamodule.columns, datamodule.units.timestamp, datamodule.policies and datamodule.sql.drop"
        )
    user, user_names = _name_users(database)
    _forget_texts(plan)
    _make_view(database, user, has_recommendations="recommendation" in plan.mapping)
    attributes = read_attributes(database, settings.attributes, rows.files.folder, source=tracks.shown or str(path))
    may_be_capped = plan.share in ("ratio", "played") and settings.shares_above_one == "cap"
    capped_events = "SELECT count(*) FROM validated WHERE is_above_one AND reason IS NULL"
    return SourceEvents(
        database=database,
        catalog=replace(tracks.catalog(database), attributes=attributes),
        user_names=user_names,
        reading=Reading(
            columns=plan.mapping,
            guessed=[role for role in plan.mapping if settings.columns.get(role) == "auto"],
            unused=list(plan.roles.holds),
            evidence=plan.roles.evidence,
            holds={name: holds for name, holds in plan.roles.holds.items() if holds},
            alternatives=plan.roles.alternatives,
            units=plan.units,
            share=plan.share,
            encoding=rows.encoding,
            num_rows=num_rows,
            num_events=num_events,
            rejected=found.by_reason,
            examples=found.lines[:3],
            num_capped=count(database, capped_events) if may_be_capped else 0,
            remarks=[*_files_left_out(rows, settings), *_ends_of_plays(plan), *tracks.remarks],
            dropped=dropped,
        ),
    )


def _counts(database: Database, query: str) -> dict[str, int]:
    return {str(name): int(num) for name, num in database.execute(query).fetchall()}


def _count_events(database: Database) -> tuple[int, int]:
    """Number of valid events, and of those of listeners who are left out."""
    query = """SELECT count(*), count(*) FILTER (user IN (SELECT user FROM left_out))
        FROM validated WHERE reason IS NULL AND row NOT IN (SELECT row FROM rejected)"""
    [(num, num_without)] = database.execute(query).fetchall()
    return int(num), int(num_without)


def _leave_out_listeners(database: Database, ids: Collection[str]) -> None:
    """Create the table `left_out` of the users with these ids."""
    id = "user_id" if _has_column(database, "user_id") else "CAST(user AS VARCHAR)"
    database.execute(
        f"CREATE OR REPLACE TABLE left_out AS SELECT DISTINCT user FROM numbered WHERE {id} IN (SELECT unnest(?))",
        [list(ids)],
    )


def _files_left_out(rows: RawRows, settings: TableSettings) -> Iterator[str]:
    """Say in a line which files of a folder or an archive are not read, if no pattern says which are."""
    if names := rows.files.left_out:
        num_more = len(names) - _MOST_NAMED
        listed = ", ".join(names[:_MOST_NAMED]) + (f" and {num_more:,} more" if num_more > 0 else "")
        yield f"files        not read: {listed}; {settings.files.group}.pattern=<glob> chooses the files"


def _ends_of_plays(plan: Plan) -> Iterator[str]:
    """Say in a line that times which are used as the start of a play are its end, by the name of their column."""
    path = plan.mapping.get("timestamp", "")
    if spellings(path) & ENDS and plan.settings.clock == "start" and plan.settings.columns["timestamp"] == "auto":
        played = "" if "played" in plan.mapping else ", which datamodule.columns.played names"
        yield (
            f"times        {path} is the end of a play, by its name, and is used as its start; datamodule.clock=end "
            f"subtracts the time played{played}"
        )


def _validate(plan: Plan, tracks: Tracks) -> None:
    """Create the view `validated`, which knows the row of each track, and the table `rejected` (row, reason)."""
    share = "n.share"
    if plan.share == "played" and plan.catalogue_has_durations:
        share = "n.share / NULLIF(c.duration_ms, 0)"
    elif plan.share == "gap" and "duration" not in plan.mapping:
        share = "NULLIF(c.duration_ms, 0)"
    is_above = f"COALESCE(({share}) > 1, FALSE)" if plan.share in ("ratio", "played") else "FALSE"
    is_capped = plan.settings.shares_above_one == "cap"
    kept = share if is_above == "FALSE" else f"CASE WHEN {share} > 1 THEN 1 ELSE {share} END"  # `least` ignores NULL
    id = "COALESCE(n.track_id, CAST(n.track AS VARCHAR))"
    unknown = f"'track ' || {id} || ' is not in {tracks.shown}'" if tracks.shown else "'the track is unknown'"
    plan.rows.database.execute(f"""
        CREATE OR REPLACE VIEW validated AS
        SELECT n.* EXCLUDE (track, share, reason), c.row AS track, CAST({kept} AS FLOAT) AS share,
            {is_above} AS is_above_one,
            CASE WHEN n.reason IS NOT NULL THEN n.reason WHEN c.row IS NULL THEN {unknown}
                 WHEN {"FALSE" if is_capped else is_above}
                 THEN 'the share played must lie in [0, 1], got ' || ({share}) END AS reason
        FROM numbered n LEFT JOIN catalogue c ON n.track = c.track WHERE n.dropped IS NULL;
        CREATE OR REPLACE TABLE rejected AS
        SELECT row, min(reason) AS reason FROM validated WHERE reason IS NOT NULL GROUP BY row""")


def _name_users(database: Database) -> tuple[str, np.ndarray | None]:
    """Number the users if not all ids are whole numbers from 0, in the order of the ids.

    Returns:
        SQL of the number of the user of an event, and the id of each; None where the ids are the numbers.
    """
    has_texts = _has_column(database, "user_id")
    if not has_texts and not count(database, "SELECT COALESCE(min(user), 0) < 0 FROM numbered"):
        return "v.user", None
    id = "any_value(user_id)" if has_texts else "CAST(user AS VARCHAR)"
    database.execute(f"""
        CREATE OR REPLACE TABLE users AS SELECT *, row_number() OVER (ORDER BY id) - 1 AS number
        FROM (SELECT user, {id} AS id FROM numbered WHERE user IS NOT NULL GROUP BY user) WHERE id IS NOT NULL""")
    if has_texts and are_whole(database, "SELECT id FROM users"):
        return "CAST(u.id AS BIGINT)", None
    names = database.execute("SELECT id FROM users ORDER BY number").fetchall()
    return "u.number", np.array([name for (name,) in names], object)


def _has_column(database: Database, name: str) -> bool:
    return name in {column for column, *_ in database.execute("DESCRIBE parsed").fetchall()}


def _forget_texts(plan: Plan) -> None:
    """Drop the texts of ids from the parsed rows, which need them no more; they are most of their memory."""
    for name in ("user_id", "track_id"):
        if _has_column(plan.rows.database, name):
            plan.rows.database.execute(f"ALTER TABLE parsed DROP COLUMN {name}")
    _number(plan)


def _make_view(database: Database, user: str, *, has_recommendations: bool) -> None:
    """Create the view `events`; see `SourceEvents`."""
    recommendation = ", r.row AS recommendation" * has_recommendations
    join = "LEFT JOIN users u ON v.user = u.user" * ("u." in user)
    join += " LEFT JOIN catalogue r ON v.recommendation = r.track" * has_recommendations
    is_lost = "AND v.row NOT IN (SELECT row FROM rejected)" if count(database, "SELECT count(*) FROM rejected") else ""
    is_out = "AND v.user NOT IN (SELECT user FROM left_out)" * (count(database, "SELECT count(*) FROM left_out") > 0)
    # a valid event has a track; with this condition DuckDB joins the catalogue by an inner join, which is faster
    database.execute(f"""
        CREATE OR REPLACE VIEW events AS
        SELECT {user} AS user_id, v.timestamp, v.position, v.track, v.share AS played_ratio,
               v.session AS source_session, v.is_last {recommendation}
        FROM validated v {join} WHERE v.reason IS NULL AND v.track IS NOT NULL {is_lost} {is_out}""")
