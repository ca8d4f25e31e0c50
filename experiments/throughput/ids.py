"""How fast is /next if ids are texts: python experiments/throughput/ids.py [--rounds 7] [--seconds 4]

Loads services that have the same lists, of 50,000 tracks, under wrk (apt-get install wrk) at 64 connections. In one,
users and tracks are whole numbers; in the other, texts of 36 bytes. They answer the same requests in turns, in the
other order in each second round. Writes ids.json and ids.md into the folder of this file.
"""

import sys
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, sized
from experiments.throughput.serving import NUM_TRACKS, NUM_USERS, write_lists, write_requests
from experiments.throughput.sessions import PICKS, check_wrk, drive, service
from segue.catalog import Id
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
KINDS = ("whole numbers", "texts")
RATE, CPU = "requests per second", "CPU per request, µs"


def ids_of(kind: str, num: int) -> list[Id]:
    """Ids of a kind: whole numbers from 0, or UUIDs."""
    if kind == "texts":
        return [str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(num)]
    return list(range(num))


def report(runs: list[dict[str, Any]]) -> list[str]:
    """A row for each rule of picking and kind of ids: medians over the rounds, and of the ratios within a round."""
    rows = []
    for pick in PICKS:
        own = {kind: [run for run in runs if run["pick"] == pick and run["ids"] == kind] for kind in KINDS}
        for kind in KINDS:
            ratios = [one[RATE] / other[RATE] for one, other in zip(own[kind], own[KINDS[0]], strict=True)]
            shown = [f"{median(ratios):.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}", "0.90"]
            rate, cpu = (median(run[name] for run in own[kind]) for name in (RATE, CPU))
            rows.append([pick, kind, f"{rate:,.0f}", f"{cpu:.0f}", *(shown if kind == "texts" else [""] * 4)])
    return table(["pick", "ids", RATE, CPU, "of whole numbers", "least", "most", "target"], rows, "llrrrrrr")


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--rounds", type=int, default=sized(7, 1), help="in which each service has its turn")
    parser.add_argument("--seconds", type=int, default=sized(4, 1), help="of load in each")
    options = STUDY.parse(parser)
    check_wrk()
    runs = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="segue-ids-") as name, ExitStack() as stack:
        services = {}
        for kind in KINDS:
            folder, rng, tracks = Path(name, kind.split()[0]), np.random.default_rng(0), ids_of(kind, NUM_TRACKS)
            folder.mkdir()
            write_lists(folder, rng, tracks)
            requests = write_requests(folder, rng, ids_of(kind, NUM_USERS), tracks)
            for pick in PICKS:
                services[pick, kind] = stack.enter_context(service(folder, pick)), requests
        for number in range(options.rounds + 1):
            for pick in PICKS:
                for kind in KINDS[:: 1 if number % 2 else -1]:
                    running, requests = services[pick, kind]
                    values = drive(running, requests, seconds=options.seconds if number else 1, first_user=0)
                    if number:  # the first round warms up
                        runs.append({"round": number, "pick": pick, "ids": kind, **values})
    STUDY.write_record("ids.json", {"runs": runs, "provenance": STUDY.provenance()})
    STUDY.write_table("ids.md", report(runs))


if __name__ == "__main__":
    STUDY.run(main)
