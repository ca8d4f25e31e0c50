"""The report of a comparison: one table for the terminal and for Markdown, its notes, and the picture."""

import io
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from rich.console import Console

from segue.reports.result_table import Table
from segue.verdicts.comparison.analysis import TESTED, Comparison, Run, verdict
from segue.verdicts.comparison.report import draw, sections, sentences
from tests.verdicts.comparison.test_analysis import NDCG, compared, run, simulated_setups


@pytest.fixture(scope="module")
def three() -> Comparison:
    runs = simulated_setups(3, np.random.default_rng(0), 3)
    return compared(runs, metrics=[NDCG, "test/mrr", *(f"test/{name}" for name in TESTED)])


def table(comparison: Comparison, heading: str = "") -> Table:
    found = sections(comparison)[heading]
    assert isinstance(found, Table)
    return found


def shown(comparison: Comparison, width: int) -> str:
    """The table in a terminal of so many columns."""
    wide = Console(file=io.StringIO(), width=width)
    wide.print(table(comparison))
    assert isinstance(wide.file, io.StringIO)
    return wide.file.getvalue()


def test_the_best_mean_is_bold_if_the_metric_has_a_better() -> None:
    runs = [
        run("a|b", 1, val=0.50, more={"test/mse": 0.2, "test/coverage_at_10": 0.9}),
        run("a|b", 2, val=0.52, more={"test/mse": 0.4, "test/coverage_at_10": 0.9}),
        run("c", 1, val=0.40, more={"test/mse": 0.1}),
        run("c", 2, val=0.40),
    ]
    assert table(compared(runs, metrics=["test/mse", "test/coverage_at_10"])).markdown().splitlines() == [
        "| set-up | runs | val/ndcg_at_10 | test/mse | test/coverage_at_10 |",
        "|---|--:|--:|--:|--:|",
        "| a\\|b | 2 | **0.51** ±0.13 | 0.3 ±1.3 | 0.9 ±0 |",
        "| c | 2 | 0.4 ±0 | **0.1** (1 runs) | – |",
    ]


def test_a_narrow_terminal_has_the_tested_difference_and_says_how_many_columns_are_left_out(three: Comparison) -> None:
    wide, narrow = shown(three, 200), shown(three, 80)
    assert "recall_at_50" in wide
    assert "recall_at_50" not in narrow
    assert "more columns are in the report" in narrow
    assert "more columns" not in wide
    for text in (wide, narrow):
        assert "Holm's p" in text
        assert verdict(three)[:40] in text
    differences = table(three, "Differences from the first set-up")
    assert len(differences.rows) == 2 * len(TESTED)


def test_missing_values_are_reported() -> None:
    values = np.random.default_rng(1).random((4, 30))
    runs = [
        run("a", 1, values[0], val=1.0),
        run("a", 2, values[1], val=1.0),
        run("b", 1, values[2], more={"test/mse": 0.1}),
        run("c", 1, values[3]),
        run("c", 2),
    ]
    text = "\n".join(sentences(compared(runs, metrics=[NDCG, "test/mse", "test/mae"])))
    assert "One run only, therefore no variation over seeds: b." in text
    assert "No run has test/mae." in text
    assert "Runs without test queries are left out of the tests: c." in text
    assert "paired by query (30 of 30 sessions)" in text


LONG = "model={} datamodule.reader=botify optimizer.lr=0.001 trainer.max_epochs=100 loss.cost=$x_1$"
FEW, SOME, MANY = (simulated_setups(num, np.random.default_rng(0), seeds) for num, seeds in ((1, 1), (5, 3), (14, 2)))
ODD = [
    [run("a", 1, more=more), run("a", 2, more=more), run("b", 1, val=0.1)]
    for more in ({"fit_seconds": 1e9, "test/mse": 0.0}, {"test/mse": float("inf"), "fit_seconds": 1.0})
]


@pytest.mark.parametrize("runs", [FEW, SOME, [replace(one, setup=LONG.format(one.setup)) for one in MANY], *ODD])
def test_the_picture_is_drawn_of_few_of_many_and_of_odd_values(runs: list[Run], tmp_path: Path) -> None:
    draw(compared(runs, metrics=["fit_seconds", "test/mse", *(f"test/{name}" for name in TESTED)]), tmp_path / "a.png")
    assert mpl.image.imread(tmp_path / "a.png").std() > 0.01
