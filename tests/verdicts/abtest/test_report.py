"""The report of an A/B test: every column that is shown is explained, and no other."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segue.reports.markdown import document
from segue.reports.numbers import interval
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.metrics import METRICS
from segue.verdicts.abtest.report import (
    FILES,
    blocks,
    details,
    effects_table,
    explain_columns,
    methods_table,
    write_report,
)
from segue.verdicts.abtest.result import Analysis
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.verdict import doubts, split_sentence
from tests.verdicts.abtest.users import pre_period, settings, users_of

TIME, ARM_OF = np.random.default_rng(0).exponential(size=400), np.arange(400) % 2


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(users_of(TIME, ARM_OF), settings(), pre_period(users_of(TIME + 1, ARM_OF)))


def decisions(analysis: Analysis) -> list[str]:
    """The last column of the effects in the terminal."""
    return [str(row[-1]) for row in effects_table(analysis, in_colour=False).rows]


def test_markdown_explains_each_of_its_columns(analysis: Analysis) -> None:
    text = document(blocks(analysis))
    [header] = re.findall(r"^\| (arm \| metric .*) \|$", text, flags=re.MULTILINE)
    assert re.findall(r"^- \*\*(.*)\*\*: .*\.$", text, flags=re.MULTILINE) == header.split(" | ")


def test_the_explanations_are_those_of_the_columns_in_the_terminal(analysis: Analysis) -> None:
    headers = effects_table(analysis, in_colour=False).columns
    shown = [name.strip("[]") for header in headers for name in header.split("\n")]
    assert sorted(shown) == sorted(explain_columns(analysis))


def test_a_method_that_was_switched_off_has_no_row() -> None:
    analysis = analyse(users_of(TIME, ARM_OF), settings(always_valid_percent=None, bootstrap_rounds=0))
    assert [row.method for row in analysis.methods["T1"]] == ["mean of users", "the sheet", "ratio of sums"]


def test_the_number_of_tests_leaves_out_metrics_without_a_test(analysis: Analysis) -> None:
    """Latency is 0 and every user has one session and five tracks, therefore two of five metrics have a test."""
    meanings = explain_columns(analysis)
    assert "(Holm): 1 primary, 1 secondary." in meanings["p"]
    assert "no test: all values are equal." in meanings["decision"]


def test_one_line_says_when_the_ratio_of_sums_differs_from_the_mean_of_users() -> None:
    """The treatment helps users with one session and harms those with nine."""
    rng = np.random.default_rng(2)
    arm_of, sessions = np.arange(800) % 2, np.where(np.arange(800) % 4 < 2, 1, 9)
    lift = np.where(sessions == 1, 2.0, 0.7)
    time = sessions * rng.gamma(20, 0.1, 800)
    differs = replace(users_of(time * np.where(arm_of == 1, lift, 1.0), arm_of), sessions=sessions)
    agrees = replace(users_of(time * np.where(arm_of == 1, 1.3, 1.0), arm_of), sessions=sessions)
    words = "is outside the interval of the mean of users. Users with many sessions react differently"
    assert words in "\n".join(doubts(analyse(differs, settings())))
    assert words not in "\n".join(doubts(analyse(agrees, settings())))


def test_a_secondary_metric_that_is_not_tested_has_no_p_value(analysis: Analysis) -> None:
    assert analysis.effect("T1", "mean_time_per_session").decision == "not significant"
    assert re.findall(
        r"^\| T1 \| time .secondary. \|.*\| – \| not tested \|$", document(blocks(analysis)), flags=re.MULTILINE
    )
    assert "not tested" in decisions(analysis)


def test_the_report_has_the_users_first_then_the_verdict_the_effects_and_what_could_be_wrong(
    analysis: Analysis,
) -> None:
    text = document(blocks(analysis))
    titles = re.findall(r"^##? (.*)$", text, flags=re.MULTILINE)
    page = ["A/B test TEST", "Users", "Verdict", "Effects", "What could be wrong"]
    assert titles[: len(page)] == page
    assert titles[-1] == "Provenance"
    assert not re.search(r"\bnan\b", text)
    assert "| C | 50.0% | 50.0% | 200 | 200 | 200 |" in text


def test_the_html_page_has_the_text_and_the_picture_and_needs_no_other_file(analysis: Analysis, tmp_path: Path) -> None:
    odd = replace(analysis, users=replace(analysis.users, experiment="<b>A|B</b>"))
    write_report(odd, tmp_path, {"commit": "abc"})
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    page = (tmp_path / "abtest.html").read_text(encoding="utf-8")
    assert "<b>" not in page, "names are text"
    assert page.count("<table>") == 3
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 1
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<div><table>") == page.count("</table></div>") == 3, "on a phone, a table scrolls by itself"
    assert "color-scheme: light dark" in page


def test_details_name_the_effects_that_are_detected(analysis: Analysis) -> None:
    assert "(power)" in "\n".join(details(analysis))


def test_each_method_is_a_row_of_its_own_and_is_explained(analysis: Analysis) -> None:
    text = document(blocks(analysis))
    names = ["mean of users", "the sheet", "ratio of sums", "CUPED", "bootstrap", "always valid"]
    assert re.findall(r"^\| T1 \| ([a-zA-Z ]+) \| [+-]", text, flags=re.MULTILINE) == names
    assert re.findall(r"^- ([a-zA-Z ]+): .*\.$", text, flags=re.MULTILINE)[: len(names)] == names
    printed = list(zip(*methods_table(analysis, "+.1f").rows, strict=True))
    assert list(printed[1]) == names
    sheet = analysis.effect("T1", "mean_time_per_session")
    assert interval(sheet.lower_percent, sheet.upper_percent, "+.1f") == printed[3][1]


def test_metrics_are_words_and_every_p_value_beside_other_numbers_has_its_name(analysis: Analysis) -> None:
    text = document(blocks(analysis)) + "\n".join(analysis.verdicts.values())
    assert "mean time per session" in text
    assert not [metric for metric in METRICS if "_" in metric and metric in text]
    cells = decisions(analysis)
    assert cells
    for cell in cells:
        assert re.fullmatch(r"[\w ]+(\np (= [\d.]+|< 0\.0001))?", cell), cell
    assert any("\np " in cell for cell in cells)
    assert re.search(r"all users in the log: p = 1; users that are compared: p = 1\)", split_sentence(analysis))


@pytest.mark.parametrize(
    ("length_ms", "shown"),
    [(300_000, "5 min"), (90_000_000, "25 h"), (3 * DAY_MS, "3 days"), (6.5 * DAY_MS, "6.5 days")],
)
def test_the_length_of_a_short_log_is_in_a_unit_that_fits(analysis: Analysis, length_ms: float, shown: str) -> None:
    users = replace(analysis.users, last_ms=analysis.users.first_ms + int(length_ms))
    assert any(f"The log covers {shown}. Less than a week" in line for line in doubts(replace(analysis, users=users)))
