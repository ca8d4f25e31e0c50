"""Synthetic users and settings for the tests of the A/B analysis."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.users import Sessions, Users, sums_of_users


def settings(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(**{"guardrails": {}, **changes})


def users_of(time: Any, arm_of: Any, arms: tuple[str, ...] = ("C", "T1"), user_keys: Any = None) -> Users:
    """Users with one session each, of the given time."""
    num = len(time)
    ids = np.arange(num) if user_keys is None else np.asarray(user_keys, np.int64)
    sessions = Sessions(
        user_keys=ids,
        arm_of=np.asarray(arm_of, np.int64),
        started_ms=np.full(num, 1000),
        tracks=np.full(num, 5),
        time=np.asarray(time, np.float64),
        latency_ms=np.zeros(num),
        fallbacks=np.zeros(num, np.int64),
        is_finished=np.ones(num, bool),
    )
    return users_of_sessions(sessions, arms)


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
