"""How fast, small and quick to start is the service: python experiments/serving/study.py

Every number comes from this one run, in which ours and the rival (rival.py) take turns under wrk. Writes results.md,
results.json, results.png and provenance.json beside this file.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median as middle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.runs import markdown
from experiments.serving.services import (
    Running,
    catalogue,
    drive,
    is_logged,
    load_release,
    random_lists,
    redis,
    rival,
    segue,
    stop_in_order,
)
from src.runs.atomic import write_record
from src.runs.provenance import provenance
from src.serving.store import FolderStore
from src.terminal.console import ROOT, console, progress

HERE = Path(__file__).parent
NUM_TRACKS = 50_000
CONNECTIONS = (8, 64, 256)
OURS, RIVAL = "Segue", "Flask + gevent + Redis"
SETUPS: dict[str, tuple[str, ...]] = {
    OURS: (),
    "Segue, log.fsync=never": ("log.fsync=never",),
    "Segue, log.fsync=always": ("log.fsync=always",),
    "Segue, pick=ranked": ("pick=ranked",),
    "Segue, workers=2": ("workers=2",),
}
PREDECESSOR = {"requests_per_second": {8: 180, 256: 1660}, "p99_ms": {64: 60}}
"""Published; another machine."""

FLAT = 0.9
"""Of the speed of the smallest catalogue must the largest have to call the cost flat."""

mpl.use("agg")
Runs = list[dict[str, Any]]


def main() -> None:
    given = arguments()
    stop_in_order()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as folder, ExitStack() as stack:
        work = Path(folder)
        file, catalog, lists = work / "recommendations.jsonl", catalogue(NUM_TRACKS), random_lists(NUM_TRACKS, rng)
        lists.write(file, catalog)
        load_release(FolderStore(work / "store", keep=5), catalog, lists)
        redis_at = stack.enter_context(redis(work, lists))
        starts = {
            "from recommendations.jsonl": lambda run: segue(run, f"recommendations={file}"),
            "from a store that has it": lambda run: segue(run, f"store.folder={work / 'store'}"),
            f"{RIVAL}, once Redis is filled": lambda run: rival(run, *redis_at),
        }
        ready = start(starts, work, given.starts)
        services = {
            name: stack.enter_context(segue(work / f"ours-{number}", f"recommendations={file}", *words))
            for number, (name, words) in enumerate(SETUPS.items())
        }
        services[RIVAL] = stack.enter_context(rival(work / "rival", *redis_at))
        turns = [(name, connections) for connections in CONNECTIONS for name in (OURS, RIVAL)]
        turns += [(name, 64) for name in SETUPS if name != OURS]
        runs = rounds(services, turns, given)
        memory = {name: service.memory() for name, service in services.items()}
    sizes, size_runs = by_size(given)
    record = {
        "runs": runs,
        "memory": memory,
        "ready_s": ready,
        "sizes": sizes,
        "size_runs": size_runs,
        "load_average": os.getloadavg(),
        "provenance": provenance(ROOT),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_record(record, given.out / "results.json")
    (given.out / "results.md").write_text(report(record), encoding="utf-8")
    (given.out / "provenance.json").write_text(json.dumps(record["provenance"], indent=2) + "\n", encoding="utf-8")
    draw(record, given.out / "results.png")
    console.print(report(record), markup=False, soft_wrap=True)


def arguments() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=int, default=4, help="of load in each run")
    words.add_argument("--rounds", type=int, default=5, help="in which each service has its turn")
    words.add_argument("--starts", type=int, default=5, help="of each kind")
    words.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000, 500_000, 1_000_000], help="in tracks")
    words.add_argument("--out", type=Path, default=HERE, help="folder for what it writes")
    return words.parse_args()


def start(starts: dict[str, Callable[[Path], Any]], work: Path, num: int) -> dict[str, list[float]]:
    """Seconds to the first answer of services that are started and stopped, in turns."""
    ready: dict[str, list[float]] = {name: [] for name in starts}
    with progress("starts", num * len(starts)) as advance:
        for time in range(num):
            for number, (name, launch) in enumerate(starts.items()):
                with launch(work / f"start-{number}-{time}") as service:
                    ready[name].append(service.ready_s)
                advance(1)
    return ready


def rounds(services: dict[str, Running], turns: list[tuple[str, int]], given: argparse.Namespace) -> Runs:
    runs: Runs = []
    for service in services.values():
        drive(service, connections=8, seconds=1, num_tracks=NUM_TRACKS, seed=0)  # warms up
    with progress("rounds of load", given.rounds * len(turns)) as advance:
        for number in range(1, given.rounds + 1):
            for name, connections in turns:
                load = {"connections": connections, "seconds": given.seconds, "num_tracks": NUM_TRACKS}
                runs.append({"service": name, "round": number, **drive(services[name], **load, seed=number)})
                say(runs[-1], f"{name}, {connections} connections")
                advance(1)
    return runs


def by_size(given: argparse.Namespace) -> tuple[list[dict[str, Any]], Runs]:
    """The speed of services that differ in the size of their catalogue, 64 connections."""
    sizes: list[dict[str, Any]] = []
    runs: Runs = []
    services: dict[int, Running] = {}
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as folder, ExitStack() as stack:
        work = Path(folder)
        with progress("catalogues", len(given.sizes)) as advance:
            for size in given.sizes:
                lists = random_lists(size, np.random.default_rng(size))
                load_release(FolderStore(work / f"store-{size}", keep=1), catalogue(size), lists)
                words = f"store.folder={work / f'store-{size}'}"
                services[size] = stack.enter_context(segue(work / f"size-{size}", words))
                advance(1)
        for size, service in services.items():
            drive(service, connections=64, seconds=1, num_tracks=size, seed=0)
        with progress("rounds of sizes", given.rounds * len(services)) as advance:
            for number in range(1, given.rounds + 1):
                for size, service in services.items():
                    load = {"connections": 64, "seconds": given.seconds, "num_tracks": size}
                    runs.append({"tracks": size, "round": number, **drive(service, **load, seed=number)})
                    say(runs[-1], f"{size:,} tracks")
                    advance(1)
        for size, service in services.items():
            sizes.append({"tracks": size, "ready_s": service.ready_s, **service.memory()})
    return sizes, runs


def say(run: dict[str, Any], what: str) -> None:
    console.print(f"{what:<45} {run['requests_per_second']:>9,.0f}/s  p99 {run['p99_ms']:>8.1f} ms")


def of(runs: Runs, measure: str, **wanted: Any) -> list[float]:
    """A measure of the runs that fit, in the order of the rounds."""
    return [float(run[measure]) for run in runs if all(run[key] == value for key, value in wanted.items())]


def spread(values: list[float], form: str = ",.0f") -> str:
    """Median, and from least to most."""
    return f"{middle(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def times(runs: Runs, service: str, connections: int) -> str:
    """How many times the rival's requests a second, round by round."""
    ours, rivals = (of(runs, "requests_per_second", service=name, connections=connections) for name in (service, RIVAL))
    return spread([one / other for one, other in zip(ours, rivals, strict=True)], ".1f")


