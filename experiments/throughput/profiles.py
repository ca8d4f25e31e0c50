"""How fast are context=listener, a counted part and a mixture: python experiments/throughput/profiles.py [--rounds 9]

Measures services of the same lists under wrk (apt-get install wrk), in turns: with context=session; with a counted part
and boosts of artists, and with the vectors of two runs side by side, as a mixture has them; and with context=listener
and a profile of each listener. 64 connections, and one for the time of an idle service. Writes profiles.json and
profiles.md into the folder of this file. With `--before <checkout>` the services of another checkout take their turns
too.
"""

import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SMALL_WORLD, Study, sized
from experiments.throughput.sessions import K, check_wrk, drive, served, write_model, write_requests
from experiments.throughput.stages.listeners import make_world
from segue.models.mixture import side_by_side
from segue.picking.listener_scores import FEATURES
from segue.reports.markdown import table
from segue.runs.counted_part import CountedPart
from segue.runs.profiles import DAY_MS, Profiles, entries_of_events
from segue.runs.profiles import FILE as PROFILES
from segue.runs.provenance import ROOT
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.simulation.world import World

STUDY = Study(__file__, __doc__)
NUM_LISTENERS, NUM_PLAYS = sized(12_000, 200), sized((100, 500), (100,))
"""Listeners with a profile, whose numbers are those of the sessions that are requested; and tracks of a profile."""
CONNECTIONS = (64, 1)


def counted_part(lists: np.ndarray) -> CountedPart:
    """Counts of a hundred neighbours of each track, half of which are in its list, for ten ages."""
    rng, num = np.random.default_rng(0), len(lists)
    others = (np.arange(num)[:, None] + rng.integers(1, num // K, (num, K)).cumsum(1)) % num
    shares = rng.random((num, lists.shape[1] + K), np.float32)
    return CountedPart(
        rows=np.concatenate([lists, others], 1).astype(np.int32),
        shares=shares / shares.sum(1, keepdims=True),
        age_weights=np.float32(0.8) ** np.arange(10, dtype=np.float32),
        strength=0.1,
    )


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
        vectors, lists = SessionVectors.read(session / FILE, world.catalog), session / "recommendations.jsonl"
        weights, boosts = np.full(len(FEATURES), 0.01, np.float32), np.repeat(0.3 / np.arange(1, 6), [1, 1, 3, 5, 10])
        counted = counted_part(Recommendations.read(lists, world.catalog).rows)
        both = side_by_side(dict.fromkeys(["one", "two"], vectors), {"one": 0.6, "two": 0.4})
        assert both is not None, "two alike"
        models = {
            "session": vectors,
            "session, counts and boosts": replace(vectors, counted=counted, artist_boosts=boosts.astype(np.float32)),
            "session, mixture of two": both,
            **{f"listener, {num} tracks": replace(vectors, context="listener", listener=weights) for num in NUM_PLAYS},
        }
        places = dict[str, tuple[Path, str, Path]]()
        for number, (of, model) in enumerate(models.items()):
            shutil.copytree(session, folder := Path(name, f"model-{number}"))
            model.write(folder / FILE, world.catalog)
            if model.listener is not None:
                write_profiles(world, folder, int(of.split()[1]))
            places[of] = folder, model.context, ROOT
            if options.before is not None:
                places[f"{of}, before"] = folder, model.context, options.before
        services = {
            of: stack.enter_context(
                served(folder, Path(name, f"serve-{number}"), "pick=ranked", f"context={context}", checkout=checkout)
            )
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
