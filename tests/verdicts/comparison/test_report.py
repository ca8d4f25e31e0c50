"""The report of a comparison: the contents of its files, and that the picture can always be drawn."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from segue.reports.markdown import document
from segue.verdicts.comparison.analysis import TESTED, Comparison, Run, verdict
from segue.verdicts.comparison.picture import draw
from segue.verdicts.comparison.report import (
    blocks,
    comparison_table,
    listener_test,
    sentences,
    write_report,
)
from tests.verdicts.comparison.test_analysis import NDCG, compared, run, simulated_setups

PROVENANCE = {"command": "compare.py", "commit": "abc"}


def with_curves(one: Run, rng: np.random.Generator, alpha: float) -> Run:
    epochs = range(int(rng.integers(3, 9)))
    loss = [(epoch, float(2 / (1 + epoch) + rng.random() / 10)) for epoch in epochs]
    history = {"train/loss": loss, "val/loss": loss, "val/ndcg_at_10": loss}
    return replace(one, history=history, metrics={**one.metrics, "alpha": alpha})


def setups_with_curves(num: int, num_seeds: int, names: str = "{}") -> list[Run]:
    rng = np.random.default_rng(0)
    runs = [
        with_curves(one, rng, int(one.setup[1:]) / max(num - 1, 1)) for one in simulated_setups(num, rng, num_seeds)
    ]
    return [replace(one, setup=names.format(one.setup)) for one in runs]


@pytest.fixture(scope="module")
def three() -> Comparison:
    return compared(setups_with_curves(3, 3), metrics=[NDCG, "test/mrr", "test/coverage_at_10"])


def test_the_files_are_written(three: Comparison, tmp_path: Path) -> None:
    write_report(three, tmp_path / "new", PROVENANCE)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"comparison.json", "comparison.md", "comparison.png"}
    record = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert record["verdict"] == verdict(three)
    assert record["provenance"] == PROVENANCE
    text = (tmp_path / "new" / "comparison.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Comparison\n\n**{verdict(three)}.**\n")
    assert text.endswith("- command: compare.py\n- commit: abc\n")
    assert (tmp_path / "new" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_the_best_mean_is_bold_if_the_metric_has_a_better() -> None:
    runs = [
        run("a", 1, val=0.50, more={"test/mse": 0.2, "test/coverage_at_10": 0.9}),
        run("a", 2, val=0.52, more={"test/mse": 0.4, "test/coverage_at_10": 0.9}),
        run("b", 1, val=0.40, more={"test/mse": 0.1}),
    ]
    comparison = compared(runs, metrics=["test/mse", "test/coverage_at_10"])
    assert table(document(blocks(comparison))) == [
        ["set-up", "runs", "val/ndcg_at_10", "test/mse", "test/coverage_at_10"],
        ["---|--:|--:|--:|--:"],
        ["a", "2", "**0.51** ±0.13", "0.3 ±1.3", "0.9 ±0"],
        ["b", "1", "0.4", "**0.1**", "–"],
    ]


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    text = document(blocks(compared([run("a|b", values=[0.1, 0.2]), run("c", values=[0.2, 0.4])])))
    assert "| a\\|b | 1 |" in text


def notes_of(runs: Sequence[Run], **changes: Any) -> str:
    return "\n".join(sentences(compared(runs, **changes)))


def test_missing_values_are_reported() -> None:
    values = np.random.default_rng(1).random((4, 30))
    runs = [
        run("a", 1, values[0], val=1.0),
        run("a", 1, values[1], val=1.0),
        run("b", 1, values[2], more={"test/mse": 0.1}),
        run("c", 1, values[3]),
        run("c", 2),
    ]
    text = notes_of(runs, metrics=[NDCG, "test/mse", "test/mae"])
    assert "One run only, therefore no interval over seeds: b." in text
    assert "The same seed occurs more than once in a (seed 1). All these runs count" in text
    assert "test/mse is the mean over the runs that have it: a 0 of 2, b 1 of 1, c 0 of 2." not in text
    assert "test/mse is the mean over the runs that have it: a 0 of 2, c 0 of 2." in text
    assert "No run has test/mae." in text
    assert "Runs without test queries are left out of the tests: c 1 of 2." in text
    assert "The tests of b, c do not include variation across seeds (one run)" in text
    assert "paired by query: 30 test queries of 30 sessions" in text


def shown(comparison: Comparison, width: int) -> str:
    """The table in a terminal of so many columns."""
    wide = Console(file=io.StringIO(), width=width)
    wide.print(comparison_table(comparison, "", width))
    assert isinstance(wide.file, io.StringIO)
    return wide.file.getvalue()


def test_the_terminal_explains_plus_minus_where_it_is_shown_and_nowhere_else(three: Comparison) -> None:
    wide, narrow = (shown(three, width) for width in (200, 60))
    assert wide.count("±") > 1
    assert "±: half of the 95 % interval of the mean over runs" in wide
    assert "±" not in narrow
    assert "±" not in shown(compared([run("a", val=1.0), run("b")]), 200)
    assert "±" not in "".join(sentences(three))  # which compare.py prints below the table


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([run("a", val=1.0), run("b")], "No difference was tested: a test needs one of the metrics test/recall_at_1, "),
        (
            [run("a", val=1.0, more={NDCG: 0.1}), run("b", values=[0.1, 0.2])],
            "No difference was tested: a test needs the test queries of a and of another set-up.",
        ),
        (
            [run("a", values=[0.2, 0.1], session=[0, 0]), run("b", values=[0.1, 0.2], session=[0, 0])],
            "All test queries are of one session",
        ),
        ([run("a", values=[1.0, 1.0]), run("b", values=[0.0, 0.0])], "the difference is the same in every session"),
    ],
)
def test_the_reason_of_a_missing_value_is_reported(runs: list[Run], sentence: str) -> None:
    assert sentence in notes_of(runs)


LONG = "model={} datamodule.reader=botify optimizer.lr=0.001 trainer.max_epochs=100 loss.cost=$x_1$"


@pytest.mark.parametrize(("num", "num_seeds", "names"), [(1, 1, "{}"), (5, 3, "{}"), (12, 2, LONG)])
def test_the_picture_shows_every_setup_and_metric(
    num: int, num_seeds: int, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compared(setups_with_curves(num, num_seeds, names), metrics=[f"test/{name}" for name in TESTED])
    figure = drawn(comparison, tmp_path, monkeypatch)
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert [title.split(" ")[0] for title in titles[: len(comparison.metrics)]] == list(comparison.metrics)
    assert titles[0] == "val/ndcg_at_10 → (chooses)"
    below = ["train/loss (dashed), val/loss (solid)", "val/ndcg_at_10"]
    assert titles[len(comparison.metrics) :] == [NDCG] * (num >= 3) + below
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len({label.split()[0] for label in labels}) == num
    width, height = figure.get_size_inches()
    assert width == 14
    assert height < 25


def drawn(comparison: Comparison, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """What was drawn, and saved as a picture of some size."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        figures.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw(comparison, folder / "drawn.png")
    assert mpl.image.imread(folder / "drawn.png").std() > 0.01
    return figures[0]


