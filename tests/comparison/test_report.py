"""The report of a comparison: what its files say, and that the picture can always be drawn."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from src.comparison.analysis import TESTED, Comparison, Run
from src.comparison.picture import draw
from src.comparison.report import markdown, sentences, write_report
from src.terminal import tables
from tests.comparison.test_analysis import NDCG, compared, made_up_setups, run

PROVENANCE = {"command": "compare.py", "commit": "abc"}


def with_curves(one: Run, rng: np.random.Generator, alpha: float | None = None) -> Run:
    epochs = range(int(rng.integers(3, 9)))
    loss = [(epoch, float(2 / (1 + epoch) + rng.random() / 10)) for epoch in epochs]
    history = {"train/loss": loss, "val/loss": loss, "val/ndcg_at_10": loss}
    return replace(one, history=history, alpha=alpha)


def setups_with_curves(num: int, num_seeds: int, names: str = "{}") -> list[Run]:
    rng = np.random.default_rng(0)
    runs = [with_curves(one, rng, int(one.setup[1:]) / max(num - 1, 1)) for one in made_up_setups(num, rng, num_seeds)]
    return [replace(one, setup=names.format(one.setup)) for one in runs]


@pytest.fixture(scope="module")
def three() -> Comparison:
    return compared(setups_with_curves(3, 3), metrics=[NDCG, "test/mrr", "test/coverage_at_10"])


def test_the_four_files_are_left_whole(three: Comparison, tmp_path: Path) -> None:
    write_report(three, tmp_path / "new", PROVENANCE)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"comparison.csv", "comparison.json", "comparison.md", "comparison.png"}
    record = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert record["verdict"] == three.verdict
    assert record["provenance"] == PROVENANCE
    assert (tmp_path / "new" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_runs_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    runs = setups_with_curves(3, 2)
    for folder, own in (("a", runs), ("b", runs[::-1])):
        write_report(compared(own), tmp_path / folder, PROVENANCE)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_csv_has_a_line_for_each_setup_and_metric(three: Comparison, tmp_path: Path) -> None:
    write_report(three, tmp_path, PROVENANCE)
    lines = iter(pd.read_csv(tmp_path / "comparison.csv").to_dict("records"))
    for setup in three.setups:
        for metric in three.metrics:
            line, one, mean = next(lines), three.difference(setup.name, metric), setup.means[metric]
            assert (line["setup"], line["metric"]) == (setup.name, metric)
            assert [line[name] for name in ("num_runs", "mean", "lower", "upper")] == list(asdict(mean).values())
            told = [line[name] for name in COLUMNS]
            if one is None:
                assert np.isnan(told).all()
            else:
                assert told == [one.difference, one.lower, one.upper, one.p_value, one.holm_p_value]
                assert one.difference == pytest.approx(mean.mean - three.best.means[metric].mean)
    assert next(lines, None) is None


COLUMNS = ("difference_to_best", "difference_lower", "difference_upper", "p_value", "holm_p_value")


def test_letters_of_all_alphabets_survive(tmp_path: Path) -> None:
    write_report(compared([run("convex α=0.9", values=[0.1, 0.2]), run("b", values=[0.2, 0.4])]), tmp_path, PROVENANCE)
    assert "convex α=0.9" in (tmp_path / "comparison.csv").read_bytes().decode("utf-8")
    assert "convex α=0.9" in (tmp_path / "comparison.md").read_bytes().decode("utf-8")
    assert "convex α=0.9" in (tmp_path / "comparison.json").read_bytes().decode("utf-8")


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_the_best_mean_is_bold_where_there_is_a_better() -> None:
    runs = [
        run("a", 1, val=0.50, more={"test/mse": 0.2, "test/coverage_at_10": 0.9}),
        run("a", 2, val=0.52, more={"test/mse": 0.4, "test/coverage_at_10": 0.9}),
        run("b", 1, val=0.40, more={"test/mse": 0.1}),
    ]
    found = compared(runs, metrics=["test/mse", "test/coverage_at_10"])
    assert table(markdown(found, PROVENANCE)) == [
        ["set-up", "runs", "val/ndcg_at_10", "test/mse", "test/coverage_at_10"],
        ["---|--:|--:|--:|--:"],
        ["a", "2", "**0.51** ± 0.13", "0.3 ± 1.3", "0.9"],
        ["b", "1", "0.4", "**0.1**", "–"],
    ]


def test_the_markdown_ends_with_where_it_came_from(three: Comparison) -> None:
    text = markdown(three, PROVENANCE)
    assert text.startswith(f"# Comparison\n\n**{three.verdict}.**\n")
    assert text.endswith("- command: compare.py\n- commit: abc\n")
    assert all(f"- {sentence}\n" in text for sentence in sentences(three))


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    text = markdown(compared([run("a|b", values=[0.1, 0.2]), run("c", values=[0.2, 0.4])]), PROVENANCE)
    assert "| a\\|b | 1 |" in text


def said(runs: Sequence[Run], **changes: Any) -> str:
    return "\n".join(sentences(compared(runs, **changes)))


def test_what_is_not_known_is_told() -> None:
    values = np.random.default_rng(1).random((4, 30))
    runs = [
        run("a", 1, values[0], val=1.0),
        run("a", 1, values[1], val=1.0),
        run("b", 1, values[2], more={"test/mse": 0.1}),
        run("c", 1, values[3]),
        run("c", 2),
    ]
    text = said(runs, metrics=[NDCG, "test/mse", "test/mae"])
    assert "With one run there is no interval, and what its seed did is not known: b." in text
    assert "The same seed more than once in a (seed 1): all count" in text
    assert "test/mse is over the runs that have it: a 0 of 2, b 1 of 1, c 0 of 2." not in text
    assert "test/mse is over the runs that have it: a 0 of 2, c 0 of 2." in text
    assert "No run has test/mae." in text
    assert "Runs without test queries are left out of the tests: c 1 of 2." in text
    assert "The luck of a single seed is not in the tests of b, c: more seeds may well disagree." in text
    assert "paired on 30 test queries of 30 sessions" in text


def shown(comparison: Comparison, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The table in a terminal of so many columns."""
    wide = Console(file=io.StringIO(), width=width)
    monkeypatch.setattr(tables, "console", wide)
    wide.print(tables.comparison_table(comparison.record(), title=""))
    assert isinstance(wide.file, io.StringIO)
    return wide.file.getvalue()


