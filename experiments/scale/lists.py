"""How much memory and time do the lists of a large catalogue need, from the vectors to a service?

    python experiments/scale/lists.py measure --folder <folder>    rows of lists.csv
    python experiments/scale/lists.py serve --folder <folder>      lists_served.csv
    python experiments/scale/lists.py report                       lists.md

The folder keeps the files of each size (23 GB for ten million tracks), and `serve` needs them. Cost: on one core about
three minutes for a million tracks, and half an hour for ten million, which need 15 GB of memory.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import children_of, cpu_s, memory_gb
from experiments.scale.shards import watch
from experiments.studying import Study, append_rows, read_rows, run_python, sized
from segue.reports.markdown import table
from segue.runs.provenance import ROOT

STUDY = Study(__file__, __doc__)
LISTS, SERVED = STUDY.folder / "lists.csv", STUDY.folder / "lists_served.csv"
CONNECTIONS, REQUESTS, ROUNDS = sized((32, 20_000, 5), (4, 100, 1))


def measure(sizes: list[int], folder: Path) -> None:
    """A row of lists.csv for each size and stage; each stage is a process of its own."""
    for tracks in sizes:
        work = folder / str(tracks)
        work.mkdir(parents=True, exist_ok=True)
        for stage in ("export", "load"):
            if any((int(row["tracks"]), row["stage"]) == (tracks, stage) for row in read_rows(LISTS)):
                continue
            words = ["experiments/scale/list_stages.py", stage, str(tracks), str(work)]
            measured = {"tracks": tracks, "stage": stage, **watch(partial(run_python, words))}
            measured |= json.loads((work / f"{stage}.json").read_text())
            append_rows(LISTS, [{name: measured.get(name, "") for name in COLUMNS}])
            print(measured, flush=True)
    STUDY.write_provenance("lists_provenance.json")


COLUMNS = ("tracks", "stage", "seconds", "GB", "anonymous", "before", "prepare", "search", "write", "recall")


def serve(sizes: list[int], folder: Path) -> None:
    """CPU time of a request and memory of the worker, for each size in turns."""
    with contextlib.ExitStack() as stack:
        services = {tracks: stack.enter_context(_service(folder / str(tracks))) for tracks in sizes}
        rows = []
        for nth in range(-1, ROUNDS):
            for tracks, (port, process, ready) in services.items():
                before, clock = {child: cpu_s(child) for child in children_of(process)}, time.monotonic()
                asyncio.run(_send(port, np.random.default_rng([nth + 1, tracks]).integers(0, tracks, REQUESTS)))
                cpu, worker = max((cpu_s(child) - was, child) for child, was in before.items())
                if nth < 0:  # the first reads of many pages
                    continue
                rows.append(
                    {
                        "tracks": tracks,
                        "round": nth,
                        "ready": round(ready, 2),
                        "us": round(1e6 * cpu / REQUESTS, 2),
                        "rate": round(REQUESTS / (time.monotonic() - clock)),
                        "GB": round(memory_gb(worker, "VmRSS"), 3),
                        "anonymous": round(memory_gb(worker, "RssAnon"), 3),
                    }
                )
                print(rows[-1], flush=True)
    SERVED.unlink(missing_ok=True)
    append_rows(SERVED, rows)
    STUDY.write_provenance("lists_provenance.json")


@contextlib.contextmanager
def _service(work: Path) -> Iterator[tuple[int, int, float]]:
    """Port and supervisor of a service, and the seconds until it answered. A second start has its release already."""
    store = work / "store"
    words = [sys.executable, str(ROOT / "serve.py"), "port=0", "workers=1", f"store.folder={store}"]
    words += [f"hydra.run.dir={work / f'served-{time.time_ns()}'}"]
    words += [] if store.exists() else [f"recommendations={work / 'recommendations.jsonl'}"]
    began = time.monotonic()
    process = subprocess.Popen(words, cwd=work, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = next(found for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
        ready = time.monotonic() - began
        yield int(address[1]), process.pid, ready
    finally:
        process.terminate()
        process.wait()


async def _send(port: int, tracks: np.ndarray) -> None:
    async def client(own: np.ndarray) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for track in own.tolist():
            body = b'{"track": %d, "time": 0.5}' % track
            head = b"POST /next/%d HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % (track % 1000, len(body)) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            assert length is not None
            await reader.readexactly(int(length[1]))
        writer.close()

    await asyncio.gather(*(client(own) for own in np.array_split(tracks, CONNECTIONS)))


def report() -> None:
    """The tables."""
    lines: list[str] = []
    if measured := read_rows(LISTS):
        head = ["tracks", "stage", "memory, GB", "without mapped files, GB", "recall"]
        rows = sorted(measured, key=lambda row: int(row["tracks"]))
        names = ("stage", "GB", "anonymous")
        body = [
            [
                f"{int(row['tracks']):,}",
                *(row[name] for name in names),
                row["recall"] and f"{float(row['recall']):.3f}",
            ]
            for row in rows
        ]
        lines += [*table(head, body, "rlrrr"), ""]
        stages = [
            [f"{int(row['tracks']):,}", name, f"{float(row[name]):.0f}"]
            for row in rows
            for name in ("prepare", "search", "write")
            if row[name]
        ]
        lines += [*table(["tracks", "step of the export", "CPU, s"], stages, "rlr"), ""]
    if SERVED.exists():
        head = ["tracks", "CPU of a request, µs", "lowest", "highest", "worker, GB", "without mapped files, GB"]
        body = []
        for tracks, own in pd.read_csv(SERVED).groupby("tracks"):
            times = (f"{value:.1f}" for value in (own.us.median(), own.us.min(), own.us.max()))
            body.append([f"{tracks:,}", *times, *(f"{own[name].max():.3f}" for name in ("GB", "anonymous"))])
        lines += [*table(head, body, "rrrrrr"), ""]
    STUDY.write_table("lists.md", lines)


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("parts", nargs="*", metavar="part", help="measure, serve or report; without it the first two")
    parser.add_argument("--tracks", type=int, nargs="+", default=sized([50_000, 1_000_000, 10_000_000], [2_000]))
    parser.add_argument("--folder", type=Path, default=STUDY.work / "lists", help="keeps the files of each size")
    given = STUDY.parse(parser)
    parts = given.parts or ["measure", "serve"]
    if unknown := {*parts} - {"measure", "serve", "report"}:
        parser.error(f"part must be measure, serve or report, got {', '.join(sorted(unknown))}")
    if "measure" in parts:
        measure(given.tracks, given.folder.absolute())
    if "serve" in parts:
        serve(given.tracks, given.folder.absolute())
    report()


if __name__ == "__main__":
    STUDY.run(main)
