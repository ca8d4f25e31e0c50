"""From event logs to sessions and users: what is read, and what is left out."""

from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
import numpy as np
import pandas as pd

from segue.assignment import GUESTS
from segue.catalog import changes
from segue.datamodules.pairs.pair_rules import GapMinutes
from segue.errors import InputError
from segue.settings import Setting, settings
from segue.verdicts.abtest.events import Lines, MaxRejected, cut_log, json_object, log_database, read_events
from segue.verdicts.abtest.known_before import Known, count_known
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
        named = f"experiment {name} in {where}"
        in_log = sorted(set(arm_of_text.values()), key=lambda arm: (arm != "C", len(arm), arm))
        if len(in_log) < 2 and not any_arms:
            raise InputError(f"{named} has only one arm ({in_log[0]}); a comparison needs two arms")
        if in_log[0] != "C":
            raise InputError(f"{named} has no control arm C, only {', '.join(in_log)}; name the control C")
        if missing := [arm for arm in arms or () if arm not in in_log]:
            raise InputError(f"arm {missing[0]} of arms= is not in {where}; it has {', '.join(in_log)}")
        compared = [arm for arm in in_log if arms is None or arm in arms]
        numbers = {arm: number for number, arm in enumerate(compared)}
        lines = _sorted_lines(database, {text: numbers.get(arm, len(compared)) for text, arm in arm_of_text.items()})
    guards = {
        "lines_rejected": found.num_rejected,
        "lines_of_guests": num_guests,
        "lines_of_other_experiments": found.num - found.num_rejected - num_guests - len(lines["arm"]),
        "lines_of_other_arms": int((lines["arm"] == len(compared)).sum()),
    }
    rules = interleaved, session_gap_minutes, unfinished
    sessions, exposed, faults, known = _sessions_of(lines, len(compared), *rules, folder)
    return Users(
        experiment=name,
        arms=compared,
        exposed=exposed,
        each=sessions,
        keeps_unfinished=unfinished == "keep",
        guards=guards | faults,
        first_ms=int(lines["timestamp"].min(initial=np.iinfo(np.int64).max)),
        last_ms=int(lines["timestamp"].max(initial=0)),
        num_events=found.num - num_guests,
        known=known,
        **sums_of_users(sessions if unfinished == "keep" else sessions.where(sessions.is_finished)),
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


def _sessions_of(
    lines: Lines, num_arms: int, interleaved: str, gap_minutes: float, unfinished: str, folder: Path
) -> tuple[Sessions, Any, dict[str, int], Known]:
    """Cut the lines of each user into sessions; then apply the rules of GUARDS.

    Returns:
        The sessions without a fault, the number of users of each arm before anything is left out, the faults, and what
        the users knew before. Lines whose arm is `num_arms` are of arms that are not compared.
    """
    first = np.flatnonzero(changes(lines["user_id"]))
    in_two_arms = np.minimum.reduceat(lines["arm"], first) != np.maximum.reduceat(lines["arm"], first)
    is_of_two_arms = np.repeat(in_two_arms, np.diff(first, append=len(lines["arm"])))
    exposed = np.bincount(lines["arm"][first][~in_two_arms], minlength=num_arms)[:num_arms]
    for arm in range(num_arms) if in_two_arms.any() else ():
        exposed[arm] += len(np.unique(lines["user_id"][is_of_two_arms & (lines["arm"] == arm)]))
    is_duplicate = _duplicates(lines)
    if (left_out := is_of_two_arms | is_duplicate | (lines["arm"] == num_arms)).any():  # rare, and the copies are slow
        lines = {key: column[~left_out] for key, column in lines.items()}
    is_out_of_order = ~changes(lines["user_id"], lines["file"]) & (np.diff(lines["position"], prepend=0) < 0)
    lines, begins, num_interleaved = cut_log(lines, gap_minutes, interleaved)
    start = np.flatnonzero(begins)
    tracks = np.diff(start, append=len(begins))
    is_finished = lines["is_last"][start + tracks - 1]
    has_bad_share = np.logical_or.reduceat((lines["time"] < 0) | (lines["time"] > 1), start)
    sessions = Sessions(
        user_keys=lines["user_id"][start],
        arm_of=lines["arm"][start].astype(np.int64),
        started_ms=lines["timestamp"][start],
        tracks=tracks,
        time=np.add.reduceat(lines["time"], start),
        latency_ms=1000 * np.add.reduceat(lines["latency"], start),
        fallbacks=np.add.reduceat(lines["is_fallback"], start, dtype=np.int64),
        is_finished=is_finished,
    )
    faults = {
        "users_in_two_arms": int(in_two_arms.sum()),
        "duplicate_lines": int((is_duplicate & ~is_of_two_arms).sum()),
        "interleaved_sessions": num_interleaved,
        "lines_behind_the_clock": int(is_out_of_order.sum()),
        "sessions_with_bad_shares": int(has_bad_share.sum()),
        "ends_without_session": int((is_finished & (tracks == 1)).sum()),
        "sessions_without_end": int((~is_finished).sum()),
    }
    known = count_known(lines, start, folder, ~has_bad_share & (is_finished | (unfinished == "keep")))
    return sessions.where(~has_bad_share), exposed, faults, known


def _duplicates(lines: Lines) -> Any:
    """Whether each line repeats an earlier one; only lines of one user in one millisecond are compared."""
    names = ("user_id", "timestamp", "is_last", "track", "time", "latency", "recommendation")
    is_duplicate = ~changes(lines["user_id"], lines["timestamp"])
    ties = np.flatnonzero(is_duplicate | np.append(is_duplicate[1:], False))  # which has all that can be duplicates
    is_duplicate[ties] = pd.DataFrame({name: lines[name][ties] for name in names}).duplicated()
    return is_duplicate
