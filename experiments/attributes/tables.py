"""The tables and the picture of `study.py`, from its pieces."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.studying import Study, read_rows
from segue.reports.axes import tidy
from segue.reports.palette import OTHERS
from segue.reports.palette import SETUPS as COLOURS
from segue.statistics.holm import holm
from segue.statistics.paired import PairedDifference, QueryScores, paired_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = ("part", "setup", "hidden", "seed")
METRICS = ("recall_at_10", "recall_at_100", "ndcg_at_10", "ndcg_at_100")
SHOWN = (
    ("warm_recall_at_10", "warm_ndcg_at_10"),
    ("cold_previous_recall_at_10", "cold_previous_recall_at_100"),
    ("cold_next_recall_at_10", "cold_next_recall_at_100"),
    ("cold_among_recall_at_10", "cold_among_recall_at_100"),
)
"""Metrics of the tables."""
TITLES = (
    "warm: recall@10", "ndcg@10", "last new: recall@10", "@100", "next new: recall@10", "@100",
    "among new: recall@10", "@100",
)  # fmt: skip
TARGETS = ("cold_previous_recall_at_10", "cold_next_recall_at_100", "cold_among_recall_at_10")
"""Metrics in which a set-up should be better than every rival."""
BASE = "track, artist, temperature 0.2"
"""The head without attributes that others are compared with on test queries."""
DRAWN = (
    BASE, "tags, dropout 0.2", "tags, prior, temperature 0.2",
    "tags, prior instead, dropout 0.1, temperature 0.2",
)  # fmt: skip
"""Set-ups of the picture, beside the rivals."""
LEVEL = 0.95


def known(pieces: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """The lines of the file by part, set-up, hidden songs and seed."""
    return {tuple(line[name] for name in KEY): line for line in read_rows(pieces)}


def name_of(setup: str) -> str:
    """Name of the files of a set-up."""
    return re.sub(r"[^a-z0-9.]+", "-", setup)


def write(study: Study, pieces: Path, ranks: Path, rivals: Sequence[str]) -> None:
    """Write `results.md`, `results.png` and `provenance.json`.

    Args:
        study: whose files they are.
        pieces: the file with a line for each training.
        ranks: folder with the values of the test queries.
        rivals: names of the lines that are no set-ups of a head.
    """
    names = [name for pair in SHOWN for name in pair]
    parts = {part: _means(known(pieces), part, names) for part in ("val", "test")}
    lines = []
    for part, title in (("val", "Validation, which chooses"), ("test", "Test, read once")):
        if parts[part]:
            lines += [f"## {title}", "", *_table(("set-up", "trainings", *TITLES), _rows(parts[part])), ""]
    tested = [setup for setup in parts["test"] if setup not in (BASE, *rivals)]
    head = ("metric", "difference", "lower", "upper", "p (Holm)")
    for title, others, of_metrics in ((BASE, [BASE], names), ("rivals", rivals, TARGETS)):
        if differences := _differences(ranks, tested, others, of_metrics):
            lines += [f"## Test: difference to {title}", "", *_table(head, differences), ""]
    study.write_table("results.md", lines)
    study.write_provenance()
    if parts["val"]:
        study.write_figure("results.png", _draw(parts["val"], rivals))


def _means(
    lines: Mapping[tuple[str, ...], Mapping[str, str]], part: str, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metrics of each choice of hidden songs and each seed, by set-up."""
    found: dict[str, list[list[float]]] = {}
    for (of_part, setup, *_), line in lines.items():
        if of_part == part:
            found.setdefault(setup, []).append([float(line[name]) for name in names])
    return {setup: np.array(rows) for setup, rows in found.items()}


def _rows(means: Mapping[str, np.ndarray]) -> list[list[str]]:
    return [[setup, str(len(rows)), *(f"{value:.4f}" for value in rows.mean(0))] for setup, rows in means.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _differences(ranks: Path, setups: Sequence[str], others: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """Set-ups less others, paired by query; one family of tests."""
    tests: list[tuple[str, PairedDifference]] = []
    for setup in setups:
        for other in others:
            for name in names:
                ours, theirs = (_scores(ranks, one, name) for one in (setup, other))
                if ours is not None and theirs is not None:
                    title = f"{setup}: {name}" if len(others) == 1 else f"{setup} less {other}: {name}"
                    tests.append((title, paired_difference(ours, theirs, LEVEL)))
    p_values = holm([test.p_value for _, test in tests]) if tests else []
    return [
        [name, f"{test.difference:+.4f}", f"{test.lower:+.4f}", f"{test.upper:+.4f}", f"{p:.2g}"]
        for (name, test), p in zip(tests, p_values, strict=True)
    ]


def _scores(ranks: Path, setup: str, name: str) -> QueryScores | None:
    values, sessions = [], None
    for path in sorted(ranks.glob(f"{name_of(setup)}_*.npz")):
        with np.load(path) as file:
            chosen = np.isfinite(file[name])
            values.append(file[name][chosen].astype(np.float64))
            _, sessions = np.unique(file["session"][chosen], return_inverse=True)
    return None if sessions is None else QueryScores.of(np.array(values), sessions)


def _draw(means: Mapping[str, np.ndarray], rivals: Sequence[str]) -> "Figure":
    """What each set-up gains for new tracks, over what it costs for known ones; rivals in grey."""
    from matplotlib.figure import Figure

    names = [name for pair in SHOWN for name in pair]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    warm = names.index("warm_recall_at_10")
    shown = ("cold_previous_recall_at_10", "cold_next_recall_at_100", "cold_among_recall_at_10")
    titles = ("last track new: recall@10", "next track new: recall@100", "next track new, among new: recall@10")
    for axis, name, title in zip(axes, shown, titles, strict=True):
        colours, markers = iter(COLOURS), iter("xs^vD")
        for setup, rows in means.items():
            if setup not in (*DRAWN, *rivals):
                continue
            mean = rows.mean(0)
            marker, colour = (next(markers), OTHERS) if setup in rivals else ("o", next(colours, OTHERS))
            axis.plot(mean[warm], mean[names.index(name)], marker, color=colour, label=setup)
        axis.set_title(title, fontsize=10, loc="left")
        tidy(axis, grid="both", xlabel="both tracks known: recall@10")
    axes[0].set_ylabel("validation", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
