"""Synthetic users and settings for the tests of the A/B analysis."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.users import Sessions, Users, sums_of_users


def settings(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(**{"guardrails": {}, **changes})


def sessions_of(time: Any, arm_of: Any, **changes: Any) -> Sessions:
    """Finished sessions of the given time, with five tracks; by default each is of another user."""
    num = len(time)
    nothing = np.zeros(num, np.int64)
    usual: dict[str, Any] = {"user_keys": np.arange(num), "started_ms": nothing + 1000, "tracks": nothing + 5}
    usual |= {"latency_ms": np.zeros(num), "fallbacks": nothing, "is_finished": np.ones(num, bool)}
    columns = {"time": np.asarray(time, np.float64), "arm_of": np.asarray(arm_of, np.int64)}
    return Sessions(**{**usual, **columns, **changes})


def users_of(time: Any, arm_of: Any, arms: tuple[str, ...] = ("C", "T1"), **changes: Any) -> Users:
    """Users with one session each, of the given time."""
    return users_of_sessions(sessions_of(time, arm_of, **changes), arms)


def users_of_sessions(sessions: Sessions, arms: tuple[str, ...] = ("C", "T1")) -> Users:
    """The users of sessions, as `read_users` gives them with `unfinished=drop`."""
    _, first = np.unique(sessions.user_keys, return_index=True)
    return Users(
        experiment="TEST",
        arms=list(arms),
        exposed=np.bincount(sessions.arm_of[first], minlength=len(arms)),
        each=sessions,
        keeps_unfinished=False,
        **sums_of_users(sessions.where(sessions.is_finished)),
        guards={},
        first_ms=1000,
        last_ms=2000,
        num_events=int(sessions.tracks.sum()),
        known=pd.DataFrame({"arm": []}),
    )


def pre_period(users: Users) -> Users:
    """The same users in a period before the experiment."""
    return replace(users, first_ms=0, last_ms=999)
