"""From event logs to one line a user: what the A/B analysis is made from.

U users.
"""

import glob
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from src.errors import InputError, check_number

_COLUMNS = (
    "{message: 'VARCHAR', timestamp: 'BIGINT', user: 'BIGINT', track: 'BIGINT', time: 'DOUBLE', latency: 'DOUBLE', "
    "experiments: 'MAP(VARCHAR, VARCHAR)'}"
)

_TIMES = 40
"""Stretches of time that the timeline is cut into."""

GUARDS = {
    "lines_rejected": "lines that are no event were left out",
    "lines_of_other_experiments": "lines without this experiment were left out",
    "users_in_two_arms": "users who were in two arms were left out",
    "duplicate_lines": "lines that repeat another were counted once",
    "lines_behind_the_clock": "lines stood behind a later one of their user; events were sorted by time",
    "sessions_with_bad_shares": "sessions with a share below 0 or above 1 were left out",
    "ends_without_session": "ends that follow an end were left out",
    "sessions_without_end": "sessions that had not ended were left out",
}
"""What is looked for, and the rule that deals with it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Users:
    """What each user of an experiment did.

    Args:
        experiment: its name.
        arms: names of its arms, the control first.
        user_ids: raw ids.
        arm_of: number of the arm of each user.
        sessions: how many each had.
        tracks: how many events.
        time: sum of the shares played.
        latency_ms: sum of what they waited.
        guards: how often each rule of GUARDS was needed.
        timeline: sessions that began in each stretch of time: columns `since_ms` (since the first), `arm`, `sessions`.
        lengths: how many sessions lasted how long: columns `arm`, `time` (lower edge of a bin of 1), `sessions`.
        num_events: lines read.
    """

    experiment: str
    arms: list[str]
    user_ids: Int64[np.ndarray, "U"]
    arm_of: Int64[np.ndarray, "U"]
    sessions: Int64[np.ndarray, "U"]
    tracks: Int64[np.ndarray, "U"]
    time: Float64[np.ndarray, "U"]
    latency_ms: Float64[np.ndarray, "U"]
    guards: dict[str, int]
    timeline: pd.DataFrame
    lengths: pd.DataFrame
    num_events: int

    def __len__(self) -> int:
        return len(self.user_ids)


def read_users(folder: Path, *, experiment: str | None, max_rejected: int | float, any_arms: bool = False) -> Users:
    """Read all `data.json*` below a folder.

    Args:
        folder: of the logs.
        experiment: which one of those in the log; may be None where there is only one.
        max_rejected: share of lines that may be no event.
        any_arms: take all lines, whatever their experiment and arm: for a period before the experiment.

    Raises:
        InputError: there are no logs, too many lines are no events, or the experiment cannot be chosen.
    """
    check_number("max_rejected", max_rejected, least=0, most=1)
    if not folder.is_dir():
        raise InputError(f"logs={folder}: no such folder; name one with data.json files in it or below")
    files = sorted(path for path in folder.rglob("data.json*") if path.is_file())
    if not files:
        raise InputError(
            f"logs={folder}: no data.json in it or below; name the folder of a service's or simulation's logs"
        )
    with duckdb.connect() as database:
        database.execute("SET preserve_insertion_order = true")
        _read_lines(database, files, folder, max_rejected)
        name = None if any_arms else _choose(database, folder, experiment)
        rejected, others = _select(database, name)
        database.execute((Path(__file__).parent / "sql" / "users.sql").read_text(encoding="utf-8"))
        users = _collect(database, name or "", {"lines_rejected": rejected, "lines_of_other_experiments": others})
    if len(users.arms) < 2 and not any_arms:
        arms = users.arms[0] if users.arms else "none"
        raise InputError(f"experiment {name} in {folder} has one arm only ({arms}); a comparison needs two")
    return users


def _read_lines(
    database: duckdb.DuckDBPyConnection, files: list[Path], folder: Path, max_rejected: int | float
) -> None:
    try:
        database.execute(
            f"""
            CREATE TABLE raw AS
            SELECT message, timestamp, user AS user_id, track, time, COALESCE(latency, 0) AS latency, experiments,
                filename AS file
            FROM read_json($files, format = 'newline_delimited', columns = {_COLUMNS}, ignore_errors = true,
                filename = true, maximum_object_size = 16777216)""",
            {"files": [glob.escape(str(file)) for file in files]},
        )
    except duckdb.Error as error:
        raise InputError(f"logs={folder}: cannot be read: {' '.join(str(error).split())[:300]}") from None
    num_lines, num_wrong = _row(database, f"SELECT count(*), count(*) FILTER (NOT ({_IS_EVENT})) FROM raw")
    if not num_lines:
        raise InputError(f"logs={folder}: the logs are empty")
    if num_wrong > max_rejected * num_lines:
        raise InputError(
            f"logs={folder}: {num_wrong} of {num_lines} lines are no events, more than max_rejected={max_rejected:g} "
            'allows; an event is {"message": "next" | "last", "timestamp", "user", "track", "time", "experiments", …}'
        )


_IS_EVENT = """COALESCE(message IN ('next', 'last') AND timestamp IS NOT NULL AND user_id IS NOT NULL
    AND track IS NOT NULL AND time IS NOT NULL AND experiments IS NOT NULL, FALSE)"""


def _choose(database: duckdb.DuckDBPyConnection, folder: Path, experiment: str | None) -> str:
    query = f"SELECT DISTINCT unnest(map_keys(experiments)) AS name FROM raw WHERE {_IS_EVENT} ORDER BY name"
    names = [str(name) for (name,) in database.execute(query).fetchall()]
    if not names:
        raise InputError(f"logs={folder}: no line names an experiment")
    if experiment is None and len(names) > 1:
        raise InputError(f"logs={folder} has several experiments; choose experiment={' or '.join(names)}")
    if experiment is not None and experiment not in names:
        raise InputError(f"experiment={experiment} is not in {folder}; it has {', '.join(names)}")
    return names[0] if experiment is None else experiment


def _select(database: duckdb.DuckDBPyConnection, experiment: str | None) -> tuple[int, int]:
    """Make `lines` of `raw`; how many lines are no events, and how many of no interest."""
    database.execute(
        f"""
        CREATE TABLE lines AS SELECT message, timestamp, user_id, track, time, latency, file,
            CASE WHEN $name IS NULL THEN 'C' ELSE map_extract_value(experiments, $name) END AS arm
        FROM raw WHERE {_IS_EVENT}""",
        {"name": experiment},
    )
    wrong, others = _row(
        database,
        "SELECT (SELECT count(*) FROM raw) - count(*), count(*) FILTER (arm IS NULL) FROM lines",
    )
    database.execute("DROP TABLE raw")
    return wrong, others


def _collect(database: duckdb.DuckDBPyConnection, name: str, guards: dict[str, int]) -> Users:
    (num_events,) = _row(database, "SELECT count(*) FROM lines")
    table = database.execute("SELECT * FROM users ORDER BY user_id").df()
    found = sorted(set(table["arm"]), key=lambda arm: (arm != "C", len(arm), arm))
    counts = database.execute("SELECT * FROM guards").df().iloc[0]
    lengths = "SELECT arm, floor(time)::INTEGER AS time, count(*) AS sessions FROM kept GROUP BY ALL ORDER BY ALL"
    (width,) = _row(database, f"SELECT GREATEST(60000, (max(started) - min(started)) // {_TIMES} + 1) FROM kept")
    timeline = f"""
        SELECT (started - (SELECT min(started) FROM kept)) // {width or 1} * {width or 1} AS since_ms, arm,
            count(*) AS sessions
        FROM kept GROUP BY ALL ORDER BY ALL"""
    return Users(
        experiment=name,
        arms=found,
        user_ids=table["user_id"].to_numpy(np.int64, copy=True),
        arm_of=table["arm"].map({arm: number for number, arm in enumerate(found)}).to_numpy(np.int64, copy=True),
        sessions=table["sessions"].to_numpy(np.int64, copy=True),
        tracks=table["tracks"].to_numpy(np.int64, copy=True),
        time=table["time"].to_numpy(np.float64, copy=True),
        latency_ms=table["latency_ms"].to_numpy(np.float64, copy=True),
        guards=guards | {key: int(counts[key]) for key in GUARDS if key in counts},
        timeline=database.execute(timeline).df(),
        lengths=database.execute(lengths).df(),
        num_events=num_events,
    )


def _row(database: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    row = database.execute(query).fetchone()
    assert row is not None
    return row
