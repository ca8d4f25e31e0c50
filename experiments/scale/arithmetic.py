"""What would 10^6 to 10^9 tracks and 10^6 to 10^10 events need? Formulas, and what was measured at smaller sizes.

    python experiments/scale/arithmetic.py    writes arithmetic.md, and draws growth.png

N tracks, E events, P pairs, D width of an embedding, B pairs of a batch, W processes. Nothing is measured here: sizes
of tables follow from the code, and the rest from `lists.csv`, `lists_served.csv` and `../throughput/growth.json`.
"""

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.studying import Study, read_rows
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
TRACKS, EVENTS = (10**5, 10**6, 10**7, 10**8, 10**9), (10**6, 10**7, 10**8, 10**9, 10**10)
WIDTHS = (64, 128)
ARTISTS = 0.25
"""Artists for each track, as in the measured catalogues."""
BATCH, PROCESSES, NETWORK = 4096, 2, 1.25e9
"""Pairs of a batch of both processes; bytes a second of a network of 10 Gbit/s."""
MACHINE = 64e9
"""Bytes of memory of the machine in the table of limits, of which half is for what a row names."""
WINDOW, BATCH_OF_ORDER = 4_194_304, 32
"""Pairs that are shuffled together, and bytes of memory for each of them (`ShardDataModule`)."""

STEPS = ("prepare", "search", "write")
"""Of an export, in `lists.csv`."""
LEAST_CELLS, MIN_CELLS_PER_PROBE, LARGEST_CELL = 8, 8, 150
SHARE_MOST_PLAYED, LARGEST_MOST_PLAYED = 1 / 128, 8192
"""Of the search that `lists.csv` measured, at the commit of `lists_provenance.json`: its own inverted file, and not the
one of faiss. Of its cells 8 are searched for a query, at least, and at most an eighth of them, each of 150 tracks."""

EXACT = 200_000
"""Tracks up to which the search is exact (`EXACT_UP_TO` of `models/export.py`)."""

Point = tuple[float, float]


def row_bytes(dim: int) -> int:
    """A row of a table with `row_adam`: weights and mean squares, 4·D bytes each, and its last step, 4."""
    return 8 * dim + 4


def table_bytes(dim: int) -> float:
    """All tables for each track: its embedding, its item bias (a row of width 1), and its part of the artists."""
    return row_bytes(dim) * (1 + ARTISTS) + row_bytes(1)


def sent_bytes(dim: int) -> float:
    """What one process sends to each other one in a step, at most: its B/W pairs have two tracks and two artists.

    A row is its number, 8 bytes, and its gradient, 4·D. The item bias of the second track is a row of width 1. Offsets
    (`model.order_std`) and biases of listeners (`loss=bce`) are left out, here and in `table_bytes`.
    """
    return BATCH / PROCESSES * (4 * (8 + 4 * dim) + (8 + 4))


def dense_bytes(num_tracks: float, dim: int) -> float:
    """The same with another optimizer, whose gradients are whole tables: 4·D bytes for each row."""
    return 4 * num_tracks * (dim * (1 + ARTISTS) + 1)


def column_bytes() -> int:
    """Columns of shards on disk for each event: 52 of its pair, 36, and 20 more for training (`shard_columns.py`)."""
    return 52 + 36 + 20


def slope(points: list[Point]) -> float:
    """What one more unit costs between the two largest sizes that were measured."""
    (first, low), (last, high) = sorted(points)[-2:]
    return (high - low) / (last - first)


def power(points: list[Point]) -> Callable[[float], float]:
    """The curve a·N^b through the two largest sizes that were measured."""
    (first, low), (last, high) = sorted(points)[-2:]
    exponent = math.log(high / low) / math.log(last / first)
    return lambda size: float(high * (size / last) ** exponent)


def measured() -> dict[str, list[Point]]:
    """What was measured, by size: bytes of memory, or seconds."""
    grown = json.loads((STUDY.home.parent / "throughput" / "growth.json").read_text())["points"]
    lists = [row for row in read_rows(STUDY.home / "lists.csv") if row["stage"] == "export"]
    served = read_rows(STUDY.home / "lists_served.csv")

    def curve(name: str, key: str, unit: float) -> list[Point]:
        return [(one["value"], unit * one[key]) for one in grown if one["curve"] == name]

    return {
        "training, D = 64": curve("training, convex", "peak_mb", 1e6),
        "reading": curve("events to pairs", "peak_mb", 1e6),
        "pair, s": curve("training, convex", "us", 1e-6),
        "exact lists, s": [(n, n * us * 1e-6) for n, us in curve("exact lists", "us", 1.0)],
        "epoch": [(n, n * us * 1e-6) for n, us in curve("training, convex, pairs", "us", 1.0)],
        "export": [(float(row["tracks"]), 1e9 * float(row["GB"])) for row in lists],
        **{f"{step}, s": [(float(row["tracks"]), float(row[step])) for row in lists] for step in STEPS},
        "service": [
            (float(n), 1e9 * median(float(row["GB"]) for row in served if row["tracks"] == n))
            for n in dict.fromkeys(row["tracks"] for row in served)
        ],
    }


