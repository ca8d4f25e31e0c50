"""From event logs with propensities to the decisions of complete sessions, the input of off-policy estimates.

V sessions, E tracks played in them, T of them in the first part of a session.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int64

from segue.assignment import GUESTS
from segue.catalog import Catalog, changes
from segue.datamodules.pairs.pair_rules import GapMinutes
from segue.datamodules.reading.units import LATEST_MS
from segue.picking.last_ten import NUM_PLAYS, LastPlays
from segue.runs.profiles import DAY_MS, ENTRY, Profiles, days_to_move, entries_of_events, joined, padded
from segue.runs.profiles import FILE as PROFILES
from segue.settings import settings
from segue.statistics.discovery import Discovery, is_in
from segue.verdicts.abtest.events import Lines, MaxRejected, cut_log, log_database, read_events

MOST_PLAYS = 20_000
"""Plays of a listener before a session that their profile is computed from, at most: the last ones."""
_PLAYS_AT_ONCE = 1_000_000  # plays of some listeners that are summed together, which needs memory

LEFT_OUT = {
    "guests": "sessions of guests, who try the service out in the listening room",
    "without_end": "sessions without a `last` event",
    "without_recommendation": "sessions without a recommendation",
    "ignored_recommendations": "sessions in which another track than the recommended one was played",
    "unknown_tracks": "sessions with a track that is not in the catalogue",
    "bad_shares": "sessions with a share below 0 or above 1",
    "without_propensity": "sessions with a recommendation without a propensity",
    "several_releases": "sessions in several arms or releases",
}
"""Why a session is left out, by name, in the order in which the reasons are looked for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Decisions:
    """Complete sessions whose every recommendation has a propensity, in the order of their starts.

    Args:
        users: key of the user of each session, see `catalog.key_of`.
        started_ms: time of the first event of each session, in milliseconds since 1970.
        setting: for each session, the place in `settings` of its arm and release.
        settings: text of `experiments` and of `release` of the lines of an arm.
        first: place of the first track of each session.
        lengths: number of tracks of each session, at least 2.
        num_before: number of tracks that the user of each session played before it; they are directly before `first`.
        tracks: row of each track.
        shares: share played of each track, in [0, 1].
        times_ms: when each track ended, in milliseconds since 1970; of all sessions of the log.
        is_kept: whether the service kept each play for later sessions. A session whose first one it did not keep was
            answered from the session alone.
        propensities: probability with which each track was recommended; NaN for the first track of a session.
        left_out: number of sessions that were left out for each reason of LEFT_OUT.
        num_sessions: number of sessions of the log, with those that were left out.
        lines_rejected: number of lines that are not events.
        numbers: number of the user and of the session, as `discovery` knows them, for each session.
        discovery: what each user knew before a session; None where it is not asked for.
    """

    users: Int64[np.ndarray, "V"]
    started_ms: Int64[np.ndarray, "V"]
    setting: Int64[np.ndarray, "V"]
    settings: list[tuple[str, str]]
    first: Int64[np.ndarray, "V"]
    lengths: Int64[np.ndarray, "V"]
    num_before: Int64[np.ndarray, "V"]
    tracks: Int64[np.ndarray, "E"]
    shares: Float64[np.ndarray, "E"]
    times_ms: Int64[np.ndarray, "E"]
    is_kept: Bool[np.ndarray, "E"]
    propensities: Float64[np.ndarray, "E"]
    left_out: dict[str, int]
    num_sessions: int
    lines_rejected: int
    numbers: Int64[np.ndarray, "V 2"]
    discovery: Discovery | None = None

    def __len__(self) -> int:
        return len(self.users)

    def where(self, chosen: Bool[np.ndarray, "V"] | Int64[np.ndarray, "v"]) -> "Decisions":
        """Select sessions; the columns of tracks are shared.

        Args:
            chosen: True for each session to keep, or the numbers of these sessions.
        """
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        of_sessions = ("users", "started_ms", "setting", "first", "lengths", "num_before", "numbers")
        return Decisions(**columns | {name: columns[name][chosen] for name in of_sessions})

    @property
    def has_past(self) -> Bool[np.ndarray, "V"]:
        """Whether the user of each session has an earlier one in the log, or had heard something before it."""
        return np.zeros(len(self), bool) if self.discovery is None else self.discovery.has_past(*self.numbers.T)

    def known(self, rows: Int64[np.ndarray, "V T"]) -> dict[str, Bool[np.ndarray, "V T"]]:
        """Whether the users knew tracks before their sessions, by the name of a metric of discovery.

        Args:
            rows: of tracks, for each session; -1 for none.
        """
        if self.discovery is None:
            return {}
        user, session = (np.broadcast_to(one[:, None], rows.shape) for one in self.numbers.T)
        found = self.discovery.known(user, np.maximum(rows, 0), session)
        return {name: one & (rows >= 0) for name, one in found.items()}

    @property
    def _num_known(self) -> Int64[np.ndarray, "V"]:
        return np.where(self.is_kept[self.first], self.num_before, 0)

    def last_plays(self, step: int) -> LastPlays:
        """The last plays of the user of each session when the track after some of it was recommended.

        Args:
            step: number of tracks of the session that had been played, at least 1.
        """
        ages = np.arange(NUM_PLAYS)
        places = ((self.first + step - 1)[:, None] - ages).clip(min=0)
        is_there = ages < (self._num_known + step)[:, None]
        return LastPlays(np.where(is_there, self.tracks[places], -1), np.where(is_there, self.shares[places], 0.0))

    def newest_first(self, step: int) -> tuple[Int64[np.ndarray, "V T"], Float32[np.ndarray, "V T"]]:
        """What each session had played when the track after some of it was recommended: rows and shares.

        Args:
            step: number of tracks of the session that had been played (T), at least 1.
        """
        places = (self.first + step - 1)[:, None] - np.arange(step)
        return self.tracks[places], self.shares[places].astype(np.float32)

    def profiles(self, before: Profiles, *, is_older: bool) -> np.ndarray:
        """What the listener of each session had heard in earlier sessions: in the log, and before it. V × entries.

        Of the log, the last `MOST_PLAYS` plays of each.

        Args:
            before: what was known of listeners before the log, with rows of tracks. Entries with a play at the time of
                the log, or later, are left out: they may have learned from the log itself.
            is_older: whether they are moved so many days back that none is left out, as the simulator does for its
                arms.
        """
        num, owners, found = np.minimum(self._num_known, MOST_PLAYS), [np.empty(0, np.int64)], [np.zeros(0, ENTRY)]
        ends = 1 + np.flatnonzero(np.diff(num.cumsum() // _PLAYS_AT_ONCE))
        for some in np.split(np.arange(len(self)), ends):
            owner = some.repeat(num[some])
            nth = np.arange(len(owner)) - (num[some].cumsum() - num[some]).repeat(num[some])
            place = (self.first - num)[owner] + nth
            is_known = (self.tracks[place] >= 0) & self.is_kept[place]
            owner, place = owner[is_known], place[is_known]
            columns = self.tracks[place], self.shares[place].astype(np.float32), self.times_ms[place]
            of_some = entries_of_events(owner, *columns)
            owners.append(of_some[0])
            found.append(of_some[1])
        start, earlier = int(self.times_ms.min()), before.of_listeners(self.users)
        if is_older:
            newest = int(before.entries["last_ms"].max(initial=0))
            earlier["last_ms"] -= days_to_move(newest, start - start % DAY_MS) * DAY_MS
        is_kept = self.is_kept[self.first][:, None]
        known = ((earlier["plays"] > 0) & (earlier["last_ms"] < start) & is_kept).nonzero()
        both = np.concatenate([*owners, known[0]]), np.concatenate([*found, earlier[known]])
        return padded(*joined(*both), len(self))


@settings()
def read_decisions(
    folder: Path, catalog: Catalog, *, max_rejected: MaxRejected, session_gap_minutes: GapMinutes
) -> Decisions:
    """Read every `data.json*` in a folder and below it.

    A session with a line that is no event is left out, and long sessions are more likely to have one; with a larger
    `max_rejected` the sessions that are left are too short.

    Args:
        folder: the folder.
        catalog: the catalogue that the track ids belong to.

    Raises:
        InputError: there are no logs, they cannot be read, too many lines are not events, or no line has a propensity.
    """
    with log_database() as database:
        found = read_events(
            database, folder, f"logs={folder}", columns=_COLUMNS, max_rejected=max_rejected, needs=_NEEDS
        )
        lines = {name: np.asarray(column) for name, column in database.execute(_SORTED).fetchnumpy().items()}
    return _sessions(lines, catalog, folder, found.num_rejected, session_gap_minutes)


_NEEDS = (
    "propensity",
    "no line has a propensity; an estimate needs logs that were written with log.with_propensity=true "
    "(datamodule.prepare.log.with_propensity=true)",
)

_COLUMNS = (
    *("is_last", "timestamp", "user_id", "track", "time", "recommendation"),
    *("any_experiments", "propensity", "release", "is_kept"),
)

_SORTED = """
    SELECT user_id, timestamp, is_last, track, time,
        CASE WHEN is_last THEN -1 ELSE recommendation END AS recommendation,
        any_experiments AS experiments, propensity, release, is_kept
    FROM lines WHERE is_event ORDER BY user_id, timestamp, rowid"""


def _sessions(lines: Lines, catalog: Catalog, folder: Path, lines_rejected: int, gap_minutes: float) -> Decisions:
    """Cut the lines of each user into sessions, and leave out sessions by LEFT_OUT."""
    texts = np.char.add(np.char.add(lines["experiments"].astype(str), "\n"), lines["release"].astype(str))
    settings, lines["setting"] = np.unique(texts, return_inverse=True)
    del lines["experiments"], lines["release"]
    lines, begins, _ = cut_log(lines, gap_minutes)
    first = np.flatnonzero(begins)
    lengths = np.diff(first, append=len(begins))
    of_user = np.flatnonzero(changes(lines["user_id"]))
    first_of_user = of_user[of_user.searchsorted(first, side="right") - 1]
    is_end = np.append(begins[1:], True)
    rows, is_next = catalog.rows_of(lines["track"]), ~lines["is_last"]
    ignored = np.append(lines["recommendation"][:-1] != lines["track"][1:], False) & is_next & ~is_end
    other = np.append(lines["setting"][:-1] != lines["setting"][1:], False) & ~is_end & np.append(is_next[1:], False)
    propensities = np.where(begins, np.nan, np.roll(np.where(is_next, lines["propensity"], np.nan), 1))
    faults = {
        "guests": (lines["user_id"][first] >= GUESTS.start) & (lines["user_id"][first] < GUESTS.stop),
        "without_end": ~np.logical_or.reduceat(lines["is_last"], first),
        "without_recommendation": lengths < 2,
        "ignored_recommendations": np.logical_or.reduceat(ignored, first),
        "unknown_tracks": np.logical_or.reduceat(rows < 0, first),
        "bad_shares": np.logical_or.reduceat((lines["time"] < 0) | (lines["time"] > 1), first),
        "without_propensity": np.logical_or.reduceat(~begins & ~(propensities > 0), first),
        "several_releases": np.logical_or.reduceat(other, first),
    }
    kept, left_out = np.ones(len(first), bool), dict[str, int]()
    for name, fault in faults.items():
        left_out[name] = int((kept & fault).sum())
        kept &= ~fault
    discovery, *_ = _replayed(lines, first, folder, catalog)
    chosen = np.flatnonzero(kept)[np.argsort(lines["timestamp"][first[kept]], kind="stable")]
    return Decisions(
        users=lines["user_id"][first[chosen]],
        started_ms=lines["timestamp"][first[chosen]],
        setting=lines["setting"][first[chosen]],
        settings=[(experiments, release) for experiments, _, release in np.char.rpartition(settings, "\n").tolist()],
        first=first[chosen],
        lengths=lengths[chosen],
        num_before=(first - first_of_user)[chosen],
        tracks=rows,
        shares=lines["time"].astype(np.float64),
        times_ms=lines["timestamp"],
        is_kept=lines["is_kept"].astype(bool),
        propensities=propensities,
        left_out=left_out,
        num_sessions=len(first),
        lines_rejected=lines_rejected,
        numbers=np.stack([of_user.searchsorted(first, side="right") - 1, np.arange(len(first))], 1)[chosen],
        discovery=discovery,
    )


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Say which sessions were left out and why.

    Args:
        left_out: number of sessions for each reason of LEFT_OUT.

    Returns:
        Empty if none was.
    """
    return "; ".join(f"{num:,} {LEFT_OUT[name]}" for name, num in left_out.items() if num)


def _replayed(
    lines: Lines, first: Int64[np.ndarray, "S"], folder: Path, catalog: Catalog
) -> tuple[Discovery, Bool[np.ndarray, "E"], dict[str, Bool[np.ndarray, "E"]]]:
    """What was known before each session: in the log, and in what its users had heard before it, if the folder says so.

    Args:
        lines: columns of the lines, in sessions, by user (ascending) and time.
        first: row of the first line of each session.
        folder: of the logs; what was heard before comes from the `profiles.npz` in it or beside it.
        catalog: tracks that can be asked for.

    Returns:
        It can be asked with the numbers of users and sessions in these lines, and rows of the catalogue if there is
        one. Which lines count: those after the first one of a session whose user has an earlier session. And by the
        name of a metric, which of them were known.
    """
    num, path = _users(lines), _beside(folder, PROFILES)
    users = lines["user_id"][np.diff(num, prepend=-1) > 0]
    owner, entries = np.empty(0, np.int64), np.empty(0, ENTRY)
    if path is not None:
        of = Profiles.read(path)
        listener = of.owners
        is_before = of.entries["last_ms"] < lines["timestamp"].min(initial=LATEST_MS)
        own = is_in(listener, users) & is_before
        owner, entries = users.searchsorted(listener[own]), of.entries[own]
    rows = catalog.keys
    codes, keys = pd.factorize(np.concatenate([rows, entries["track"], lines["track"]]))
    others = np.arange(len(keys) - len(rows))  # tracks that the catalogue does not have: each by an artist of its own
    artist_of = np.append(catalog.artist_of, catalog.num_artists + others)
    discovery = Discovery(len(keys), artist_of)
    before, codes = np.split(codes[len(rows) :], [len(owner)])
    discovery.of_plays(owner, before, entries["best"].astype(np.float64), np.zeros(len(owner), np.int64))
    shares = np.asarray(lines["time"], np.float64)
    return discovery, *discovery.of_plays(num, codes, shares, _session_numbers(lines, first))


def _users(lines: Lines) -> Int64[np.ndarray, "E"]:
    """Number of the user of each line."""
    return np.cumsum(np.append(0, np.diff(lines["user_id"]) != 0)[: len(lines["user_id"])])


def _session_numbers(lines: Lines, first: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "E"]:
    """Number of the session of each line."""
    return np.arange(len(first)).repeat(np.diff(first, append=len(lines["user_id"])))


def _beside(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, or beside it; None where there is none."""
    return next((path for one in (folder, folder.absolute().parent) if (path := one / name).is_file()), None)
