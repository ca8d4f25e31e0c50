"""Does the service's memory stay flat under steady load and reloads: python experiments/serving/soak.py

Writes soak.md, soak.json and soak.png beside this file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.serving.services import (
    Running,
    catalogue,
    is_logged,
    load_release,
    memory_mb,
    random_lists,
    read_wrk,
    segue,
    stop_in_order,
    wrk_command,
)
from src.runs.atomic import write_record
from src.runs.provenance import provenance
from src.serving.store import FolderStore
from src.terminal.console import ROOT, console, progress

HERE = Path(__file__).parent
NUM_TRACKS, CONNECTIONS = 50_000, 64
FLAT_MB_PER_MINUTE = 1.0
"""A slope below this counts as flat: a day of it is what a worker may have in all."""

mpl.use("agg")


def main() -> None:
    given = arguments()
    stop_in_order()
    catalog, rng = catalogue(NUM_TRACKS), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as folder:
        store = FolderStore(Path(folder, "store"), keep=5)
        load_release(store, catalog, random_lists(NUM_TRACKS, rng))
        # every file of the log is kept, so that lines can be counted at the end
        with segue(Path(folder, "run"), f"store.folder={store.folder}", "log.backups=1000") as service:
            command = wrk_command(
                service.port, connections=CONNECTIONS, seconds=given.seconds, num_tracks=NUM_TRACKS, seed=1
            )
            wrk = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                samples, reloads = watch(
                    service, wrk, given, lambda: load_release(store, catalog, random_lists(NUM_TRACKS, rng))
                )
                printed, _ = wrk.communicate(timeout=60)
            finally:
                wrk.kill()
            load = read_wrk(printed)
            load |= {"lines": service.num_lines(), "answers_counted_by_service": service.num_answers()}
            per_second = lines_per_second(service.logs)
    record = {
        "load": load,
        "samples": samples,
        "reloads": reloads,
        "lines_per_second": per_second,
        "slope_mb_per_minute": {kind: slope(samples, kind, given.settle) for kind in ("rss_mb", "anonymous_mb")},
        "settle_s": given.settle,
        "provenance": provenance(ROOT),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_record(record, given.out / "soak.json")
    (given.out / "soak.md").write_text(report(record), encoding="utf-8")
    draw(record, given.out / "soak.png")
    console.print(report(record), markup=False, soft_wrap=True)


def arguments() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=int, default=300, help="of load")
    words.add_argument("--every", type=int, default=30, help="seconds from reload to reload")
    words.add_argument("--settle", type=int, default=60, help="seconds before memory is held to be flat")
    words.add_argument("--out", type=Path, default=HERE, help="folder for what it writes")
    return words.parse_args()


def watch(
    service: Running, wrk: "subprocess.Popen[str]", given: argparse.Namespace, load: Any
) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Memory of the worker each second, and new lists now and then, until wrk ends."""
    samples: list[dict[str, float]] = []
    reloads: list[dict[str, Any]] = []
    began, next_reload, pending = time.monotonic(), float(given.every), None
    worker = None
    with progress("seconds of load", given.seconds) as advance:
        while wrk.poll() is None:
            time.sleep(max(0.0, began + len(samples) + 1 - time.monotonic()))
            now = time.monotonic() - began
            worker = worker or service.worker()
            memory = memory_mb(worker)
            samples.append({"s": now, "rss_mb": memory["Rss"], "anonymous_mb": memory["Anonymous"]})
            advance(1)
            if pending is not None and json.loads(service.get("/experiments"))["version"] == pending["version"]:
                pending["taken_over_s"] = time.monotonic() - began
                pending = None
            if now >= next_reload and now < given.seconds - 5:
                pending = {"s": now, "version": load(), "taken_over_s": None}
                reloads.append(pending)
                next_reload += given.every
    return samples, reloads