def num_cells(num_tracks: float) -> float:
    """Cells of the approximate search."""
    return num_tracks / min(math.sqrt(num_tracks) / 4, LARGEST_CELL)


def looked_at(num_tracks: float, *, most: bool) -> float:
    """Candidates of a query: the most played tracks, and those of the cells that are searched.

    Args:
        num_tracks: N.
        most: whether an eighth of all cells is searched, as where vectors have no clusters, or few cells.
    """
    cells = num_cells(num_tracks)
    most_played = min(SHARE_MOST_PLAYED * num_tracks, LARGEST_MOST_PLAYED)
    return most_played + num_tracks / cells * max(LEAST_CELLS, most * cells / MIN_CELLS_PER_PROBE)


def export_s(found: dict[str, list[Point]], num_tracks: float, *, most: bool) -> float:
    """CPU time of an export, from the largest size that was measured, where few cells were searched.

    Up to `EXACT` tracks it is that of exact lists. Above, preparing compares each track with the centres of the √C
    regions of C cells and with the cells of eight of them, a search looks at the candidates of each track, and writing
    is linear.
    """
    if num_tracks <= EXACT:
        return power([point for point in found["exact lists, s"] if point[0] <= EXACT])(num_tracks)
    (size, prepare), (_, search), (_, write) = (max(found[f"{step}, s"]) for step in STEPS)
    growth = num_tracks / size
    per_track = math.sqrt(num_cells(num_tracks) / num_cells(size))
    per_query = looked_at(num_tracks, most=most) / looked_at(size, most=False)
    return prepare * growth * per_track + search * growth * per_query + write * growth


def exports(found: dict[str, list[Point]]) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """CPU time of an export by tracks, where few cells are searched and where an eighth of them is."""
    return partial(export_s, found, most=False), partial(export_s, found, most=True)


def rest_bytes(found: dict[str, list[Point]]) -> float:
    """Memory of training for each track besides its tables (catalogue, counts, copies at the start), as measured."""
    return slope(found["training, D = 64"]) - table_bytes(64)


def tables(found: dict[str, list[Point]]) -> list[str]:
    """All tables of the page, as lines of Markdown."""
    rest, pair_s = rest_bytes(found), max(found["pair, s"])[1]
    of_track = {dim: table_bytes(dim) + rest for dim in WIDTHS}
    units = [
        *((f"tables of training, D = {dim}", table_bytes(dim)) for dim in WIDTHS),
        ("catalogue and copies while training", rest),
        ("export of lists, memory", slope(found["export"])),
        ("service, memory of a worker", slope(found["service"])),
    ]
    lines = table(["for each track", "bytes"], [[name, f"{value:,.0f}"] for name, value in units], "lr")
    hours = ["export, CPU hours, few cells", "an eighth of the cells"]
    head = ["tracks", *(f"training, D = {dim}, GB" for dim in WIDTHS), "export, GB", *hours, "service, GB"]
    lines += ["", *table(head, [
        [f"{n:,}", *(_short(n * of_track[dim] / 1e9) for dim in WIDTHS), _short(n * slope(found["export"]) / 1e9),
         *(_short(export_s(found, n, most=most) / 3600) for most in (False, True)),
         _short(n * slope(found["service"]) / 1e9)] for n in TRACKS
    ], "rrrrrrr")]  # fmt: skip
    head = ["tracks", *(f"{name}, D = {dim}, MB a step" for name in ("rows", "whole tables") for dim in WIDTHS)]
    lines += ["", *table(head, [
        [f"{n:,}", *(_short(sent_bytes(dim) / 1e6) for dim in WIDTHS),
         *(_short(dense_bytes(n, dim) / 1e6) for dim in WIDTHS)] for n in TRACKS
    ], "rrrrr")]  # fmt: skip
    head = ["events", "from the source, GB", "shards: window, GB", "shards: columns on disk, GB", "an epoch, hours"]
    lines += ["", *table(head, [
        [f"{n:,}", _short(n * slope(found["reading"]) / 1e9), _short(min(n, WINDOW) * BATCH_OF_ORDER / 1e9),
         _short(n * column_bytes() / 1e9), _short(n * pair_s / 3600)] for n in EVENTS
    ], "rrrrr")]  # fmt: skip
    half, (few, many) = MACHINE / 2, exports(found)
    limits = [
        ("events read by `train.py` from the source", half / slope(found["reading"]), "shards"),
        *((f"tracks with an embedding, D = {dim}", half / of_track[dim], "`model.min_plays`") for dim in WIDTHS),
        ("tracks in one export of lists", half / slope(found["export"]), "a machine with more memory"),
        *(
            (f"tracks of an export of 24 hours, on one core, {cells}", _inverse(curve, 24 * 3600), "more cores")
            for cells, curve in (("few cells", few), ("an eighth of the cells", many))
        ),
        ("tracks of a service", half / slope(found["service"]), "a machine with more memory"),
        ("pairs of an epoch of 12 hours, on two cores", 12 * 3600 / pair_s, "`trainer=ddp`"),
    ]
    body = [[what, _round(value), then] for what, value, then in limits]
    lines += ["", *table(["what", "about", "then"], body, "lrl")]
    network = sent_bytes(64) * (PROCESSES - 1) / NETWORK
    return [*lines, "", f"A step sends its rows (D = 64) over a network of 10 Gbit/s in {1e3 * network:.1f} ms."]


