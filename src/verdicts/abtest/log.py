"""From event logs to sessions and users: what is read, and what is left out. E lines, S sessions, A arms."""

from pathlib import Path
from typing import Annotated, Literal

import duckdb
import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from segue.assignment import GUESTS
from segue.catalog import changes
from segue.datamodules.pairs.pair_rules import GapMinutes
from segue.errors import InputError
from segue.settings import Setting, settings
from segue.verdicts.abtest.events import Lines, MaxRejected, cut_log, json_object, log_database, read_events
from segue.verdicts.abtest.known_before import known_shares
from segue.verdicts.abtest.users import Sessions, Users, sums_of_users

GUARDS = {
    "lines_rejected": "lines that are not events were left out",
    "lines_of_guests": "lines of guests, who try the service out in the listening room, were left out",
    "lines_of_other_experiments": "lines without this experiment were left out",
    "lines_of_other_arms": "lines of arms that are not compared (`arms`) were left out",
    "users_in_two_arms": "users who were in two arms were left out",
    "duplicate_lines": "lines that repeat another line were counted once",
    "interleaved_sessions": "sessions ran at the same time as another session of their user; `interleaved` decides "
    "whether they are separated, kept as one, or left out",
    "lines_behind_the_clock": "lines came after a later line of the same user; events were sorted by time",
    "sessions_with_bad_shares": "sessions with a share below 0 or above 1 were left out",
    "ends_without_session": "`last` events that directly follow a `last` event were counted as sessions of one track",
    "sessions_without_end": "sessions have no `last` event; `unfinished` decides whether they are left out or kept",
}
"""Faults that are searched for in a log, by name, and the rule for each; every report shows the count and the rule."""


@settings()
def read_users(
    folder: Path,
    *,
    experiment: str | None,
    arms: Annotated[list[str] | None, Setting("arms that are compared, the control C among them; null: all")] = None,
    max_rejected: MaxRejected,
    interleaved: Annotated[Literal["separate", "keep", "drop"], Setting("sessions of one user at the same time")],
    session_gap_minutes: GapMinutes,
    unfinished: Annotated[
        Literal["drop", "keep"],
        Setting("sessions without a `last`: drop, or keep at the length that they have in the log"),
    ],
    any_arms: bool = False,
    called: str = "logs",
) -> Users:
    """Read every `data.json*` in a folder and below it.

    Users of the arms that are compared who were in another one too are left out.

    Args:
        folder: the folder.
        experiment: name of the experiment; None if the log has only one.
        any_arms: read all lines, of any experiment and arm; for a period before the experiment.
        called: key of the command line that names the folder, for messages.

    Returns:
        One row for each user with a session that is not left out.

    Raises:
        InputError: a setting is out of range, there are no logs, too many lines are not events, the experiment cannot
            be chosen, or an arm is missing.
    """
    if arms is not None and ("C" not in arms or len(set(arms)) < 2):
        raise InputError(f"arms must have the control C and at least one other, such as [C,T1], got {arms}")
    where = f"{called}={folder}"
    with log_database() as database:
        found = read_events(database, folder, where, columns=_COLUMNS, max_rejected=max_rejected)
        guests = f"user_id BETWEEN {GUESTS.start} AND {GUESTS.stop - 1}"
        [(num_guests,)] = database.execute(f"DELETE FROM lines WHERE is_event AND {guests}").fetchall()
        query = "SELECT DISTINCT experiments FROM lines WHERE is_event ORDER BY ALL"
        if not (texts := [str(text) for (text,) in database.execute(query).fetchall()]):
            raise InputError(f"{where}: no line is an event; name the logs of serve.py or simulate.py")
        name, arm_of_text = ("", dict.fromkeys(texts, "C")) if any_arms else _choose(texts, where, experiment)
        compared = ["C"] if any_arms else _compared(set(arm_of_text.values()), arms, name, where)
        numbers = {arm: number for number, arm in enumerate(compared)}
        lines = _sorted_lines(database, {text: numbers.get(arm, len(compared)) for text, arm in arm_of_text.items()})
    guards: dict[str, int] = {
        "lines_rejected": found.num_rejected,
        "lines_of_guests": num_guests,
        "lines_of_other_experiments": found.num - found.num_rejected - num_guests - len(lines["arm"]),
        "lines_of_other_arms": int((lines["arm"] == len(compared)).sum()),
    }
    first_ms, last_ms = lines["timestamp"].min(initial=np.iinfo(np.int64).max), lines["timestamp"].max(initial=0)
    lines, exposed = _compared_lines(lines, len(compared), guards)
    lines, begins, num_interleaved = cut_log(lines, session_gap_minutes, interleaved)
    start = np.flatnonzero(begins)
    sessions, has_bad_share = _sessions(lines, start)
    is_kept = ~has_bad_share & (sessions.is_finished | (unfinished == "keep"))
    guards |= {
        "interleaved_sessions": num_interleaved,
        "sessions_with_bad_shares": int(has_bad_share.sum()),
        "ends_without_session": int((sessions.is_finished & (sessions.tracks == 1)).sum()),
        "sessions_without_end": int((~sessions.is_finished).sum()),
    }
    return Users(
        experiment=name,
        arms=compared,
        exposed=exposed,
        each=sessions.where(~has_bad_share),
        keeps_unfinished=unfinished == "keep",
        guards=guards,
        first_ms=int(first_ms),
        last_ms=int(last_ms),
        num_events=found.num - num_guests,
        known=known_shares(lines, start, folder, is_kept),
        **sums_of_users(sessions.where(is_kept)),
    )


