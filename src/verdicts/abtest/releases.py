"""Releases that a service answered from one after another: how much of its recommendations listeners played."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from segue.assignment import GUESTS
from segue.errors import InputError
from segue.reports.numbers import interval, number
from segue.reports.result_table import Table
from segue.statistics.intervals import LEVEL, UNKNOWN, GroupSummary, MeanInterval, PercentDifference, fieller
from segue.verdicts.abtest.events import Lines, cut_log, log_database, read_events

REMARKS = (
    "Share played: of the tracks that a release recommended and that the listener then played, without the first track "
    "of a session. Its 95 % interval, and that of the change, account for variation across users.",
    "Change: to the release before. The two were served at different times, therefore a change is also that of the "
    "days: weekday, season, news. An A/B test of both releases, on the same days, has no such doubt: serve.py "
    "'arms={C: <run before>, T1: <run>}'.",
)


@dataclass(frozen=True, kw_only=True)
class ServedRelease:
    """What listeners played of the recommendations of a release.

    Args:
        release: its version.
        first_ms: time of its first answer, in milliseconds since 1970.
        users: number of users who played its recommendations.
        played: the mean share of a track that was played, in [0, 1], with its interval clustered by user, and the
            number of plays.
        change: to the release that answered just before its first answer; unknown for the first release.
    """

    release: str
    first_ms: int
    users: int
    played: MeanInterval
    change: PercentDifference


def compare_releases(folder: Path, *, max_rejected: float, session_gap_minutes: float) -> list[ServedRelease]:
    """Read every `data.json*` in a folder and below it.

    Args:
        folder: the folder.
        max_rejected: accepted share of lines that are not events, in [0, 1].
        session_gap_minutes: longest pause in a session.

    Returns:
        A row for each release of which a recommendation was played, in the order of their first answers.

    Raises:
        InputError: there are no logs, too many lines are not events, no line names a release, or none was played.
    """
    where = f"logs={folder}"
    needs = "release", "no line names a release, which serve.py writes with log.with_propensity=true"
    columns = ("is_last", "timestamp", "user_id", "track", "time", "recommendation", "release")
    with log_database() as database:
        read_events(database, folder, where, columns=columns, max_rejected=max_rejected, needs=needs)
        lines: Lines = database.execute(
            f"""
            SELECT user_id, timestamp, is_last, track, time, recommendation, release, lines.rowid AS position FROM lines
            WHERE is_event AND user_id NOT BETWEEN {GUESTS.start} AND {GUESTS.stop - 1}
            ORDER BY user_id, timestamp, position"""
        ).fetchnumpy()
    lines, begins, _ = cut_log(lines, session_gap_minutes)
    # the share of a recommendation is in the line after the one that recommended it
    is_played = ~begins[1:] & (lines["recommendation"][:-1] == lines["track"][1:])
    after = np.flatnonzero(is_played & (lines["release"][:-1] != "")) + 1
    after = after[np.argsort(lines["timestamp"][after - 1], kind="stable")]
    versions = lines["release"][after - 1].astype(str)
    names, first, release = np.unique(versions, return_index=True, return_inverse=True)
    user, share = lines["user_id"][after], np.clip(lines["time"][after], 0, 1)
    found = list[ServedRelease]()
    for which in np.argsort(first).tolist():
        own, at = release == which, first[which]
        change = change_of_release(release, user, share, before=int(release[at - 1]), now=which) if at else UNKNOWN
        found.append(
            ServedRelease(
                release=str(names[which]),
                first_ms=int(lines["timestamp"][after[at] - 1]),
                users=len(np.unique(user[own])),
                played=MeanInterval.of_clusters(share[own], user[own], LEVEL),
                change=change,
            )
        )
    if not found:
        raise InputError(f"{where}: no recommendation of a release was played yet; wait for listeners")
    return found


def change_of_release(
    release: Int64[np.ndarray, "P"],
    user: Int64[np.ndarray, "P"],
    share: Float64[np.ndarray, "P"],
    *,
    before: int,
    now: int,
) -> PercentDifference:
    """The change of the share played (P recommendations that were played).

    A user may have heard both releases, therefore the means covary.

    Args:
        release: number of the release of each.
        user: number of the user of each.
        share: share of each that was played, in [0, 1].
        before: number of the release before.
        now: number of the release.

    Returns:
        In percent of the share of the release before, with an interval of level 95 %; unknown with one user.
    """
    users = np.unique(user[np.isin(release, (before, now))])
    if len(users) < 2:
        return UNKNOWN
    linear, summaries = [], []
    for which in (before, now):
        own = release == which
        place = np.searchsorted(users, user[own])
        sums, counts = (np.bincount(place, values, len(users)) for values in (share[own], np.ones(own.sum())))
        summaries.append(GroupSummary.of_ratio(sums, counts))
        linear.append((sums - summaries[-1].mean * counts) / counts.mean())
    return fieller(summaries[0], summaries[1], 1 - LEVEL, float(np.cov(linear)[0, 1]) / len(users))


def releases_table(found: list[ServedRelease]) -> Table:
    """A row for each release."""
    rows = []
    for one in found:
        first = datetime.fromtimestamp(one.first_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        played = f"{one.played.mean:.3f}\n{interval(one.played.lower, one.played.upper, '.3f')}"
        bounds = interval(one.change.lower_percent, one.change.upper_percent, "+.1f")
        change = f"{number(one.change.effect_percent, '+.1f')}\n{bounds}"
        rows.append([one.release, first, f"{one.users:,}", f"{one.played.num:,}", played, change])
    columns = ["release", "first answer,\nUTC", "users", "plays", "share played\n[interval]", "change in %\n[interval]"]
    return Table(title="Releases", columns=columns, rows=rows, align="Llrrrr", notes=REMARKS)
