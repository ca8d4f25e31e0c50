"""How much of what each arm played was known to its listeners before: `share_known` and its relatives.

They are shown beside the effects and are no part of the verdict: more of what is known is neither better nor worse. The
rule is in `statistics/discovery.py`. U users, S sessions, E lines.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from segue.catalog import Catalog
from segue.datamodules.reading.units import LATEST_MS
from segue.errors import InputError
from segue.reports.numbers import interval, number
from segue.reports.result_table import Table
from segue.runs.catalog_files import read_catalog
from segue.runs.profiles import ENTRY, Profiles
from segue.runs.profiles import FILE as PROFILES
from segue.statistics.discovery import DISCOVERY, Discovery, is_in
from segue.statistics.intervals import GroupSummary, welch
from segue.verdicts.abtest.events import Lines

MEANINGS = dict(
    zip(
        DISCOVERY,
        (
            "was played to at least 80 % by the same listener in an earlier session",
            "was heard by the same listener in an earlier session",
            "is by an artist of whom the listener knows a track",
        ),
        strict=True,
    )
)
"""What each metric says of a track that follows the first one of a session."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Known:
    """What the users knew before of what they played after the first track of a session.

    Args:
        arm_of: number of the arm of each user who has a session after another one.
        asked: number of these tracks, at least 1.
        known: how many of them were known, by the name of the metric.
    """

    arm_of: Int64[np.ndarray, "U"]
    asked: Int64[np.ndarray, "U"]
    known: dict[str, Int64[np.ndarray, "U"]]


@dataclass(frozen=True, kw_only=True)
class Discovered:
    """One metric of one treatment, compared with the control.

    Args:
        treatment: name of the arm.
        metric: one of `DISCOVERY`.
        control_users: users of the control with a session after another one.
        treatment_users: the same of the treatment.
        control_mean: mean over these users of the control, a share in [0, 1].
        treatment_mean: the same of the treatment.
        difference_points: difference of the means in percentage points.
        lower_points: lower bound of its interval (Welch).
        upper_points: upper bound.
    """

    treatment: str
    metric: str
    control_users: int
    treatment_users: int
    control_mean: float
    treatment_mean: float
    difference_points: float
    lower_points: float
    upper_points: float


def count_known(lines: Lines, first: Int64[np.ndarray, "S"], folder: Path, kept: Bool[np.ndarray, "S"]) -> Known:
    """Count what was known before: in the log, and in what its users had heard before it, if the folder says so.

    What was heard in a session that is left out is known in later ones.

    Args:
        lines: columns of the lines, in sessions, those of a user one after another, in order of time.
        first: row of the first line of each session.
        folder: of the logs; the artists come from the `tracks.json` in it or beside it, and what was heard before from
            the `profiles.npz`, if there is one. Its tracks with a play at the time of the log, or later, are left out.
        kept: whether the tracks of each session count.
    """
    num, sessions = _users(lines), _sessions(lines, first)
    _, counted, known = replayed(lines, first, folder)
    is_kept = kept[sessions]
    counted, known = counted & is_kept, {name: one & is_kept for name, one in known.items()}
    asked = np.bincount(num[counted], minlength=int(num[-1]) + 1 if len(num) else 0)
    returned = asked > 0
    counts = {name: np.bincount(num[one], minlength=len(asked))[returned] for name, one in known.items()}
    arm_of = lines["arm"][np.searchsorted(num, np.arange(len(asked)))].astype(np.int64)
    return Known(arm_of=arm_of[returned], asked=asked[returned], known=counts)


