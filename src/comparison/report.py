"""The report of a comparison: `comparison.csv`, `comparison.md`, `comparison.json`, and the picture."""

from collections.abc import Mapping
from math import floor, log10
from pathlib import Path

import numpy as np
import pandas as pd

from src.comparison.analysis import TESTED, Comparison, Difference, Setup
from src.comparison.picture import draw
from src.comparison.verdict import listed
from src.runs.atomic import write_record, write_whole
from src.statistics.intervals import MeanInterval
from src.terminal.markdown import escape, provenance_lines, table
from src.terminal.numbers import interval, number

_HOW = {"max": "highest", "min": "lowest"}


def write_report(comparison: Comparison, folder: Path, provenance: Mapping[str, str]) -> None:
    """Leave the four files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(comparison, provenance)
    write_whole(folder / "comparison.png", lambda path: draw(comparison, path))
    write_whole(folder / "comparison.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_whole(
        folder / "comparison.csv", lambda path: long_table(comparison).to_csv(path, index=False, lineterminator="\n")
    )
    write_record({**comparison.record(), "provenance": dict(provenance)}, folder / "comparison.json")


def long_table(comparison: Comparison) -> pd.DataFrame:
    """A line a set-up and metric, the best first. Differences are of the set-up less the best, where it was tested."""
    lines = []
    for setup in comparison.setups:
        for metric, mean in setup.means.items():
            one = comparison.difference(setup.name, metric)
            lines.append(
                {
                    "setup": setup.name,
                    "metric": metric,
                    "num_runs": mean.num,
                    "mean": mean.mean,
                    "lower": mean.lower,
                    "upper": mean.upper,
                    "difference_to_best": np.nan if one is None else one.difference,
                    "difference_lower": np.nan if one is None else one.lower,
                    "difference_upper": np.nan if one is None else one.upper,
                    "p_value": np.nan if one is None else one.p_value,
                    "holm_p_value": np.nan if one is None else one.holm_p_value,
                }
            )
    return pd.DataFrame(lines)


def markdown(comparison: Comparison, provenance: Mapping[str, str]) -> str:
    """The verdict, set-ups × metrics, differences from the best, what every number is, and where it came from."""
    metrics = comparison.metrics
    lines = ["# Comparison", "", f"**{escape(comparison.verdict)}.**", ""]
    rows = [
        [escape(setup.name), str(len(setup.runs)), *(_mean(comparison, setup, metric) for metric in metrics)]
        for setup in comparison.setups
    ]
    lines += table(["set-up", "runs", *metrics], rows, "lr" + "r" * len(metrics))
    if comparison.differences:
        head = ["set-up", "metric", "difference", "interval", "p", "Holm p"]
        by_setup = [one for setup in comparison.setups for one in comparison.differences if one.setup == setup.name]
        lines += ["", f"Differences from {escape(comparison.best.name)}:", ""]
        lines += table(head, (_row(comparison, one) for one in by_setup), "llrrrr")
    said = sentences(comparison)
    if any(mean.upper > mean.mean for setup in comparison.setups for mean in setup.means.values()):
        level = f"{100 * comparison.level:g} %"
        said.insert(1, f"±: half of Student's {level} interval of the mean over runs, so over seeds.")
    lines += ["", "![comparison](comparison.png)", "", *(f"- {escape(sentence)}" for sentence in said)]
    lines += ["", *provenance_lines(provenance)]
    return "\n".join(lines) + "\n"


def _mean(comparison: Comparison, setup: Setup, metric: str) -> str:
    mean = setup.means[metric]
    bold = "**" if comparison.leads(setup, metric) else ""
    few = f" ({mean.num} of {len(setup.runs)} runs)" if 0 < mean.num < len(setup.runs) else ""
    value, _, reach = _with_reach(mean).partition(" ")
    return f"{bold}{value}{bold} {reach}{few}".rstrip()


def _with_reach(mean: MeanInterval) -> str:
    """`0.237 ± 0.039`: to the second digit of what is uncertain."""
    reach = mean.upper - mean.mean
    if not reach > 0:  # one run, or runs that agree
        return number(mean.mean, ",.0f" if abs(mean.mean) >= 10_000 else ".4g")
    decimals = max(0, 1 - floor(log10(reach)))
    return f"{mean.mean:,.{decimals}f} ± {reach:,.{decimals}f}"


def _row(comparison: Comparison, one: Difference) -> list[str]:
    bold = "**" if comparison.is_sure(one) else ""
    return [
        escape(one.setup),
        one.metric,
        f"{bold}{one.difference:+.3g}{bold}",
        interval(one.lower, one.upper, "+.3g"),
        number(one.p_value, ".2g"),
        number(one.holm_p_value, ".2g"),
    ]


def sentences(comparison: Comparison) -> list[str]:
    """What each number is, a sentence each; and what was left out or is not known."""
    setups = comparison.setups
    num_runs = sum(len(setup.runs) for setup in setups)
    said = [
        f"Set-ups: {len(setups)}, runs: {num_runs}. They stand in the order of their mean {comparison.select}, the "
        f"{_HOW[comparison.mode]} first; test metrics choose nothing."
    ]
    if len(setups) > 1:
        said.append("Bold: the best mean of a metric that has a better and a worse.")
    said += _of_runs(comparison)
    if comparison.differences:
        said += _of_tests(comparison)
    elif comparison.primary is None:
        said.append(f"Nothing was tested: that takes one of {', '.join(f'test/{name}' for name in TESTED)}.")
    elif len(setups) > 1:
        said.append(f"Nothing was tested: that takes the test queries of {comparison.best.name} and of another set-up.")
    return said


def _of_runs(comparison: Comparison) -> list[str]:
    setups, said = comparison.setups, []
    single = [setup.name for setup in setups if len(setup.runs) == 1]
    if single:
        said.append(f"With one run there is no interval, and what its seed did is not known: {listed(single)}.")
    repeated = [
        f"{setup.name} (seed {', '.join(map(str, setup.repeated_seeds))})" for setup in setups if setup.repeated_seeds
    ]
    if repeated:
        said.append(
            f"The same seed more than once in {listed(repeated)}: all count, and if they are the same run again, "
            "intervals are too narrow."
        )
    for metric in comparison.metrics:
        few = [
            f"{setup.name} {setup.means[metric].num} of {len(setup.runs)}"
            for setup in setups
            if setup.means[metric].num < len(setup.runs) and not metric.startswith("ab/")
        ]
        if few:
            said.append(f"{metric} is over the runs that have it: {listed(few)}.")
    if comparison.missing:
        said.append(f"No run has {', '.join(comparison.missing)}.")
    if any(metric.startswith("ab/") for metric in comparison.metrics):
        said.append("ab/ is each run's own A/B test, against the control of that test; controls may differ.")
    unknown = [
        f"{setup.name} {len(setup.runs) - len(setup.queried)} of {len(setup.runs)}"
        for setup in setups
        if len(setup.queried) < len(setup.runs)
    ]
    if unknown:
        said.append(f"Runs without test queries are left out of the tests: {listed(unknown)}.")
    return said


def _of_tests(comparison: Comparison) -> list[str]:
    tested = {comparison.best.name, *(one.setup for one in comparison.differences)}
    said = [
        f"Differences are of a set-up less {comparison.best.name}, paired on {comparison.num_queries:,} test queries "
        f"of {comparison.num_sessions:,} sessions. Their {100 * comparison.level:g} % interval and p allow for the "
        "luck of which sessions were in the test and, where a set-up has two runs or more, of which seeds were drawn.",
        f"Holm's p keeps false alarms of a metric together at {1 - comparison.level:.2g}, over all pairs of set-ups, "
        "whichever of them validation named the best.",
    ]
    single = [setup.name for setup in comparison.setups if setup.name in tested and len(setup.queried) == 1]
    if single:
        said.append(f"The luck of a single seed is not in the tests of {listed(single)}: more seeds may well disagree.")
    if comparison.num_sessions == 1:
        said.append("All test queries are of one session, so nothing can be said of others.")
    elif any(np.isnan(one.p_value) for one in comparison.differences):
        said.append("Where p is –, the difference is the same in every session: how it varies cannot be told.")
    return said
