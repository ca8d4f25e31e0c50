"""The report of an A/B test: what it has, and in which order."""

import re
from dataclasses import replace

import numpy as np
import pytest

from segue.reports.markdown import document
from segue.reports.writing import in_markdown
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.metrics import METRICS
from segue.verdicts.abtest.report import sections
from segue.verdicts.abtest.result import METHODS, Analysis
from tests.verdicts.abtest.users import pre_period, settings, users_of

TIME, ARM_OF = np.random.default_rng(0).exponential(size=400), np.arange(400) % 2


def text_of(analysis: Analysis) -> str:
    """The report in Markdown."""
    found = sections(analysis).items()
    return document(block for heading, part in found for block in [f"## {heading}", *in_markdown(part)])


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    found = analyse(users_of(TIME, ARM_OF), settings(), pre_period(users_of(TIME + 1, ARM_OF)))
    return replace(found, recommenders={"C": "random", "T1": "run:1234"})


def test_the_report_has_the_users_first_then_effects_and_verdict_and_what_could_be_wrong(analysis: Analysis) -> None:
    text = text_of(analysis)
    titles = re.findall(r"^##? (.*)$", text, flags=re.MULTILINE)
    page = ["Users", "Effects", "What could be wrong"]
    assert titles[: len(page)] == page
    assert not re.search(r"\bnan\b", text)
    assert "| C | 50.0% | 50.0% | 200 | 200 | 200 |" in text
    assert "C is random. T1 is run:1234. The split of the users over the arms agrees" in text
    assert f"- T1: {analysis.verdicts['T1']}\n" in text
    assert re.findall(r"^- T1, ([\w ]+): [+-]", text, flags=re.MULTILINE) == list(METHODS[:4])
    assert not [metric for metric in METRICS if "_" in metric and metric in text]
    assert "| T1 | time |" in text
    assert "| not tested |" in text


@pytest.mark.parametrize(("split", "decision"), [(None, "better"), ([2.0, 3.0], "**better**")])
def test_only_the_effects_of_a_valid_verdict_are_emphasised(split: list[float] | None, decision: str) -> None:
    arm_of = np.arange(3000) < 1800
    users = users_of(np.random.default_rng(0).exponential(size=3000) * (1 + arm_of), arm_of)
    assert f"| {decision} p < 0.0001 |" in text_of(analyse(users, settings(split=split)))
