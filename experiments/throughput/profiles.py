"""How fast is context=listener: python experiments/throughput/profiles.py [--rounds 9] [--seconds 3]

Measures two services of the same lists and vectors under wrk (apt-get install wrk), in turns: with context=session, and
with context=listener and a profile of each listener. 64 connections, and one for the time of an idle service. Writes
profiles.json and profiles.md into the folder of this file. With `--before <checkout>` the services of another checkout
take their turns too.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALL_WORLD, Study, sized
from experiments.throughput.sessions import check_wrk, drive, write_model, write_requests
from experiments.throughput.stages.listeners import make_world
from segue.picking.listener_scores import FEATURES
from segue.reports.markdown import table
from segue.runs.profiles import DAY_MS, Profiles, entries_of_events
from segue.runs.profiles import FILE as PROFILES
from segue.runs.provenance import ROOT
from segue.runs.session_vectors import FILE, SessionVectors
from segue.simulation.world import World

STUDY = Study(__file__, __doc__)
NUM_LISTENERS, NUM_PLAYS = sized(12_000, 200), sized((100, 500), (100,))
"""Listeners with a profile, whose numbers are those of the sessions that are requested; and tracks of a profile."""
CONNECTIONS = (64, 1)


def write_profiles(world: World, folder: Path, num_tracks: int) -> None:
    """A profile of each listener, of distinct tracks of the last 90 days."""
    rng, now_ms = np.random.default_rng(0), time.time_ns() // 1_000_000
    shape, num = (NUM_LISTENERS, num_tracks), len(world.catalog)
    tracks = (rng.integers(num, size=(NUM_LISTENERS, 1)) + rng.integers(1, num // num_tracks, shape).cumsum(1)) % num
    owner, entries = entries_of_events(
        np.arange(NUM_LISTENERS).repeat(num_tracks),
        world.catalog.track_ids[tracks.ravel()].astype(np.int64),
        rng.random(tracks.size, np.float32),
        now_ms - rng.integers(DAY_MS, 90 * DAY_MS, tracks.size),
    )
    Profiles.of(owner, entries).write(folder / PROFILES)


@contextmanager
def service(folder: Path, context: str, *, checkout: Path, run: Path) -> Iterator[tuple[str, int, Path]]:
    """A service with one worker: its address, its process, and the log of the worker."""
    words = [f"recommendations={folder / 'recommendations.jsonl'}", "pick=ranked", f"context={context}", "port=0"]
    command = [sys.executable, "serve.py", *words, "room.enabled=false", f"hydra.run.dir={run}"]
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


def report(rows: list[dict[str, Any]]) -> list[str]:
    """Medians over the rounds, and of the ratios to the service with context=session within a round.

    The ratios are those of the processor time of a request: other processes on the machine change rates much more.
    """
    found = []
    for connections in CONNECTIONS:
        of = {
            name: [row for row in rows if (row["of"], row["connections"]) == (name, connections)]
            for name in dict.fromkeys(row["of"] for row in rows)
        }
        used = {name: [row["CPU per request, µs"] for row in own] for name, own in of.items()}
        for name, own in of.items():
            ratios = [base / one for one, base in zip(used[name], used["session"], strict=True)]
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            found.append(
                [
                    str(connections),
                    name,
                    f"{median(row['requests per second'] for row in own):,.0f}",
                    *(f"{median(row[value] for row in own):.1f}" for value in ("p50, ms", "p99, ms")),
                    f"{median(used[name]):.0f}",
                    *(f"{one:.2f}" for one in (low, middle, high)),
                ]
            )
    head = ["connections", "service", "requests per second", "p50, ms", "p99, ms", "CPU per request, µs"]
    return table([*head, "lower quartile", "requests of session, by CPU", "upper quartile"], found, "rlrrrrrrr")


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--rounds", type=int, default=sized(9, 1), help="in which each service has its turn")
    parser.add_argument("--seconds", type=int, default=sized(3, 1), help="of load in each")
    parser.add_argument("--before", type=Path, help="another checkout, whose services take their turns too")
    options = STUDY.parse(parser)
    check_wrk()
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="segue-profiles-") as name, ExitStack() as stack:
        world = make_world("world=published", *sized((), SMALL_WORLD))
        (session := Path(name, "session")).mkdir()
        write_model(world, session)
        requests = write_requests(world, session, NUM_LISTENERS)
        places = {"session": (session, "session", ROOT)}
        if options.before is not None:
            places["session, before"] = (session, "session", options.before)
        for num in NUM_PLAYS:
            folder = Path(name, f"listener-{num}")
            shutil.copytree(session, folder)
            vectors = SessionVectors.read(folder / FILE, world.catalog)
            weights = np.full(len(FEATURES), 0.01, np.float32)
            replace(vectors, context="listener", listener=weights).write(folder / FILE, world.catalog)
            write_profiles(world, folder, num)
            places[f"listener, {num} tracks"] = (folder, "listener", ROOT)
            if options.before is not None:
                places[f"listener, {num} tracks, before"] = (folder, "listener", options.before)
        services = {
            of: stack.enter_context(service(folder, context, checkout=checkout, run=Path(name, f"serve-{number}")))
            for number, (of, (folder, context, checkout)) in enumerate(places.items())
        }
        for number in range(options.rounds + 1):
            for connections in CONNECTIONS:
                for of, running in services.items():
                    load = {"seconds": options.seconds, "first_user": 0, "connections": connections}
                    values = drive(running, requests, **load)
                    if number:  # the first round warms up
                        rows.append({"of": of, "round": number, "connections": connections, **values})
    STUDY.write_record("profiles.json", {"rows": rows, "provenance": STUDY.provenance()})
    STUDY.write_table("profiles.md", report(rows))


if __name__ == "__main__":
    STUDY.run(main)
