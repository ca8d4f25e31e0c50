"""How cost grows with tracks, pairs, lines and dimensions: python experiments/throughput/growth.py

Each point is measured in its own process. Writes growth.json, growth.md and growth.png into the folder of this file.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.throughput.by_vectors import ranker_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, sized
from experiments.throughput.race import Contender, Stage, Work, race
from experiments.throughput.stages.logs import make_logs
from experiments.throughput.stages.pairs import ours as read_pairs
from experiments.throughput.stages.training import BATCH_SIZE, draw_pairs, fit, published_words
from segue.reports.console import console
from segue.reports.markdown import table as markdown_table

STUDY = Study(__file__, __doc__)
K = 50
NUM_QUERIES = 4096
"""Of exact search; its cost per query does not depend on the number of queries."""


def training(_folder: Path, _small: bool, *, tracks: int, pairs: int, dim: int, model: str) -> Work:
    """One epoch of `trainer.fit`."""
    columns = draw_pairs(num_tracks=tracks, num_artists=tracks // 4, num_pairs=pairs)
    return fit(columns, published_words(model=model, dim=dim))


def reading(folder: Path, small: bool, *, lines: int) -> Work:
    """From event logs to pairs."""
    make_logs(folder, num_events=lines, num_users=max(1000, lines // 300))
    return read_pairs(folder, small)


def unit_vectors(tracks: int, dim: int) -> Any:
    """Unit vectors near those of their artists, as in a trained head."""
    import torch

    generator = torch.Generator().manual_seed(0)
    artists = torch.randn(tracks // 4, dim, generator=generator)
    vectors = artists[torch.randint(len(artists), (tracks,), generator=generator)]
    vectors += 0.5 * torch.randn(tracks, dim, generator=generator)
    return torch.nn.functional.normalize(vectors)


def exact(_folder: Path, _small: bool, *, tracks: int, dim: int) -> Work:
    """The lists of `NUM_QUERIES` tracks."""
    import torch

    vectors, plays = unit_vectors(tracks, dim), np.zeros(tracks, np.int64)
    rows = torch.arange(min(NUM_QUERIES, tracks))

    def work() -> float:
        ranker_of(vectors.numpy(), plays).lists(K, rows.numpy()).collect()
        return len(rows)

    return work


def approximate(_folder: Path, _small: bool, *, tracks: int, dim: int) -> Work:
    """The lists of all tracks, including the time to build the index."""
    import torch

    vectors, plays = unit_vectors(tracks, dim), np.zeros(tracks, np.int64)

    def work() -> float:
        rows = torch.arange(tracks)
        search = ranker_of(vectors.numpy(), plays).lists(K, rows.numpy(), recall=0.95)
        search.collect()
        return tracks

    return work


TRACKS, PAIRS = sized(((10**4, 10**5, 10**6, 10**7), (10**5, 10**6, 10**7, 10**8)), ((10**3,), (10**4,)))
TRAINED = {**sized({"tracks": 50_000, "pairs": 500 * BATCH_SIZE}, {"tracks": 10**3, "pairs": 10**4}), "dim": 64}
DIMS, LINES = sized((16, 32, 64, 128, 256), (16,)), sized((10**5, 10**6, 10**7), (2 * 10**4,))
EXACT, APPROXIMATE = sized(((10**4, 10**5, 10**6), (10**4, 10**5, 3 * 10**5)), ((2_000,), (2_000,)))
CURVES: dict[str, tuple[str, Any, str, Sequence[int], dict[str, Any]]] = {
    "training, contextual": ("pair", training, "tracks", TRACKS, {**TRAINED, "model": "contextual"}),
    "training, convex": ("pair", training, "tracks", TRACKS, {**TRAINED, "model": "convex"}),
    "training, convex, dims": ("pair", training, "dim", DIMS, {**TRAINED, "model": "convex"}),
    "training, convex, pairs": ("pair", training, "pairs", PAIRS, {**TRAINED, "model": "convex", "dim": 16}),
    "events to pairs": ("line", reading, "lines", LINES, {}),
    "exact lists": ("track", exact, "tracks", EXACT, {"dim": 64}),
    "approximate lists": ("track", approximate, "tracks", APPROXIMATE, {"dim": 64}),
}  # fmt: skip
"""By curve: the unit of cost, the function, the argument that grows, its values, the other arguments."""


def main() -> None:
    STUDY.parse()
    partial_results = STUDY.work / "growth.jsonl"  # a stopped study continues; remove the file to start again
    partial_results.parent.mkdir(parents=True, exist_ok=True)
    stored = partial_results.read_text().splitlines() if partial_results.exists() else []
    points = [json.loads(line) for line in stored]
    done = {(point["curve"], point["value"]) for point in points}
    for name, (unit, work, argument, values, others) in CURVES.items():
        for value in values:
            if (name, value) in done:
                continue
            contender = Contender(name=name, prepare=partial(work, **{**others, argument: value}))
            with tempfile.TemporaryDirectory() as folder, console.status(f"{name}: {value:,} {argument}"):
                stage = Stage(name=name, unit=unit, ours=contender)
                # large points take long and do not depend on warm caches, except for large tables
                warm_up = (work is training and argument != "pairs") or value < 10**6
                timing = race(stage, Path(folder), small=False, rounds=1, report=lambda _: None, warm_up=warm_up)
            point = {"curve": name, "grows": argument, "value": value, "unit": unit}
            point |= {"us": 1e6 / timing[name].rates[0], "peak_mb": timing[name].peak_mb}
            points.append(point)
            with partial_results.open("a") as file:
                file.write(json.dumps(point) + "\n")
            console.print(
                f"{name:28} {value:>12,} {argument:8} {point['us']:10.3g} µs per {unit}, {point['peak_mb']:,.0f} MB"
            )
    STUDY.write_record("growth.json", {"points": points, "provenance": STUDY.provenance()})
    STUDY.write_table("growth.md", table(points))
    draw(points)


def table(points: list[dict[str, Any]]) -> list[str]:
    rows = [
        [p["curve"], p["grows"], f"{p['value']:,}", f"{p['us']:.3g}", p["unit"], f"{p['peak_mb']:,.0f}"] for p in points
    ]
    head = ["curve", "what grows", "value", "µs per unit", "unit", "peak MB"]
    return markdown_table(head, rows, "llrrlr")


def draw(points: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    arguments = list(dict.fromkeys(p["grows"] for p in points))
    figure = Figure(figsize=(3.6 * len(arguments), 6))
    axes = figure.subplots(2, len(arguments), squeeze=False)
    for column, argument in enumerate(arguments):
        curves = list(dict.fromkeys(p["curve"] for p in points if p["grows"] == argument))
        for curve in curves:
            own = [p for p in points if p["curve"] == curve]
            for row, key in enumerate(("us", "peak_mb")):
                axes[row][column].plot([p["value"] for p in own], [p[key] for p in own], marker="o", label=curve)
        for row, label in enumerate(("µs per unit", "peak MB")):
            axis = axes[row][column]
            axis.set(xscale="log", yscale="log", xlabel=argument, ylabel=label if column == 0 else "")
            low, high = axis.get_ylim()
            axis.set_ylim(low / 3, 3 * high)  # a flat curve must look flat
            axis.minorticks_off()
            if argument == "dim":
                axis.set_xticks(DIMS, DIMS)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(alpha=0.3)
        axes[0][column].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    STUDY.write_figure("growth.png", figure, dpi=130)


if __name__ == "__main__":
    STUDY.run(main)
