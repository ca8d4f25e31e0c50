"""From event logs with propensities to the first recommendation of each session, the input of an estimate.

V sessions, E plays in the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from segue.assignment import GUESTS
from segue.catalog import Catalog, changes
from segue.datamodules.pairs.pair_rules import GapMinutes
from segue.runs.profiles import Profiles, entries_of_events, joined, padded
from segue.settings import settings
from segue.verdicts.abtest.events import Lines, MaxRejected, cut_log, json_object, log_database, read_events

MOST_PLAYS = 5_000
"""Plays of a listener before a session that their profile is computed from, at most: the last ones."""

LEFT_OUT = {
    "guests": "sessions of guests, who try the service out in the listening room",
    "without_recommendation": "sessions without a recommendation",
    "ignored_recommendation": "sessions in which another track than the recommended one was played",
    "unknown_tracks": "sessions with a track that is not in the catalogue",
    "bad_shares": "sessions with a share below 0 or above 1",
    "without_propensity": "sessions whose recommendation has no propensity in (0, 1]",
}
"""Why a session is left out, by name, in the order in which the reasons are looked for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Decisions:
    """The first recommendation of each session, and all plays of the log.

    Args:
        first: place of the first play of each session; that of the recommended track follows.
        plays: the columns `user_id`, `timestamp`, `track` (its row), `time` (the share played), `arm` (its number),
            `propensity` (of the track that follows), `is_kept` (whether the service kept the play for later sessions),
            and `nth` (number of plays of the user before this one, which are directly before it).
        arms: names of the arms.
        left_out: number of sessions that were left out for each reason of LEFT_OUT.
        num_read: number of sessions of the log, with those that were left out.
        lines_rejected: number of lines that are not events.
    """

    first: Int64[np.ndarray, "V"]
    plays: Lines
    arms: list[str]
    left_out: dict[str, int]
    num_read: int
    lines_rejected: int

    def __len__(self) -> int:
        return len(self.first)

    def where(self, chosen: Bool[np.ndarray, "V"] | Int64[np.ndarray, "v"]) -> "Decisions":
        """Select sessions.

        Args:
            chosen: True for each session to keep, or the numbers of these sessions.
        """
        return replace(self, first=self.first[chosen])

    def of(self, column: str, step: int = 0) -> np.ndarray:
        """A column of `plays` for the first play of each session, or with `step=1` for that of the recommended track.

        Args:
            column: its name.
            step: number of plays after the first one.
        """
        return np.asarray(self.plays[column][self.first + step])

    @property
    def _num_known(self) -> Int64[np.ndarray, "V"]:
        """Plays before each session that the service knew; none where it did not keep the first one of the session."""
        return np.where(self.of("is_kept"), self.of("nth"), 0)

    def last_plays(self, num: int) -> tuple[Int64[np.ndarray, "V T"], Float64[np.ndarray, "V T"]]:
        """The last plays of the user of each session, the newest first; the first one of the session among them.

        Args:
            num: how many (T).

        Returns:
            Their rows, -1 where there were fewer, and the shares played.
        """
        ages = np.arange(num)
        places, is_there = (self.first[:, None] - ages).clip(min=0), ages <= self._num_known[:, None]
        rows, shares = self.plays["track"][places], self.plays["time"][places]
        return np.where(is_there, rows, -1), np.where(is_there, shares, 0.0)

    def profiles(self, before: Profiles) -> np.ndarray:
        """What the listener of each session had heard in earlier sessions: in the log, and before it. V × entries.

        Args:
            before: what was known of listeners before the log, with rows of tracks. Entries with a play at the time of
                the log, or later, are left out: they may have learned from the log itself.
        """
        plays, num = self.plays, np.minimum(self._num_known, MOST_PLAYS)
        owner = np.arange(len(self)).repeat(num)
        place = (self.first - num.cumsum())[owner] + np.arange(len(owner))
        is_known = (plays["track"][place] >= 0) & plays["is_kept"][place]
        owner, place = owner[is_known], place[is_known]
        shares = plays["time"][place].astype(np.float32)
        owner, entries = entries_of_events(owner, plays["track"][place], shares, plays["timestamp"][place])
        earlier = before.of_listeners(self.of("user_id"))
        is_past = (earlier["plays"] > 0) & (earlier["last_ms"] < plays["timestamp"].min())
        known = (is_past & self.of("is_kept")[:, None]).nonzero()
        both = np.concatenate([owner, known[0]]), np.concatenate([entries, earlier[known]])
        return padded(*joined(*both), len(self))


