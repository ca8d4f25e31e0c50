"""Settings of the A/B analysis that are rejected."""

from typing import Any

import pytest

from segue.errors import InputError
from segue.verdicts.abtest.analysis import analyse
from tests.verdicts.abtest.users import settings, users_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0}, "analysis.alpha must be a number above 0"),
        ({"power": 0.2}, "analysis.power must be a number of at least 0.5"),
        ({"primary": "clicks"}, "analysis.primary must be one of mean_time_per_session"),
        ({"guardrails": {"clicks": 5}}, "analysis.guardrails.clicks is no metric; a guardrail is one of mean_time"),
        (
            {"guardrails": {"time": -5}},
            "analysis.guardrails must be a mapping to a number above 0 and at most 1000 or null",
        ),
        ({"split": [1.0, -1.0]}, "analysis.split must be a list of a number above 0"),
        ({"bootstrap_rounds": -1}, "analysis.bootstrap_rounds must be a whole number"),
        ({"always_valid_percent": 0}, "analysis.always_valid_percent must be a number above 0"),
    ],
)
def test_settings_out_of_range_are_rejected(changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_a_split_without_one_share_for_each_arm_is_rejected() -> None:
    with pytest.raises(
        InputError, match=r"analysis\.split has 3 shares for the 2 arms C, T1; give one share for each arm"
    ):
        analyse(users_of([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]), settings(split=[1.0, 1.0, 1.0]))