def wanted_table(record: dict[str, Any]) -> pd.DataFrame:
    runs, everything = record["runs"], record["runs"] + record["size_runs"]
    at_64 = {"service": OURS, "connections": 64}
    speed, p99 = of(runs, "requests_per_second", **at_64), of(runs, "p99_ms", **at_64)
    memory = record["memory"][OURS]
    by_tracks = [
        middle(of(record["size_runs"], "requests_per_second", tracks=size["tracks"])) for size in record["sizes"]
    ]
    flat = by_tracks[-1] / by_tracks[0]
    bad = sum(run["not_2xx"] + run["broken"] for run in everything)
    logged = sum(map(is_logged, everything))
    first, last = (f"{record['sizes'][place]['tracks']:,}" for place in (0, -1))
    old = PREDECESSOR["requests_per_second"]
    published = ", ".join(f"{rate:,} at {connections}" for connections, rate in old.items())
    rows = [
        (
            "requests/s of a worker, 64 connections",
            "≥ 8,000",
            spread(speed),
            middle(speed) >= 8000,
            published,
        ),
        ("p99 at 64 connections, ms", "< 10", spread(p99, ".1f"), middle(p99) < 10, "60"),
        ("memory of the worker, MB", "< 300", f"{memory['worker_rss_mb']:.0f}", memory["worker_rss_mb"] < 300, ""),
        *(
            (f"ready, {name}, s", "< 2", spread(seconds, ".2f"), middle(seconds) < 2, "")
            for name, seconds in record["ready_s"].items()
            if RIVAL not in name
        ),
        (f"speed at {last} tracks, of that at {first}", f"≥ {FLAT}", f"{flat:.2f}", flat >= FLAT, ""),
        ("requests without a 2xx answer, all runs", "0", f"{bad}", not bad, ""),
        (
            "runs whose log has a line for each answer",
            "all",
            f"{logged} of {len(everything)}",
            logged == len(everything),
            "",
        ),
    ]
    columns = ["what", "wanted", "measured", "holds", "predecessor, published"]
    return pd.DataFrame([(*row[:3], "yes" if row[3] else "**no**", row[4]) for row in rows], columns=columns)


def load_table(record: dict[str, Any]) -> pd.DataFrame:
    runs, rows = record["runs"], []
    for name, connections in dict.fromkeys((run["service"], run["connections"]) for run in record["runs"]):
        which = {"service": name, "connections": connections}
        sums = {
            key: f"{sum(of(runs, key, **which)):,.0f}" for key in ("answered", "lines", "sent", "not_2xx", "broken")
        }
        rows.append(
            {
                "service": name,
                "connections": str(connections),
                "requests/s": spread(of(runs, "requests_per_second", **which)),
                "times the rival": "" if name == RIVAL else times(runs, name, connections),
                "p50 ms": spread(of(runs, "p50_ms", **which), ".1f"),
                "p99 ms": spread(of(runs, "p99_ms", **which), ".1f"),
                "CPU µs a request": spread(of(runs, "cpu_us_per_request", **which)),
                "answered ≤ lines ≤ sent": f"{sums['answered']} ≤ {sums['lines']} ≤ {sums['sent']}",
                "not 2xx, broken": f"{sums['not_2xx']}, {sums['broken']}",
            }
        )
    return pd.DataFrame(rows).sort_values(["service", "connections"], key=lambda column: column.map(order))


