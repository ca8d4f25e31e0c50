"""Synthetic users and settings for the tests of the A/B analysis."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from src.abtest.log import Users
from src.abtest.settings import AnalysisSettings


def settings(**changes: Any) -> AnalysisSettings:
    defaults: dict[str, Any] = {
        "alpha": 0.05,
        "power": 0.8,
        "primary": "mean_time_per_session",
        "split": None,
        "correction": True,
        "sample_ratio": True,
        "sizing": True,
        "always_valid_percent": 10.0,
        "bootstrap_rounds": 200,
        "seed": 0,
    }
    return AnalysisSettings(**{**defaults, **changes})


def users_of(time: Any, arm_of: Any, arms: tuple[str, ...] = ("C", "T1"), user_ids: Any = None) -> Users:
    """Users with one session each, of the given time."""
    num = len(time)
    return Users(
        experiment="TEST",
        arms=list(arms),
        user_ids=np.arange(num) if user_ids is None else np.asarray(user_ids, np.int64),
        arm_of=np.asarray(arm_of, np.int64),
        sessions=np.ones(num, np.int64),
        tracks=np.full(num, 5),
        time=np.asarray(time, np.float64),
        latency_ms=np.zeros(num),
        guards={},
        first_ms=1000,
        last_ms=2000,
        timeline=pd.DataFrame(),
        lengths=pd.DataFrame(),
        num_events=num,
    )


def pre_period(users: Users) -> Users:
    """The same users in a period before the experiment."""
    return replace(users, first_ms=0, last_ms=999)
