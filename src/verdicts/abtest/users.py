"""What the users of an experiment did: one row per session, and one row per user, the input of the A/B analysis.

S sessions, U users, A arms.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64, Shaped

from segue.catalog import changes


@dataclass(frozen=True, eq=False, kw_only=True)
class Sessions:
    """The sessions of an experiment that have no fault, sorted by user and start.

    Args:
        user_keys: key of the user of each session, see `catalog.key_of`; of texts it is a digest of 63
            bits, and any two of ten million users have the same one with a probability below 0.00001.
        arm_of: number of the arm of each session.
        started_ms: time of the first event of each session, in milliseconds since 1970.
        tracks: number of events of each session.
        time: sum of the shares played in each session.
        latency_ms: sum of the latencies of each session, in milliseconds.
        fallbacks: number of recommendations of each session that no list gave; 0 where the log does not say so.
        is_finished: whether the log has the `last` of each session; the others were cut off, and lasted longer.
    """

    user_keys: Int64[np.ndarray, "S"]
    arm_of: Int64[np.ndarray, "S"]
    started_ms: Int64[np.ndarray, "S"]
    tracks: Int64[np.ndarray, "S"]
    time: Float64[np.ndarray, "S"]
    latency_ms: Float64[np.ndarray, "S"]
    fallbacks: Int64[np.ndarray, "S"]
    is_finished: Bool[np.ndarray, "S"]

    def __len__(self) -> int:
        return len(self.user_keys)

    @property
    def is_first(self) -> Bool[np.ndarray, "S"]:
        """Whether each is the first session of its user."""
        return changes(self.user_keys)

    def where(self, kept: Bool[np.ndarray, "S"]) -> "Sessions":
        """Some of the sessions.

        Args:
            kept: whether each session is kept, shape `[S]`.
        """
        return Sessions(**{name: getattr(self, name)[kept] for name in self.__dataclass_fields__})

    def extended(self, arm: int) -> "Sessions":
        """The sessions, if each unfinished one of an arm had become as long as the longest finished one of any arm.

        Latency and fallbacks of a track stay those of the session.
        """
        lasted, longer = self.where(self.is_finished), ~self.is_finished & (self.arm_of == arm)
        tracks = np.where(longer, np.maximum(self.tracks, lasted.tracks.max(initial=0)), self.tracks)
        growth = tracks / self.tracks
        return replace(
            self,
            tracks=tracks,
            time=np.where(longer, np.maximum(self.time, lasted.time.max(initial=0.0)), self.time),
            latency_ms=self.latency_ms * growth,
            fallbacks=np.rint(self.fallbacks * growth).astype(np.int64),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Users:
    """What each user of an experiment did.

    Args:
        experiment: name of the experiment.
        arms: names of its arms, the control first.
        exposed: number of users of each arm in the log, before anything is left out.
        user_keys: key of each user, ascending; see `Sessions`.
        arm_of: number of the arm of each user: its place in `arms`.
        sessions: number of sessions of each user.
        tracks: number of events of each user.
        time: sum of the shares that each user played; 1 is one track played in full.
        latency_ms: sum of the latencies of each user, in milliseconds.
        fallbacks: number of recommendations of each user that no list gave.
        each: the sessions, finished or not.
        keeps_unfinished: whether the numbers of the users count unfinished sessions too.
        guards: how often each rule of `log.GUARDS` was applied, by its name.
        first_ms: time of the first event of the experiment, in milliseconds since 1970.
        last_ms: time of its last event, in milliseconds since 1970.
        num_events: number of lines read.
        known: what the users knew before of what they played; see `known_before.known_shares`.
    """

    experiment: str
    arms: list[str]
    exposed: Int64[np.ndarray, "A"]
    user_keys: Int64[np.ndarray, "U"]
    arm_of: Int64[np.ndarray, "U"]
    sessions: Int64[np.ndarray, "U"]
    tracks: Int64[np.ndarray, "U"]
    time: Float64[np.ndarray, "U"]
    latency_ms: Float64[np.ndarray, "U"]
    fallbacks: Int64[np.ndarray, "U"]
    each: Sessions
    keeps_unfinished: bool
    guards: dict[str, int]
    first_ms: int
    last_ms: int
    num_events: int
    known: pd.DataFrame

    def __len__(self) -> int:
        return len(self.user_keys)

    def look_up(self, user_keys: Int64[np.ndarray, "V"], values: Shaped[np.ndarray, "U"]) -> Float64[np.ndarray, "V"]:
        """Values of users; NaN for those who are not here.

        Args:
            user_keys: their keys.
            values: of each user here.
        """
        place = np.searchsorted(self.user_keys, user_keys).clip(max=len(self) - 1)
        return np.where(self.user_keys[place] == user_keys, values[place], np.nan)

    @property
    def counted(self) -> Sessions:
        """The sessions that the numbers of the users count."""
        return self.each if self.keeps_unfinished else self.each.where(self.each.is_finished)

    def of(self, sessions: Sessions) -> "Users":
        """The users as if the log had other sessions: some of them, or changed ones.

        Args:
            sessions: the sessions, sorted by user.
        """
        return replace(self, **sums_of_users(sessions))


def sums_of_users(sessions: Sessions) -> dict[str, Any]:
    """What each user did in some sessions: the fields of `Users` that have a number for each user.

    Args:
        sessions: the sessions (S), sorted by user.

    Returns:
        Arrays of shape `[U]`, by the name of the field; users without a session have no row.
    """
    first = np.flatnonzero(sessions.is_first)
    sums = {name: getattr(sessions, name) for name in ("tracks", "time", "latency_ms", "fallbacks")}
    return {
        **{name: getattr(sessions, name)[first] for name in ("user_keys", "arm_of")},
        "sessions": np.diff(first, append=len(sessions)),
        **{name: np.add.reduceat(values, first) if len(first) else values for name, values in sums.items()},
    }