def test_learning_curves_count_epochs_from_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = {"train/loss": [(0, 3.0), (1, 2.0), (2, 1.5)]}
    figure = drawn(compared([replace(run("a", seed), history=history) for seed in (1, 2)]), tmp_path, monkeypatch)
    [curve] = figure.axes[-1].lines
    assert np.asarray(curve.get_xdata()).tolist() == [1, 2, 3]
    assert np.asarray(curve.get_ydata()).tolist() == [3.0, 2.0, 1.5]


def of_world(runs: Sequence[Run], *words: str) -> list[Run]:
    return [replace(one, world=words) for one in runs]


def test_after_simulated_logs_the_report_names_the_ab_test_of_the_two_best_set_ups() -> None:
    runs = [run("third", val=0.1), run("best", 1, val=0.3), run("best", 2, val=0.5), run("second", val=0.2)]
    command = "python abtest.py control=run:second-1 treatment=run:best-2"
    why = "Offline ranking does not decide which set-up listeners prefer; an A/B test of the two best set-ups does"
    assert listener_test(compared(of_world(runs))) == (why, command)
    assert f"- {why}: `{command}`\n" in document(blocks(compared(of_world(runs))))
    assert listener_test(compared(of_world(runs, "world=published"))) == (why, f"{command} world=published")


def test_without_two_set_ups_of_one_world_no_ab_test_is_named() -> None:
    logged, simulated = [run("a", val=0.2), run("b")], of_world([run("c", val=0.3)])
    for runs in (logged, simulated, [*logged, *simulated], [*of_world([run("a")], "world=published"), *simulated]):
        assert listener_test(compared(runs)) is None
        assert "A/B test of the two best" not in document(blocks(compared(runs)))


def test_the_picture_is_drawn_from_little_or_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No curves, metrics that are missing, equal values, huge ones, curves that diverged or have a single point."""
    runs = [
        run("a", 1, more={"fit_seconds": 1e9, "test/mse": 0.0}),
        run("a", 2, more={"fit_seconds": 1e9, "test/mse": 0.0}),
        run("b", 1, val=0.1),
    ]
    figure = drawn(compared(runs, metrics=["fit_seconds", "test/mse"]), tmp_path, monkeypatch)
    assert len(figure.axes) == 3
    diverged = {"val/loss": [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 1e12)], "train/loss": [(0, 2.0)]}
    figure = drawn(compared([replace(run("a"), history=diverged)]), tmp_path, monkeypatch)
    assert figure.axes[-1].get_yscale() == "log"
