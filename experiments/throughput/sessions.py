"""How fast are sessions as the query: python experiments/throughput/sessions.py [--rounds 5] [--seconds 4]

Measures a service under wrk (apt-get install wrk) at 64 connections, and the simulator with one process and with two,
with `pick=uniform` and `pick=ranked` in turns. Writes sessions.json and sessions.md into the folder of this file.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import children_of, cpu_s
from experiments.studying import SMALL_WORLD, SkippedError, Study, sized
from experiments.throughput.stages.listeners import make_world, simulated_day
from segue.errors import InputError
from segue.reports.console import console
from segue.reports.markdown import table
from segue.runs.provenance import ROOT
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.simulation.listener import WHOLE
from segue.simulation.neighbours import nearest
from segue.simulation.policies import Lists
from segue.simulation.traffic import Day, Players, Plays
from segue.simulation.world import World

STUDY = Study(__file__, __doc__)
K, DIM, NUM_LISTS, CONNECTIONS, SESSIONS = 50, 32, 4, 64, sized(50_000, 200)
PICKS = ("uniform", "ranked")
SIMULATIONS: dict[str, dict[str, Any]] = {
    "simulator, one process": {"processes": 1, "write_logs": False},
    "simulator, two processes": {"processes": 2, "write_logs": False},
    "simulator, one process, logs written": {"processes": 1, "write_logs": True},
}
WAVE = 2000
"""Sessions that are requested side by side, track by track."""
TARGETS = {"requests per second": 8000, "p99, ms": 10, "steps per second": 300_000}


def write_model(world: World, folder: Path) -> None:
    """Lists and vectors of the size that `train.py context=session` exports by default, from the true embeddings."""
    rng, catalog = np.random.default_rng(0), world.catalog
    tracks = world.embeddings @ rng.standard_normal((world.embeddings.shape[1], DIM)).astype(np.float32)
    tracks += 0.3 * tracks.std() * rng.standard_normal(tracks.shape, np.float32)
    artists = np.zeros((catalog.num_artists, DIM), np.float32)
    np.add.at(artists, catalog.artist_of, tracks)
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (tracks, artists[catalog.artist_of])]
    both = np.sqrt(np.float32(0.5)) * np.concatenate(parts, axis=1)
    columns = np.ones((len(both), 1), np.float32), 0.1 * rng.standard_normal((len(both), 1), np.float32)
    queries, items = (np.concatenate([both, column], axis=1) for column in columns)
    ages = np.arange(20, dtype=np.float32)
    vectors = SessionVectors(
        queries=queries,
        items=items,
        parts=("track", "artist"),
        ends=np.array([DIM, 2 * DIM]),
        shares=np.full(2, 0.5, np.float32),
        age_weights=np.stack([np.float32(0.8) ** ages, np.float32(0.9) ** ages]),
        skipped=-0.3,
        boosts=np.full(1000, -np.inf, np.float32),
        artist_boosts=np.empty(0, np.float32),
        context="session",
    )
    vectors.write(folder / FILE, catalog)
    rows = nearest(both, np.arange(len(both)), K, exclude_self=True)
    lists = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32))
    lists.write(folder / "recommendations.jsonl", catalog, format="botify")


def policy(world: World, folder: Path, pick: str) -> Lists:
    path = str(folder / "recommendations.jsonl")
    return Lists.of(path=path, pick=pick, context="session", num_lists=NUM_LISTS, world=world)


def write_requests(world: World, folder: Path, num_sessions: int) -> Path:
    """What simulated sessions request, track by track of a wave of sessions."""
    plan = Day.plan(world, day=1, sessions=num_sessions, experiment="LOAD", arms=["C"], seed=1)
    players = Players(world, [policy(world, folder, "ranked")], workers=1, keep_events=True)
    plays = Plays.join([outcome.plays for outcome in players.play(plan.shards)])
    session = np.random.default_rng(0).permutation(num_sessions).repeat(plays.lengths)  # else the shortest come first
    step = np.arange(len(session)) - (plays.lengths.cumsum() - plays.lengths).repeat(plays.lengths)
    order = np.lexsort((session, step, session // WAVE))
    columns = session[order], world.catalog.track_ids[plays.tracks[order]], plays.shares[order] / WHOLE
    file = folder / "requests.txt"
    file.write_text("".join(f"{one} {track} {share}\n" for one, track, share in zip(*columns, strict=True)))
    return file


def service(folder: Path, pick: str) -> AbstractContextManager[tuple[str, int, Path]]:
    """A service of the lists of a folder; see `served`."""
    return served(folder, folder / f"serve-{pick}", f"pick={pick}", f"num_lists={NUM_LISTS}")


@contextmanager
def served(folder: Path, run: Path, *words: str, checkout: Path = ROOT) -> Iterator[tuple[str, int, Path]]:
    """A service with one worker: its address, its process, and the log of the worker."""
    more = [f"recommendations={folder / 'recommendations.jsonl'}", "port=0", "room.enabled=false"]
    command = [sys.executable, "serve.py", *words, *more, f"hydra.run.dir={run}"]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("serving"):
                    yield line.split()[1], process.pid, run / "logs" / "worker-1"
                    return
            raise SystemExit("serve.py did not start; its error is printed above")
        finally:
            process.terminate()


def all_cpu_s(pid: int) -> float:
    """Processor time of a process and of those that it has started."""
    return cpu_s(pid) + sum(map(all_cpu_s, children_of(pid)))


def check_wrk() -> None:
    """Refuse to start without wrk; a smoke is left out."""
    if shutil.which("wrk") is None:
        raise sized(InputError, SkippedError)("wrk is missing: apt-get install wrk")


def num_lines(log: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in log.glob("data.json*"))


def drive(
    running: tuple[str, int, Path], requests: Path, *, seconds: int, first_user: int, connections: int = CONNECTIONS
) -> dict[str, float]:
    """Load one service; every answer must be in its log."""
    address, pid, log = running
    lines, used = num_lines(log), all_cpu_s(pid)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(STUDY.home / "sessions.lua"), address, "--"]
    done = subprocess.run([*command, str(requests), str(first_user)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    used = all_cpu_s(pid) - used
    time.sleep(0.5)
    if found["failed"] or not found["answered"] <= num_lines(log) - lines <= found["sent"]:
        raise SystemExit(f"answers failed, or are not in the log: {found}, {num_lines(log) - lines} lines")
    rate = found["answered"] / found["seconds"]
    values = rate, found["p50_ms"], found["p99_ms"], used / found["answered"] * 1e6
    return dict(zip(("requests per second", "p50, ms", "p99, ms", "CPU per request, µs"), values, strict=True))


def simulate(world: World, recommender: Lists, *, processes: int, write_logs: bool) -> dict[str, float]:
    """Simulate a day, as simulate.py does."""
    sessions = SESSIONS * processes
    record = simulated_day(world, recommender, sessions=sessions, workers=processes, logs=write_logs)
    return {"steps per second": float(record["steps_per_second"])}


def report(rows: list[dict[str, Any]]) -> list[str]:
    measured = defaultdict[tuple[str, int, str, str], list[float]](list)
    for row in rows:
        for name, value in row["values"].items():
            measured[row["of"], row["tracks"], row["pick"], name].append(value)
    lines = []
    for (of, tracks, pick, name), values in measured.items():
        shown = (f"{choose(values):,.1f}" for choose in (median, min, max))
        lines.append([of, f"{tracks:,}", pick, name, *shown, f"{TARGETS[name]:,}" if name in TARGETS else ""])
    return table(["of", "tracks", "pick", "measure", "median", "least", "most", "target"], lines, "lrllrrrr")


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--rounds", type=int, default=sized(5, 1), help="in which each measurement has its turn")
    parser.add_argument("--seconds", type=int, default=sized(4, 1), help="of load in each")
    parser.add_argument(
        "--worlds", nargs="+", default=sized(["published", "small"], ["small"]), help="the first is served"
    )
    options = STUDY.parse(parser)
    check_wrk()
    rows = list[dict[str, Any]]()

    def measure(of: str, world: World, pick: str, values: dict[str, float]) -> None:
        rows.append({"of": of, "tracks": len(world.catalog), "pick": pick, "values": values})
        shown = ", ".join(f"{key} {value:,.1f}" for key, value in values.items())
        line = f"{of}, {len(world.catalog):,} tracks, pick={pick}: {shown}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    with tempfile.TemporaryDirectory(prefix="segue-sessions-") as name:
        worlds = {Path(name, word): make_world(f"world={word}", *sized((), SMALL_WORLD)) for word in options.worlds}
        for folder, world in worlds.items():
            folder.mkdir()
            write_model(world, folder)
        with ExitStack() as stack:
            folder, world = next(iter(worlds.items()))
            requests = write_requests(world, folder, sized(3000, 200) * options.seconds)
            services = {pick: stack.enter_context(service(folder, pick)) for pick in PICKS}
            for number in range(options.rounds + 1):
                for pick, running in services.items():
                    load = {"seconds": options.seconds if number else 1, "first_user": number * 1_000_000}
                    values = drive(running, requests, **load)
                    if number:  # the first round warms up
                        measure("/next over HTTP", world, pick, values)
        recommenders = {
            (folder, pick): policy(world, folder, pick) for folder, world in worlds.items() for pick in PICKS
        }
        for _ in range(options.rounds):
            for (folder, pick), recommender in recommenders.items():
                for of, how in SIMULATIONS.items():
                    measure(of, worlds[folder], pick, simulate(worlds[folder], recommender, **how))
    STUDY.write_record("sessions.json", {"rows": rows, "provenance": STUDY.provenance()})
    STUDY.write_table("sessions.md", report(rows))


if __name__ == "__main__":
    STUDY.run(main)