def order(cell: str) -> float:
    return float(cell) if cell.isdigit() else [*SETUPS, RIVAL].index(cell)


def report(record: dict[str, Any]) -> str:
    memory = pd.DataFrame(
        [
            {"service": name, "": "", **{key: f"{value:.0f}" for key, value in given.items()}}
            for name, given in record["memory"].items()
        ]
    )
    ready = pd.DataFrame(
        [{"start": name, "": "", "ready, s": spread(given, ".2f")} for name, given in record["ready_s"].items()]
    )
    sizes = pd.DataFrame(
        [
            {
                "tracks": f"{size['tracks']:,}",
                "": "",
                "requests/s": spread(of(record["size_runs"], "requests_per_second", tracks=size["tracks"])),
                "p99 ms": spread(of(record["size_runs"], "p99_ms", tracks=size["tracks"]), ".1f"),
                "CPU µs a request": spread(of(record["size_runs"], "cpu_us_per_request", tracks=size["tracks"])),
                "ready, s": f"{size['ready_s']:.2f}",
                "worker, MB": f"{size['worker_rss_mb']:.0f}",
                "of it private": f"{size['worker_anonymous_mb']:.0f}",
            }
            for size in record["sizes"]
        ]
    )
    runs = record["runs"]
    others = spread([run["cores_of_others"] for run in runs + record["size_runs"]], ".2f")
    seconds, num = round(runs[0]["seconds"]), runs[-1]["round"]
    parts = [
        f"Median (least–most) of {num} rounds of {seconds} s. {record['provenance']['machine']}; "
        f"wrk runs on the same cores, and others used {others} cores meanwhile.",
        markdown(wanted_table(record)),
        f"## Under load: {NUM_TRACKS:,} × 50 lists\n\n{markdown(load_table(record))}",
        "Lines beyond those answered belong to requests in flight when wrk hung up. CPU is that of all processes of a "
        "service, Redis among them. Unless named: workers=1, log.fsync=interval, pick=uniform.",
        f"## Memory after load, MB\n\n{markdown(memory)}",
        "`anonymous` is what is no file; the rest of the resident set is mapped files, which workers share with each "
        "other and with the page cache.",
        f"## Start\n\n{markdown(ready)}",
        f"## Size of the catalogue, 64 connections, lists of 50\n\n{markdown(sizes)}",
    ]
    return "\n\n".join(parts) + "\n"


def draw(record: dict[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    runs, colours = record["runs"], {OURS: "#2a6f97", RIVAL: "#e07a1f"}
    figure, (speed, slowest, size) = plt.subplots(1, 3, figsize=(11, 3.6))
    for axis, measure in ((speed, "requests_per_second"), (slowest, "p99_ms")):
        for name, colour in colours.items():
            values = [of(runs, measure, service=name, connections=connections) for connections in CONNECTIONS]
            band(axis, CONNECTIONS, values, colour, f"{name}, one worker")
        old = PREDECESSOR[measure]
        axis.scatter(
            list(old), list(old.values()), color="#9a9a9a", marker="D", label="predecessor, published", zorder=3
        )
        axis.set(xscale="log", yscale="log", xlabel="connections")
        axis.set_xticks(CONNECTIONS, [str(connections) for connections in CONNECTIONS])
        axis.minorticks_off()
    speed.axhline(8000, color="#555555", linestyle=":", linewidth=1)
    slowest.axhline(10, color="#555555", linestyle=":", linewidth=1)
    tracks = [given["tracks"] for given in record["sizes"]]
    values = [of(record["size_runs"], "requests_per_second", tracks=given) for given in tracks]
    band(size, tracks, values, colours[OURS], OURS)
    size.set(xscale="log", ylim=(0, 1.1 * max(map(max, values))), xlabel="tracks in the catalogue, 64 connections")
    size.set_xticks(tracks, [f"{given / 1e6:g}M" if given >= 1e6 else f"{given / 1e3:g}k" for given in tracks])
    size.minorticks_off()
    for axis, title in ((speed, "requests a second"), (slowest, "99th percentile, ms"), (size, "requests a second")):
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    handles, labels = speed.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle("POST /next with its event logged, 50,000 × 50 lists; dotted: wanted", fontsize=11)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=130)


def band(axis: Any, places: Any, values: list[list[float]], colour: str, label: str) -> None:
    """A line through medians, in a band from the least to the most."""
    axis.plot(places, [middle(given) for given in values], marker="o", color=colour, label=label)
    axis.fill_between(places, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15, linewidth=0)


if __name__ == "__main__":
    main()