@settings()
def read_decisions(
    folder: Path, catalog: Catalog, *, max_rejected: MaxRejected, session_gap_minutes: GapMinutes
) -> Decisions:
    """Read every `data.json*` in a folder and below it.

    Args:
        folder: the folder.
        catalog: the catalogue that the track ids belong to.

    Raises:
        InputError: there are no logs, they cannot be read, too many lines are not events, or no line has a propensity.
    """
    needs = (
        "propensity",
        "no line has a propensity; an estimate needs logs that were written with log.with_propensity=true",
    )
    columns = (
        *("is_last", "timestamp", "user_id", "track", "time", "recommendation"),
        *("any_experiments", "propensity", "is_kept"),
    )
    with log_database() as database:
        found = read_events(database, folder, f"logs={folder}", columns=columns, max_rejected=max_rejected, needs=needs)
        query = f"SELECT {', '.join(columns)} FROM lines WHERE is_event ORDER BY user_id, timestamp, rowid"
        lines = {name: np.asarray(column) for name, column in database.execute(query).fetchnumpy().items()}
    texts, lines["arm"] = np.unique(lines.pop("any_experiments").astype(str), return_inverse=True)
    lines, begins, _ = cut_log(lines, session_gap_minutes)
    first, of_user = np.flatnonzero(begins), changes(lines["user_id"])
    is_ignored = lines["recommendation"] != np.roll(lines["track"], -1)
    lines["track"] = catalog.rows_of(lines["track"])
    lines["nth"] = np.arange(len(begins)) - np.flatnonzero(of_user)[of_user.cumsum() - 1]
    kept, left_out = _usable(lines, first, is_ignored)
    return Decisions(
        first=first[kept],
        plays=lines,
        arms=_names(texts.tolist()),
        left_out=left_out,
        num_read=len(first),
        lines_rejected=found.num_rejected,
    )


def _usable(
    lines: Lines, first: Int64[np.ndarray, "S"], is_ignored: Bool[np.ndarray, "E"]
) -> tuple[Bool[np.ndarray, "S"], dict[str, int]]:
    """Which sessions can be used, and how many are left out for each reason."""
    num, user, propensity = len(is_ignored), lines["user_id"][first], lines["propensity"][first]
    both = np.stack([first, np.minimum(first + 1, num - 1)])
    faults = {
        "guests": (user >= GUESTS.start) & (user < GUESTS.stop),
        "without_recommendation": lines["is_last"][first] | (np.diff(first, append=num) < 2),
        "ignored_recommendation": is_ignored[first],
        "unknown_tracks": (lines["track"][both] < 0).any(0),
        "bad_shares": ((lines["time"][both] < 0) | (lines["time"][both] > 1)).any(0),
        "without_propensity": ~((propensity > 0) & (propensity < 1 + 1e-9)),  # a sum of shares may be rounded up
    }
    kept, left_out = np.ones(len(first), bool), dict[str, int]()
    for name, fault in faults.items():
        left_out[name] = int((kept & fault).sum())
        kept &= ~fault
    return kept, left_out


def _names(texts: list[str]) -> list[str]:
    """Arms for people: `C`, or `C of TEST` where the log has several experiments."""
    arms = [json_object(text) or {"": "all"} for text in texts]
    is_one = len({tuple(given) for given in arms}) <= 1
    return [", ".join(str(arm) if is_one else f"{arm} of {name}" for name, arm in given.items()) for given in arms]


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Say which sessions were left out and why.

    Args:
        left_out: number of sessions for each reason of LEFT_OUT.

    Returns:
        Empty if none was.
    """
    return "; ".join(f"{num:,} {LEFT_OUT[name]}" for name, num in left_out.items() if num)
