"""From event logs to one line a user: what the A/B analysis is made from.

U users.
"""

import glob
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from src.datamodules.compressed import check_whole
from src.errors import InputError, check_number
from src.runs.cores import duckdb_settings

Lines = dict[str, Any]
"""Columns of lines, as arrays."""

_COLUMNS = (
    "{message: 'VARCHAR', timestamp: 'BIGINT', user: 'BIGINT', track: 'BIGINT', time: 'DOUBLE', latency: 'DOUBLE', "
    "experiments: 'VARCHAR'}"
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
        first_ms: time of the first event of the experiment.
        last_ms: time of its last.
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
    first_ms: int
    last_ms: int
    timeline: pd.DataFrame
    lengths: pd.DataFrame
    num_events: int

    def __len__(self) -> int:
        return len(self.user_ids)


def read_users(
    folder: Path,
    *,
    experiment: str | None,
    max_rejected: int | float,
    any_arms: bool = False,
    called: str = "logs",
) -> Users:
    """Read all `data.json*` below a folder.

    Args:
        folder: of the logs.
        experiment: which one of those in the log; may be None where there is only one.
        max_rejected: share of lines that may be no event.
        any_arms: take all lines, whatever their experiment and arm: for a period before the experiment.
        called: how the user knows the folder.

    Raises:
        InputError: there are no logs, too many lines are no events, or the experiment cannot be chosen.
    """
    check_number("max_rejected", max_rejected, least=0, most=1)
    where = f"{called}={folder}"
    if not folder.is_dir():
        raise InputError(f"{where}: no such folder; name one with data.json files in it or below")
    found = glob.glob(f"{glob.escape(str(folder))}/**/data.json*", recursive=True)  # noqa: PTH207 - it follows links
    files = sorted(path for path in map(Path, found) if path.is_file())
    if not files:
        raise InputError(f"{where}: no data.json in it or below; name the folder of a service or a simulation")
    for path in files:
        check_whole(path)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect(config=duckdb_settings()) as database:
        database.execute(f"SET temp_directory = '{spill}'; SET memory_limit = '2GiB'")
        num_lines, num_rejected = _read_lines(database, files, where, max_rejected)
        query = f"SELECT DISTINCT experiments FROM lines WHERE {_IS_EVENT} ORDER BY ALL"
        texts = [str(text) for (text,) in database.execute(query).fetchall()]
        if not texts:
            raise InputError(f"{where}: no line is an event")
        name, arm_of_text = (None, dict.fromkeys(texts, "C")) if any_arms else _choose(texts, where, experiment)
        arms = sorted(set(arm_of_text.values()), key=lambda arm: (arm != "C", len(arm), arm))
        if len(arms) < 2 and not any_arms:
            raise InputError(f"experiment {name} in {where} has one arm only ({arms[0]}); a comparison needs two")
        if arms[0] != "C":
            raise InputError(f"experiment {name} in {where} has no arm C to compare with, only {', '.join(arms)}")
        lines = _sorted_lines(database, {text: arms.index(arm) for text, arm in arm_of_text.items()})
    guards = {
        "lines_rejected": num_rejected,
        "lines_of_other_experiments": num_lines - num_rejected - len(lines["arm"]),
    }
    return _users_of(lines, arms, name or "", guards, num_lines)


_IS_EVENT = """COALESCE(is_last IS NOT NULL AND timestamp IS NOT NULL AND user_id IS NOT NULL AND track IS NOT NULL
    AND isfinite(time) AND latency BETWEEN 0 AND 1e6 AND experiments IS NOT NULL, FALSE)"""


def _read_lines(
    database: duckdb.DuckDBPyConnection, files: list[Path], where: str, max_rejected: int | float
) -> tuple[int, int]:
    """Make `lines`; how many there are, and how many of them are no events."""
    try:
        database.execute(
            f"""
            CREATE TABLE lines AS
            SELECT CASE message WHEN 'last' THEN TRUE WHEN 'next' THEN FALSE END AS is_last, timestamp, user AS user_id,
                track, time, COALESCE(latency, 0) AS latency, experiments, (hash(filename) >> 32)::UINTEGER AS file
            FROM read_json($files, format = 'newline_delimited', columns = {_COLUMNS}, ignore_errors = true,
                filename = true, maximum_object_size = 16777216)""",
            {"files": [glob.escape(str(file)) for file in files]},
        )
    except duckdb.Error as error:
        raise InputError(f"{where}: cannot be read: {' '.join(str(error).split())[:300]}") from None
    row = database.execute(f"SELECT count(*), count(*) FILTER (NOT ({_IS_EVENT})) FROM lines").fetchone()
    assert row is not None
    num_lines, num_wrong = row
    if not num_lines:
        raise InputError(f"{where}: the logs are empty")
    if num_wrong > max_rejected * num_lines:
        raise InputError(
            f"{where}: {num_wrong} of {num_lines} lines are no events, more than max_rejected={max_rejected:g} "
            'allows; an event is {"message": "next" | "last", "timestamp", "user", "track", "time", "experiments", …}'
        )
    return num_lines, num_wrong


def _choose(texts: list[str], where: str, experiment: str | None) -> tuple[str, dict[str, str]]:
    """The experiment, and the arm that each text under `experiments` names in it."""
    given = {text: entry for text in texts if isinstance(entry := _parsed(text), dict)}
    names = sorted({name for entry in given.values() for name in entry})
    if not names:
        raise InputError(f"{where}: no line names an experiment")
    if experiment is None and len(names) > 1:
        raise InputError(f"{where} has several experiments; choose experiment={' or '.join(names)}")
    name = names[0] if experiment is None else experiment
    if name not in names:
        raise InputError(f"experiment={name} is not in {where}; it has {', '.join(names)}")
    return name, {text: str(entry[name]) for text, entry in given.items() if name in entry}


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _sorted_lines(database: duckdb.DuckDBPyConnection, arm_of_text: dict[str, int]) -> Lines:
    """The lines of the experiment, user by user, each in the order of time."""
    database.execute("CREATE TABLE arms (experiments VARCHAR, arm USMALLINT)")
    database.executemany("INSERT INTO arms VALUES (?, ?)", list(arm_of_text.items()))
    return database.execute(
        f"""
        SELECT user_id, timestamp, is_last, track, time, latency, file, lines.rowid AS position, arm
        FROM lines JOIN arms USING (experiments) WHERE {_IS_EVENT}
        ORDER BY user_id, timestamp, position"""
    ).fetchnumpy()


def _users_of(lines: Lines, arms: list[str], name: str, guards: dict[str, int], num_events: int) -> Users:
    """By the sheet: cut a user's lines after each `last`; then leave out what cannot be believed."""
    lines = {key: np.asarray(column) for key, column in lines.items()}
    first = np.flatnonzero(_changes(lines["user_id"]))
    in_two = np.minimum.reduceat(lines["arm"], first) != np.maximum.reduceat(lines["arm"], first)
    torn = np.repeat(in_two, np.diff(first, append=len(lines["arm"])))
    same = ~_changes(*(lines[key] for key in ("user_id", "timestamp", "is_last", "track", "time")))
    if (left_out := torn | same).any():  # seldom, and the copies take long
        lines = {key: column[~left_out] for key, column in lines.items()}
    starts_user = _changes(lines["user_id"])
    behind = ~_changes(lines["user_id"], lines["file"]) & (np.diff(lines["position"], prepend=0) < 0)

    start = np.flatnonzero(starts_user | np.roll(lines["is_last"], 1))
    tracks = np.diff(start, append=len(starts_user))
    has_end = lines["is_last"][start + tracks - 1]
    is_orphan = has_end & (tracks == 1)
    has_bad_share = np.logical_or.reduceat((lines["time"] < 0) | (lines["time"] > 1), start)
    kept = has_end & ~is_orphan & ~has_bad_share
    guards = guards | {
        "users_in_two_arms": int(in_two.sum()),
        "duplicate_lines": int((same & ~torn).sum()),
        "lines_behind_the_clock": int(behind.sum()),
        "sessions_with_bad_shares": int(has_bad_share.sum()),
        "ends_without_session": int(is_orphan.sum()),
        "sessions_without_end": int((~has_end).sum()),
    }
    time, latency = (np.add.reduceat(lines[key], start)[kept] for key in ("time", "latency"))
    user_ids, arm_of, begun = (lines[key][start][kept] for key in ("user_id", "arm", "timestamp"))
    first = np.flatnonzero(_changes(user_ids))
    return Users(
        experiment=name,
        arms=arms,
        user_ids=user_ids[first],
        arm_of=arm_of[first].astype(np.int64),
        sessions=np.diff(first, append=len(user_ids)),
        tracks=_sums(tracks[kept], first),
        time=_sums(time, first),
        latency_ms=_sums(latency, first) * 1000,
        guards=guards,
        first_ms=int(lines["timestamp"].min(initial=np.iinfo(np.int64).max)),
        last_ms=int(lines["timestamp"].max(initial=0)),
        timeline=_counted(arms, arm_of, since_ms=_stretches(begun)),
        lengths=_counted(arms, arm_of, time=np.floor(time).astype(np.int64)),
        num_events=num_events,
    )


def _changes(*columns: Any) -> Any:
    """Where a line differs from the one before in any of the columns; the first one does."""
    changed = np.zeros(len(columns[0]), bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _sums(values: Any, first: Any) -> Any:
    return np.add.reduceat(values, first) if len(first) else values[:0]


def _stretches(begun: Any) -> Any:
    """When each session began, as the beginning of its stretch of time, in ms since the first."""
    since = begun - begun.min(initial=np.iinfo(np.int64).max)
    width = max(60_000, int(since.max(initial=0)) // _TIMES + 1)
    return since // width * width


def _counted(arms: list[str], arm_of: Any, **by: Any) -> pd.DataFrame:
    """How many sessions each arm has of each value."""
    table = pd.DataFrame({**by, "arm": np.array(arms, object)[arm_of]})
    return table.groupby([*by, "arm"]).size().rename("sessions").reset_index()
