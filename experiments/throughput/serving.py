"""How many requests does a worker answer: python experiments/throughput/serving.py [--rounds 5] [--seconds 4]

Loads a service of 50,000 tracks with lists of 50 under wrk (apt-get install wrk), with one thread and in turns with 8
and 64 connections. Every answer must be in the event log. Writes serving.json and serving.md into the folder of this
file.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, sized
from experiments.throughput.sessions import check_wrk, drive, service
from segue.catalog import Catalog, Id
from segue.reports.markdown import table
from segue.runs.recommendations import Recommendations

STUDY = Study(__file__, __doc__)
NUM_TRACKS, NUM_USERS, NUM_REQUESTS = sized((50_000, 10_000, 200_000), (1_000, 100, 500))
K = sized(50, 10)
CONNECTIONS = (8, 64)


def write_lists(folder: Path, rng: np.random.Generator, tracks: Sequence[Id] = range(NUM_TRACKS)) -> None:
    """Lists of distinct candidates from the whole catalogue, in no order."""
    numbers = range(NUM_TRACKS)
    titles, artists = [f"Title {number}" for number in numbers], [f"Artist {number // 4}" for number in numbers]
    catalog = Catalog.from_columns(tracks, titles, artists, source="the study")
    steps = rng.integers(1, NUM_TRACKS // K, (NUM_TRACKS, K)).cumsum(1)
    rows = (np.arange(NUM_TRACKS)[:, None] + steps) % NUM_TRACKS
    lists = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32))
    lists.write(folder / "recommendations.jsonl", catalog, format="botify")


def write_requests(
    folder: Path,
    rng: np.random.Generator,
    users: Sequence[Id] = range(NUM_USERS),
    tracks: Sequence[Id] = range(NUM_TRACKS),
) -> Path:
    """Requests of any user after any track, in the form of sessions.lua."""
    columns = rng.integers(NUM_USERS, size=NUM_REQUESTS), rng.integers(NUM_TRACKS, size=NUM_REQUESTS)
    shares = rng.random(NUM_REQUESTS)
    file = folder / "requests.txt"
    file.write_text(
        "".join(
            f"{users[user]} {json.dumps(tracks[track])} {share:.2f}\n"
            for user, track, share in zip(*columns, shares, strict=True)
        )
    )
    return file


def report(runs: list[dict[str, Any]]) -> list[str]:
    """A row for each number of connections: medians over the rounds, with the least and the most."""
    rows = []
    for connections in CONNECTIONS:
        own = {name: [run[name] for run in runs if run["connections"] == connections] for name in runs[0]}
        rate, p99 = own["requests per second"], own["p99, ms"]
        rows.append(
            [
                str(connections),
                *(f"{choose(rate):,.0f}" for choose in (median, min, max)),
                f"{median(own['p50, ms']):.1f}",
                *(f"{choose(p99):.1f}" for choose in (median, min, max)),
                f"{median(own['CPU per request, µs']):.0f}",
            ]
        )
    head = ["connections", "requests per second", "least", "most", "p50, ms", "p99, ms", "least p99", "most p99"]
    return table([*head, "CPU per request, µs"], rows, "r" * 9)


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument(
        "--rounds", type=int, default=sized(5, 1), help="in which each number of connections has its turn"
    )
    parser.add_argument("--seconds", type=int, default=sized(4, 1), help="of load in each")
    options = STUDY.parse(parser)
    check_wrk()
    rng, runs = np.random.default_rng(0), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as name:
        folder = Path(name)
        write_lists(folder, rng)
        requests = write_requests(folder, rng)
        with service(folder, "uniform") as running:
            drive(running, requests, seconds=1, first_user=0)  # warms up
            for number in range(options.rounds):
                for connections in CONNECTIONS:
                    load = {"seconds": options.seconds, "first_user": 0, "connections": connections}
                    runs.append({"round": number, "connections": connections, **drive(running, requests, **load)})
    STUDY.write_record("serving.json", {"runs": runs, "provenance": STUDY.provenance()})
    STUDY.write_table("serving.md", report(runs))


if __name__ == "__main__":
    STUDY.run(main)