_COLUMNS = (
    "is_last", "timestamp", "user_id", "track", "time", "latency", "recommendation", "is_fallback", "experiments",
)  # fmt: skip


def _choose(texts: list[str], where: str, experiment: str | None) -> tuple[str, dict[str, str]]:
    """Name of the experiment, and its arm for each text that the key `experiments` has in the log."""
    given = {text: json_object(text) for text in texts}
    if not (names := sorted({name for entry in given.values() for name in entry})):
        raise InputError(f'{where}: no line names an experiment; an event of one has "experiments": {{"<name>": "C"}}')
    if experiment is None and len(names) > 1:
        raise InputError(f"{where} has several experiments; choose experiment={' or '.join(names)}")
    name = names[0] if experiment is None else experiment
    if name not in names:
        raise InputError(f"experiment={name} is not in {where}; it has {', '.join(names)}")
    return name, {text: str(entry[name]) for text, entry in given.items() if name in entry}


def _compared(in_log: set[str], arms: list[str] | None, experiment: str, where: str) -> list[str]:
    """The arms that are compared, the control first."""
    names = sorted(in_log, key=lambda arm: (arm != "C", len(arm), arm))
    if names[0] != "C" or len(names) < 2:
        raise InputError(
            f"experiment {experiment} in {where} has only the arms {', '.join(names)}; a comparison needs a control "
            "arm C and at least one other"
        )
    if missing := [arm for arm in arms or () if arm not in names]:
        raise InputError(f"arm {missing[0]} of arms= is not in {where}; it has {', '.join(names)}")
    return [arm for arm in names if arms is None or arm in arms]


def _sorted_lines(database: duckdb.DuckDBPyConnection, arm_of_text: dict[str, int]) -> Lines:
    database.execute("CREATE TABLE arms (experiments VARCHAR, arm USMALLINT)")
    database.executemany("INSERT INTO arms VALUES (?, ?)", list(arm_of_text.items()))
    found = database.execute(
        """
        SELECT user_id, timestamp, is_last, track, time, latency, recommendation, is_fallback, file,
            lines.rowid AS position, arm
        FROM lines JOIN arms USING (experiments) WHERE is_event
        ORDER BY user_id, timestamp, position"""
    ).fetchnumpy()
    return {name: np.asarray(column) for name, column in found.items()}


def _compared_lines(lines: Lines, num_arms: int, guards: dict[str, int]) -> tuple[Lines, Int64[np.ndarray, "A"]]:
    """Leave out lines of other arms (`num_arms`), of users in two arms, and duplicates, and count them in `guards`.

    Returns:
        The lines that are left, and the number of users of each arm before anything is left out.
    """
    new = changes(lines["user_id"], lines["arm"])
    own = pd.DataFrame({name: lines[name][new] for name in ("user_id", "arm")}).drop_duplicates()
    in_two_arms = own["user_id"][own["user_id"].duplicated()].unique()
    is_of_two_arms, is_duplicate = np.isin(lines["user_id"], in_two_arms), _duplicates(lines)
    if (left_out := is_of_two_arms | is_duplicate | (lines["arm"] == num_arms)).any():  # rare, and the copies are slow
        lines = {key: column[~left_out] for key, column in lines.items()}
    is_late = ~changes(lines["user_id"], lines["file"]) & (np.diff(lines["position"], prepend=0) < 0)
    guards |= {
        "users_in_two_arms": len(in_two_arms),
        "duplicate_lines": int((is_duplicate & ~is_of_two_arms).sum()),
        "lines_behind_the_clock": int(is_late.sum()),
    }
    return lines, np.bincount(own["arm"], minlength=num_arms)[:num_arms]


def _duplicates(lines: Lines) -> Bool[np.ndarray, "E"]:
    """Whether each line repeats an earlier one; only lines of one user in one millisecond are compared."""
    names = ("user_id", "timestamp", "is_last", "track", "time", "latency", "recommendation")
    is_duplicate = ~changes(lines["user_id"], lines["timestamp"])
    ties = np.flatnonzero(is_duplicate | np.append(is_duplicate[1:], False))  # which has all that can be duplicates
    is_duplicate[ties] = pd.DataFrame({name: lines[name][ties] for name in names}).duplicated()
    return is_duplicate


def _sessions(lines: Lines, start: Int64[np.ndarray, "S"]) -> tuple[Sessions, Bool[np.ndarray, "S"]]:
    """The sessions that begin at these rows, and whether each has a share below 0 or above 1."""
    tracks = np.diff(start, append=len(lines["time"]))
    sessions = Sessions(
        user_keys=lines["user_id"][start],
        arm_of=lines["arm"][start].astype(np.int64),
        started_ms=lines["timestamp"][start],
        tracks=tracks,
        time=np.add.reduceat(lines["time"], start),
        latency_ms=1000 * np.add.reduceat(lines["latency"], start),
        fallbacks=np.add.reduceat(lines["is_fallback"], start, dtype=np.int64),
        is_finished=lines["is_last"][start + tracks - 1],
    )
    return sessions, np.logical_or.reduceat((lines["time"] < 0) | (lines["time"] > 1), start)