def lines_per_second(logs: Path) -> list[tuple[int, int]]:
    """Lines by the second that they tell, counted from the first; every line is read as JSON."""
    query = """
        SELECT timestamp // 1000 AS second, count(*) FROM read_json($files, format='newline_delimited',
        columns={timestamp: 'BIGINT', recommendation: 'BIGINT'}) GROUP BY second ORDER BY second
    """
    found = duckdb.sql(query, params={"files": f"{logs}/*/data.json*"}).fetchall()
    return [(int(second - found[0][0]), int(count)) for second, count in found]


def slope(samples: list[dict[str, float]], kind: str, settle_s: float) -> float:
    """MB a minute of the straight line through what came after the service had settled."""
    kept = [sample for sample in samples if sample["s"] > settle_s]
    return float(np.polyfit([sample["s"] / 60 for sample in kept], [sample[kind] for sample in kept], 1)[0])


def report(record: dict[str, Any]) -> str:
    load, slopes = record["load"], record["slope_mb_per_minute"]
    kept = [sample for sample in record["samples"] if sample["s"] > record["settle_s"]]
    taken = sum(reload["taken_over_s"] is not None for reload in record["reloads"])
    failed = load["not_2xx"] + load["broken"]

    def memory(kind: str) -> str:
        values = [sample[kind] for sample in kept]
        return f"{slopes[kind]:+.2f} a minute, from {min(values):.0f} to {max(values):.0f}"

    def yes(holds: bool) -> str:
        return "yes" if holds else "**no**"

    rows = [
        ("resident memory of the worker, MB", memory("rss_mb"), yes(abs(slopes["rss_mb"]) < FLAT_MB_PER_MINUTE)),
        ("of it no file, MB", memory("anonymous_mb"), yes(abs(slopes["anonymous_mb"]) < FLAT_MB_PER_MINUTE)),
        ("failed requests", f"{failed} of {load['answered']:,}", yes(not failed)),
        ("reloads taken over", f"{taken} of {len(record['reloads'])}", yes(taken == len(record["reloads"]))),
        (
            "answered ≤ lines ≤ sent, and lines as many as the service counts answers",
            f"{load['answered']:,} ≤ {load['lines']:,} ≤ {load['sent']:,}",
            yes(is_logged(load)),
        ),
        ("requests/s", f"{load['answered'] / load['seconds']:,.0f}", ""),
        ("p99, slowest, ms", f"{load['p99_ms']:.1f}, {load['max_ms']:.0f}", ""),
    ]
    lines = ["| what | measured | holds |", "|---|--:|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    seconds, machine = round(load["seconds"]), record["provenance"]["machine"]
    head = (
        f"{seconds} s of load over {CONNECTIONS} connections, workers=1, {NUM_TRACKS:,} × 50 lists; {machine}. "
        f"Memory counts after the first {record['settle_s']} s; flat is less than {FLAT_MB_PER_MINUTE:g} MB a minute."
    )
    return f"{head}\n\n" + "\n".join(lines) + "\n"


def draw(record: dict[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, (memory, speed) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True)
    seconds = [sample["s"] for sample in record["samples"]]
    for kind, colour, label in (("rss_mb", "#2a6f97", "resident"), ("anonymous_mb", "#5a9367", "of it no file")):
        memory.plot(seconds, [sample[kind] for sample in record["samples"]], color=colour, label=label)
    speed.plot(*zip(*record["lines_per_second"][:-1], strict=True), color="#2a6f97", linewidth=1)
    for axis, title in ((memory, "memory of the worker, MB"), (speed, "lines logged a second")):
        for number, reload in enumerate(record["reloads"]):
            name = "" if number or axis is speed else "new lists"
            axis.axvline(reload["s"], color="#9a9a9a", linestyle=":", linewidth=1, label=name)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_ylim(0, 1.15 * axis.dataLim.ymax)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    memory.legend(frameon=False, ncols=3, fontsize=9)
    speed.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
