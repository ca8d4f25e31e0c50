"""How long until a model ranks well: python experiments/throughput/quality.py --rectools <python>

Source: training sessions and validation queries of `train.py datamodule=yes|polimi|simulated`.
Cost: about 25 minutes on two idle cores; at most two minutes of training for each contender and data set.
Expected: one row for each data set and contender. Rules, which only count, and ALS, which is nearly done after one
iteration, are faster than Segue at equal ndcg@10.

Each contender is trained in its own process, on the same sessions, with all cores. It is judged by the same code:
ndcg@10 of the track that followed among all tracks, on the sample of validation queries that `train.py` uses. A query
is one track. Segue has its default settings, SASRec those in `quality_sasrec.py`, and the others those that
`experiments/rivals` chose by validation. Training time starts with the sessions in memory, and does not include imports
and evaluations. What was measured at a commit is kept in `outputs/throughput/`: a stopped study continues. Writes
quality.json, quality.md and quality.png into the folder of this file.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALL_WORLD, Study, available, composed, data_of, sized, skip
from experiments.throughput import quality_contenders as train
from experiments.throughput.quality_contenders import Point, Trial
from segue.reports.axes import tidy
from segue.reports.markdown import table as markdown_table
from segue.reports.palette import ARMS
from segue.terminal.console import console
from segue.terminal.entry import SPINS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = Study(__file__, __doc__)
CHOSEN = Path(__file__).with_name("quality_settings.csv")
RESULTS = STUDY.work / "quality.jsonl"
OURS, SASREC = "Segue", "SASRec"
SHARE = 0.95
"""A contender is timed until it reaches this share of its best value."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What is trained.

    Args:
        model: choice of `model=`; None if `train.py` has no such model.
        train: trains it.
        library: package whose version is kept; None for Segue itself.
    """

    model: str | None
    train: Callable[[Trial], None]
    library: str | None = None


DATA = {
    "yes": ["datamodule=yes", "context=last"],
    "polimi": ["datamodule=polimi", "context=last"],
    "world": ["datamodule=simulated", *sized((), (*SMALL_WORLD, "datamodule.prepare.sessions=500"))],
}
"""Words for `train.py` by name of the data."""
CONTENDERS = {
    OURS: Contender(model="convex", train=train.ours),
    "item2vec": Contender(model="item2vec", train=train.item2vec, library="gensim"),
    "ALS": Contender(model="als", train=train.als, library="implicit"),
    "BPR": Contender(model="bpr", train=train.bpr, library="implicit"),
    "rules": Contender(model="rules", train=train.counting),
}
"""Those that need no Python of their own."""


def sasrec(python: str) -> Contender:
    """SASRec in the Python that has RecTools."""
    return Contender(model=None, train=partial(train.sasrec, python=python))


def words_of(data: str, name: str, contender: Contender) -> list[str]:
    """What `train.py` would be called with. Rivals have the settings that the study of rivals chose by validation."""
    if contender.model is None:
        return DATA[data]
    words = [*DATA[data], f"model={contender.model}"]
    if name == OURS:
        return [*words, "counted=none"]
    with CHOSEN.open(encoding="utf-8") as file:
        [settings] = [row["settings"] for row in csv.DictReader(file) if (row["data"], row["model"]) == (data, name)]
    return words + [f"model.{setting}" for setting in settings.split()]


def curve_of(words: Sequence[str], contender: Contender) -> list[Point]:
    """Train a contender. It has a process to itself.

    Args:
        words: for `train.py`.
        contender: what is trained.

    Returns:
        Seconds of training and ndcg@10, in the order of time.
    """

    from segue.terminal.quiet import silence_libraries

    silence_libraries()
    warnings.filterwarnings("ignore")
    console.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        config = composed("train", *words, f"run_dir={folder}")
        datamodule = data_of(config)
        trial = Trial(config, datamodule)
        with suppress(train.FinishedError):
            contender.train(trial)
    return trial.points


def in_a_process(words: Sequence[str], contender: Contender) -> list[Point]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context(sized("spawn", "fork"))) as pool:
        return pool.submit(curve_of, words, contender).result()


def seconds_to(points: Sequence[Point], level: float) -> float | None:
    """Training time at the first evaluation that reaches a value, in s; None if none reaches it."""
    return next((seconds for seconds, value in points if value >= level), None)


def rows_of(curves: dict[str, dict[str, list[Point]]]) -> list[dict[str, Any]]:
    """One row for each data set and contender.

    Args:
        curves: points by data and contender.

    Returns:
        For each: its training time and its best value; then, for 95 % of it and for all of it, its seconds, those of
        Segue to the same value, and how many times as fast Segue is. None where Segue does not reach the value, and in
        its own row.
    """
    rows = []
    for data, by_contender in curves.items():
        for name, points in by_contender.items():
            best = max(value for _, value in points)
            row: dict[str, Any] = {"data": data, "contender": name, "trained_s": points[-1][0], "best": best}
            for key, level in (("share", SHARE * best), ("all", best)):
                own = seconds_to(points, level)
                segue = seconds_to(by_contender[OURS], level) if OURS in by_contender and name != OURS else None
                row |= {f"{key}_s": own, f"{key}_segue_s": segue, f"{key}_ratio": own and segue and own / segue}
            rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each data set and contender."""

    compared = {row["data"] for row in rows if row["contender"] == OURS}

    def cells(row: dict[str, Any], key: str) -> list[str]:
        if row["contender"] == OURS or row["data"] not in compared:
            return [f"{row[f'{key}_s']:.3g}", "", ""]
        if row[f"{key}_segue_s"] is None:
            return [f"{row[f'{key}_s']:.3g}", "not reached", ""]
        return [f"{row[f'{key}_{part}']:.3g}" for part in ("s", "segue_s", "ratio")]

    head = ["data", "contender", "trained, s", "best ndcg@10"]
    for level in ("95 % of its best", "its best"):
        head += [f"to {level}, s", "Segue to the same, s", "times as fast"]
    lines = [
        [
            row["data"],
            row["contender"],
            f"{row['trained_s']:.3g}",
            f"{row['best']:.4f}",
            *cells(row, "share"),
            *cells(row, "all"),
        ]
        for row in rows
    ]
    return "\n".join(markdown_table(head, lines, "llrrrrrrrr")) + "\n"