def test_the_terminal_explains_plus_minus_where_it_is_shown_and_nowhere_else(
    three: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, narrow = (shown(three, width, monkeypatch) for width in (200, 60))
    assert wide.count("±") > 1
    assert "±: half of the 95 % interval of the mean over runs" in wide
    assert "±" not in narrow
    assert "±" not in shown(compared([run("a", val=1.0), run("b")]), 200, monkeypatch)
    assert "±" not in "".join(sentences(three))  # which compare.py prints below the table


def test_the_report_explains_plus_minus_where_it_has_one(three: Comparison) -> None:
    assert "±: half of Student's 95 % interval" in markdown(three, PROVENANCE)
    assert "±" not in markdown(compared([run("a", val=1.0), run("b")]), PROVENANCE)


def test_what_nobody_wonders_about_is_not_told(three: Comparison) -> None:
    text = "\n".join(sentences(three))
    for word in ("one run", "same seed", "left out", "single seed", "ab/", "one session", "Nothing was tested"):
        assert word not in text


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([run("a", val=1.0), run("b")], "Nothing was tested: that takes one of test/recall_at_1, "),
        (
            [run("a", val=1.0, more={NDCG: 0.1}), run("b", values=[0.1, 0.2])],
            "Nothing was tested: that takes the test queries of a and of another set-up.",
        ),
        (
            [run("a", values=[0.2, 0.1], session=[0, 0]), run("b", values=[0.1, 0.2], session=[0, 0])],
            "All test queries are of one session",
        ),
        ([run("a", values=[1.0, 1.0]), run("b", values=[0.0, 0.0])], "the difference is the same in every session"),
        ([run("a", more={"ab/time_effect_percent": 1.0}), run("b")], "ab/ is each run's own A/B test"),
    ],
)
def test_why_something_is_missing_is_told(runs: list[Run], sentence: str) -> None:
    assert sentence in said(runs)


LONG = "model={} datamodule.reader=botify optimizer.lr=0.001 trainer.max_epochs=100 loss.cost=$x_1$"


@pytest.mark.parametrize(
    ("num", "num_seeds", "names"), [(1, 1, "{}"), (2, 2, "{}"), (5, 3, "{}"), (30, 2, LONG), (13, 1, LONG)]
)
def test_the_picture_shows_every_setup_and_metric(
    num: int, num_seeds: int, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compared(setups_with_curves(num, num_seeds, names), metrics=[f"test/{name}" for name in TESTED])
    figure = drawn(found, tmp_path, monkeypatch)
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert [title.split(" ")[0] for title in titles[: len(found.metrics)]] == list(found.metrics)
    assert titles[0] == "val/ndcg_at_10 → (chooses)"
    below = ["train/loss (dashed), val/loss (solid)", "val/ndcg_at_10"]
    assert titles[len(found.metrics) :] == [NDCG] * (num >= 3) + below
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len({label.split()[0] for label in labels}) == num
    width, height = figure.get_size_inches()
    assert width == 14
    assert height < 25


def drawn(found: Comparison, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """What was drawn, and saved as a picture of some size."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        figures.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw(found, folder / "drawn.png")
    assert mpl.image.imread(folder / "drawn.png").std() > 0.01
    return figures[0]


def test_a_setup_has_one_colour_everywhere(three: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(three, tmp_path, monkeypatch)
    dots = [[line.get_color() for line in axis.lines if line.get_marker() == "o"] for axis in figure.axes if axis.lines]
    assert dots[0] == dots[1] == [label.get_color() for label in figure.axes[0].get_yticklabels()]
    assert len(set(dots[0])) == 3
    curves = {str(line.get_color()) for line in figure.axes[-1].lines}
    assert {float(np.asarray(line.get_xdata())[0]) for line in figure.axes[-1].lines} == {1.0}  # epochs count from 1
    assert curves == set(dots[0])


def test_where_there_is_little_the_picture_is_drawn_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_an_interval_that_would_crush_the_means_is_cut_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run(name, seed, val=value + seed) for name, value in (("a", 0.0), ("b", 3.0)) for seed in (1, 2)]
    axis = drawn(compared(runs), tmp_path, monkeypatch).axes[0]
    markers = [line.get_marker() for line in axis.lines]
    assert markers.count("<") == markers.count(">") == 1  # of the interval that reaches farther there
    low, high = axis.get_xlim()
    assert high - low < 3.5 * (5 - 1)