def _inverse(curve: Callable[[float], float], value: float) -> float:
    """Where an increasing curve has a value."""
    low, high = 1.0, 1e15
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if curve(middle) < value else (low, middle)
    return low


def _short(value: float) -> str:
    """Two significant digits."""
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{round(value, 1 - math.floor(math.log10(value))):,.{digits}f}"


def _round(value: float) -> str:
    return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"


def draw(found: dict[str, list[Point]]) -> None:
    """Memory and time by size: what was measured as points, what is computed as dashed lines."""
    from matplotlib.figure import Figure

    from segue.reports.axes import tidy
    from segue.reports.palette import BLUE, GREY, ORANGE, RED

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    memory, time = figure.subplots(1, 2)
    for name, colour in (("training, D = 64", BLUE), ("export", ORANGE), ("service", RED)):
        points = sorted(found[name])
        last, value = points[-1]
        sizes = [last * 10 ** (step / 10) for step in range(round(10 * math.log10(10**9 / last)) + 1)]
        computed = [(value + slope(points) * (size - last)) / 1e9 for size in sizes]
        memory.plot([n for n, _ in points], [bytes_ / 1e9 for _, bytes_ in points], "o-", color=colour, label=name)
        memory.plot(sizes, computed, "--", color=colour)
    memory.axhline(MACHINE / 1e9, color=GREY, linewidth=0.8)
    steps = [sorted(found[f"{step}, s"]) for step in STEPS]
    of_exports = [(at[0][0], sum(seconds for _, seconds in at)) for at in zip(*steps, strict=True)]
    for points, colour, label, end, curves in (
        (of_exports, ORANGE, "export, CPU, by tracks: few cells, or an eighth", 10**9, exports(found)),
        (sorted(found["epoch"]), BLUE, "an epoch, D = 16, by pairs", 10**10, (power(found["epoch"]),)),
    ):
        last = points[-1][0]
        sizes = [last * 10 ** (step / 10) for step in range(round(10 * math.log10(end / last)) + 1)]
        time.plot([n for n, _ in points], [s / 3600 for _, s in points], "o-", color=colour, label=label)
        for curve in curves:
            time.plot(sizes, [curve(size) / 3600 for size in sizes], "--", color=colour)
    for axis in (memory, time):
        axis.set(xscale="log", yscale="log")
    tidy(memory, grid="both", legend=True, xlabel="tracks", ylabel="memory, GB; grey: 64 GB")
    tidy(time, grid="both", xlabel="tracks, or pairs", ylabel="hours")
    time.set(ylim=(None, 3e7))
    time.legend(frameon=False, fontsize=8.5, loc="upper left")
    STUDY.write_figure("growth.png", figure, dpi=120)


def main() -> None:
    STUDY.parse()
    found = measured()
    STUDY.write_table("arithmetic.md", tables(found))
    draw(found)


if __name__ == "__main__":
    STUDY.run(main)