def replayed(
    lines: Lines, first: Int64[np.ndarray, "S"], folder: Path, catalog: Catalog | None = None
) -> tuple[Discovery, Bool[np.ndarray, "E"], dict[str, Bool[np.ndarray, "E"]]]:
    """What was known before each session: in the log, and in what its users had heard before it, if the folder says so.

    Args:
        lines: columns of the lines, in sessions, by user (ascending) and time.
        first: row of the first line of each session.
        folder: of the logs, as for `count_known`.
        catalog: tracks that can be asked for; None for that of the folder, if it has one.

    Returns:
        It can be asked with the numbers of users and sessions in these lines, and rows of the catalogue if there is
        one. Which lines count: those after the first one of a session whose user has an earlier session. And by the
        name of a metric, which of them were known.
    """
    catalog = _catalog_of(folder) if catalog is None else catalog
    num, path = _users(lines), _beside(folder, PROFILES)
    users = lines["user_id"][np.diff(num, prepend=-1) > 0]
    owner, entries = np.empty(0, np.int64), np.empty(0, ENTRY)
    if path is not None:
        of = Profiles.read(path)
        listener = of.owners
        is_before = of.entries["last_ms"] < lines["timestamp"].min(initial=LATEST_MS)
        own = is_in(listener, users) & is_before
        owner, entries = users.searchsorted(listener[own]), of.entries[own]
    rows = np.empty(0, np.int64) if catalog is None else catalog.keys
    codes, keys = pd.factorize(np.concatenate([rows, entries["track"], lines["track"]]))
    others = np.arange(len(keys) - len(rows))  # tracks that the catalogue does not have: each by an artist of its own
    artist_of = None if catalog is None else np.append(catalog.artist_of, catalog.num_artists + others)
    discovery = Discovery(len(keys), artist_of)
    before, codes = np.split(codes[len(rows) :], [len(owner)])
    discovery.of_plays(owner, before, entries["best"].astype(np.float64), np.zeros(len(owner), np.int64))
    shares = np.asarray(lines["time"], np.float64)
    return discovery, *discovery.of_plays(num, codes, shares, _sessions(lines, first))


def _users(lines: Lines) -> Int64[np.ndarray, "E"]:
    """Number of the user of each line."""
    return np.cumsum(np.append(0, np.diff(lines["user_id"]) != 0)[: len(lines["user_id"])])


def _sessions(lines: Lines, first: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "E"]:
    """Number of the session of each line."""
    return np.arange(len(first)).repeat(np.diff(first, append=len(lines["user_id"])))


def _catalog_of(folder: Path) -> Catalog | None:
    if (path := _beside(folder, "tracks.json")) is None:
        return None
    try:
        return read_catalog(path)
    except InputError:  # another file of this name
        return None


def _beside(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, or beside it; None where there is none."""
    return next((path for one in (folder, folder.absolute().parent) if (path := one / name).is_file()), None)


def compare_known(known: Known | None, arms: list[str], alpha: float) -> list[Discovered]:
    """Compare every treatment with the control.

    Args:
        known: what the users knew; None if it was not counted.
        arms: names of the arms, the control first.
        alpha: intervals have level 1 − alpha.

    Returns:
        A row for each treatment and metric; none where an arm has fewer than two users with a session after another.
    """
    found = list[Discovered]()
    if known is None:
        return found
    for name, counts in known.known.items():
        shares = counts / known.asked
        groups = [shares[known.arm_of == number] for number in range(len(arms))]
        for arm, own in zip(arms[1:], groups[1:], strict=True):
            if min(len(groups[0]), len(own)) < 2:
                continue
            control, treatment = GroupSummary.of(groups[0]), GroupSummary.of(own)
            effect = welch(control, treatment, alpha, 100.0)
            found.append(
                Discovered(
                    treatment=arm,
                    metric=name,
                    control_users=control.num,
                    treatment_users=treatment.num,
                    control_mean=control.mean,
                    treatment_mean=treatment.mean,
                    difference_points=effect.effect_percent,
                    lower_points=effect.lower_percent,
                    upper_points=effect.upper_percent,
                )
            )
    return sorted(found, key=lambda one: arms.index(one.treatment))


def discovery_table(found: list[Discovered], level: float) -> Table:
    """The table for a terminal and for a page."""
    rows = [
        [
            *(one.treatment, one.metric.replace("_", " ")),
            *(number(100 * mean, ".1f") for mean in (one.control_mean, one.treatment_mean)),
            number(one.difference_points, "+.1f"),
            interval(one.lower_points, one.upper_points, "+.1f"),
        ]
        for one in found
    ]
    users = [f"{one.treatment} {one.treatment_users:,}" for one in found if one.metric == DISCOVERY[0]]
    notes = [f"{name.replace('_', ' ')}: {MEANINGS[name]}" for name in dict.fromkeys(one.metric for one in found)]
    return Table(
        title="Discovery",
        columns=["arm", "metric", "control, %", "treatment, %", "points", f"{level:.0%} interval"],
        rows=rows,
        align="llRRRR",
        notes=[
            "Of the tracks after the first one of a session, for users with an earlier session: "
            f"{', '.join([f'C {found[0].control_users:,}', *users])} users.",
            *notes,
        ],
    )