def draw(curves: dict[str, dict[str, list[Point]]]) -> "Figure":
    """The value over the seconds of training, a panel for each data set; a mark is at 95 % of the best value."""
    from matplotlib.figure import Figure

    colours = dict(zip([OURS, *(name for name in [*CONTENDERS, SASREC] if name != OURS)], ARMS[1:], strict=False))
    figure = Figure(figsize=(4.6 * len(curves), 3.9))
    axes = figure.subplots(1, len(curves), squeeze=False)
    for axis, (data, by_contender) in zip(axes[0], curves.items(), strict=True):
        for name, points in by_contender.items():
            width = 2.4 if name == OURS else 1.3
            axis.plot(*zip(*points, strict=True), color=colours[name], label=name, linewidth=width)
            level = SHARE * max(value for _, value in points)
            first = next(point for point in points if point[1] >= level)
            axis.plot(*first, marker="o", color=colours[name], markersize=6)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_title(data, fontsize=10, loc="left")
        tidy(axis, grid="both", xlabel="training, s", ylabel="validation ndcg@10" if axis is axes[0][0] else None)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), frameon=False, fontsize=9, loc="lower center")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure


def stored(commit: str) -> list[dict[str, Any]]:
    """What was measured at this commit."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [record for record in map(json.loads, lines) if record["commit"] == commit]


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--rectools", metavar="PYTHON", help='Python with "rectools[torch]" and pandas<3, for SASRec')
    parser.add_argument("--data", nargs="+", choices=DATA, default=sized(list(DATA), ["world"]))
    parser.add_argument("--contenders", nargs="+", choices=[*CONTENDERS, SASREC], default=[*CONTENDERS, SASREC])
    options = STUDY.parse(parser)
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as in the verbs
    contenders = {name: CONTENDERS[name] for name in options.contenders if name != SASREC}
    if SASREC in options.contenders and options.rectools:
        contenders[SASREC] = sasrec(options.rectools)
    available(*(data for data in options.data if data != "world"))
    commit = STUDY.commit()
    records = stored(commit)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for data in options.data:
        for name, contender in contenders.items():
            if any((record["data"], record["contender"]) == (data, name) for record in records):
                continue
            with console.status(f"{data}: {name}"):
                points = in_a_process(words_of(data, name, contender), contender)
            record = {"data": data, "contender": name, "commit": commit, "points": points}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            records.append(record)
            best = max(value for _, value in points)
            console.print(
                f"{data:8} {name:9} best ndcg@10 {best:.4f}; 95 % of it after {seconds_to(points, SHARE * best):.3g} "
                f"of {points[-1][0]:.3g} s",
                soft_wrap=True,
            )
    if not records:
        return
    write(records, options.rectools)


def write(records: Sequence[dict[str, Any]], rectools: str | None) -> None:
    """Write the table, the picture and the points of all that was measured."""
    by_place = {(record["data"], record["contender"]): record["points"] for record in records}
    curves = {
        data: {name: by_place[data, name] for name in [*CONTENDERS, SASREC] if (data, name) in by_place}
        for data in DATA
        if any(measured == data for measured, _ in by_place)
    }
    rows = rows_of(curves)
    text = table(rows)
    libraries = {contender.library for contender in CONTENDERS.values() if contender.library}
    versions = {library: version(library) for library in sorted(libraries)}
    if rectools:
        code = "from importlib.metadata import version; print(version('rectools'))"
        versions["rectools"] = subprocess.check_output([rectools, "-c", code], text=True).strip()
    if not any(name == SASREC for _, name in by_place):
        skip("SASRec: it needs --rectools, a Python that has RecTools")
        text += "\nSASRec was not measured: it needs `--rectools`, a Python that has RecTools.\n"
    origin = {**STUDY.provenance(), **versions}
    STUDY.write_record("quality.json", {"rows": rows, "curves": curves, "provenance": origin})
    STUDY.write_table("quality.md", [text])
    STUDY.write_figure("quality.png", draw(curves), dpi=130)


if __name__ == "__main__":
    STUDY.run(main)
