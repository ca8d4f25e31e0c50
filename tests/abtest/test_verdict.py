"""What the verdict says."""

from dataclasses import replace

import numpy as np

from src.abtest.analysis import analyse
from tests.abtest.users import settings, users_of


def test_users_that_split_wrongly_withhold_the_verdict() -> None:
    rng = np.random.default_rng(0)
    analysis = analyse(users_of(rng.exponential(size=3000), np.arange(3000) < 1800), settings())
    assert analysis.is_withheld
    assert analysis.verdicts["T1"].startswith("withheld: users do not split over the arms as planned")
    as_planned = analyse(users_of(rng.exponential(size=3000), np.arange(3000) < 1800), settings(split=[2.0, 3.0]))
    assert not as_planned.is_withheld


def test_a_longer_latency_is_worse() -> None:
    rng = np.random.default_rng(4)
    arm_of = np.arange(400) % 2
    users = replace(users_of(rng.random(400), arm_of), latency_ms=rng.random(400) + arm_of)
    analysis = analyse(users, settings(primary="mean_request_latency"))
    assert analysis.verdicts["T1"].startswith("worse than C: mean_request_latency +")
