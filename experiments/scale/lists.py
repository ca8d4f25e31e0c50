"""How much memory and time do the lists of a large catalogue need, from the vectors to a service?

    python experiments/scale/lists.py measure --folder <folder>    rows of lists.csv
    python experiments/scale/lists.py serve --folder <folder>      lists_served.csv
    python experiments/scale/lists.py report                       lists.md

The folder keeps the files of each size (23 GB for ten million tracks), and `serve` needs them. Cost: on one core about
three minutes for a million tracks, and half an hour for ten million, which need 15 GB of memory.
"""

import argparse
import asyncio
import contextlib
import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.scale.shards import watch, write_rows
from src.runs.atomic import write_record, write_whole
from src.runs.provenance import ROOT, provenance
from src.terminal.markdown import table

HERE = Path(__file__).parent
K, DIM, OF_A_CLUSTER = 50, 64, 200
CONNECTIONS, REQUESTS, ROUNDS = 32, 20_000, 5


def export(tracks: int, folder: Path) -> dict[str, float]:
    """Search for approximate lists of unit vectors in clusters, and write them as a run does; CPU time of each step."""
    import torch

    from src.callbacks.list_parts import ListParts
    from src.catalog import Catalog
    from src.models.retrieval.approximate import approximate_lists
    from src.recommendations import write_lists

    rng = np.random.default_rng(0)
    artists = [f"Artist {number}" for number in rng.integers(0, tracks // 4, tracks)]
    catalog = Catalog.from_columns(range(tracks), [f"Title {row}" for row in range(tracks)], artists, source="study")
    plays = rng.zipf(1.5, tracks).clip(max=10**6)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(-(-tracks // OF_A_CLUSTER), DIM, generator=generator)
    vectors = vectors[torch.randint(len(vectors), (tracks,), generator=generator)]
    vectors += 0.5 * torch.randn(tracks, DIM, generator=generator)
    vectors = torch.nn.functional.normalize(vectors)
    vectors_only = _status(os.getpid(), "RssAnon")
    clock, seconds = time.process_time(), {}
    parts = ListParts(folder / "lists", "study")
    search = approximate_lists(
        queries=vectors, items=vectors, query_rows=torch.arange(tracks), k=K, plays=plays, recall=0.95, plan=None
    )
    parts.keep_plan(search.plan)
    seconds["prepare"] = time.process_time() - clock
    parts.fill(search, lambda _: None)
    seconds["search"] = time.process_time() - clock - seconds["prepare"]
    lists = folder / "recommendations.jsonl"
    write_lists(lists, catalog, parts.in_order(), plays=plays, format="botify")
    seconds["write"] = time.process_time() - clock - sum(seconds.values())
    assert search.recall is not None
    return {**seconds, "recall": search.recall, "before": vectors_only}


def load(folder: Path) -> dict[str, float]:
    """Write the release that `serve.py load` makes of the lists."""
    from src.serving.prepared_release import prepare_release

    prepared = prepare_release(
        {"C": str(folder / "recommendations.jsonl")},
        experiment="study",
        pick="uniform",
        artist_gap=0,
        context="last",
        num_lists=1,
        max_tracks=100,
        tracks=None,
        world=lambda: None,
        locate=Path,
    )
    (folder / "release").mkdir(exist_ok=True)
    prepared.write(folder / "release", provenance={})
    return {}


def measure(sizes: list[int], folder: Path) -> None:
    """A row of lists.csv for each size and stage; each stage is a process of its own."""
    path = HERE / "lists.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(path.open())) if path.exists() else []
    for tracks in sizes:
        work = folder / str(tracks)
        work.mkdir(parents=True, exist_ok=True)
        for stage in ("export", "load"):
            if any((int(row["tracks"]), row["stage"]) == (tracks, stage) for row in rows):
                continue
            words = [str(Path(__file__)), stage, "--tracks", str(tracks), "--folder", str(work)]
            measured = {"tracks": tracks, "stage": stage, **watch(words, work)}
            measured |= json.loads((work / f"{stage}.json").read_text())
            rows.append({name: measured.get(name, "") for name in COLUMNS})
            print(measured, flush=True)
            write_rows(path, rows)
    write_record(provenance(), HERE / "lists_provenance.json")


COLUMNS = ("tracks", "stage", "seconds", "GB", "anonymous", "before", "prepare", "search", "write", "recall")


def serve(sizes: list[int], folder: Path) -> None:
    """CPU time of a request and memory of the worker, for each size in turns."""
    with contextlib.ExitStack() as stack:
        services = {tracks: stack.enter_context(_service(folder / str(tracks))) for tracks in sizes}
        rows = []
        for nth in range(-1, ROUNDS):
            for tracks, (port, process, ready) in services.items():
                before, clock = {child: _cpu(child) for child in _children(process)}, time.monotonic()
                asyncio.run(_send(port, np.random.default_rng([nth + 1, tracks]).integers(0, tracks, REQUESTS)))
                cpu, worker = max((_cpu(child) - was, child) for child, was in before.items())
                if nth < 0:  # the first reads of many pages
                    continue
                rows.append(
                    {
                        "tracks": tracks,
                        "round": nth,
                        "ready": round(ready, 2),
                        "us": round(1e6 * cpu / REQUESTS, 2),
                        "rate": round(REQUESTS / (time.monotonic() - clock)),
                        "GB": round(_status(worker, "VmRSS"), 3),
                        "anonymous": round(_status(worker, "RssAnon"), 3),
                    }
                )
                print(rows[-1], flush=True)
    write_rows(HERE / "lists_served.csv", rows)
    write_record(provenance(), HERE / "lists_provenance.json")


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


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(process: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1e6 if found else 0.0


def report() -> None:
    """The tables."""
    lines: list[str] = []
    if (HERE / "lists.csv").exists():
        head = ["tracks", "stage", "memory, GB", "without mapped files, GB", "recall"]
        rows = sorted(csv.DictReader((HERE / "lists.csv").open()), key=lambda row: int(row["tracks"]))
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
    if (HERE / "lists_served.csv").exists():
        served = list(csv.DictReader((HERE / "lists_served.csv").open()))
        head = ["tracks", "CPU of a request, µs", "lowest", "highest", "worker, GB", "without mapped files, GB"]
        body = []
        for tracks in sorted({int(row["tracks"]) for row in served}):
            own = {name: np.array([float(row[name]) for row in served if int(row["tracks"]) == tracks])
                   for name in ("us", "GB", "anonymous")}  # fmt: skip
            body.append(
                [
                    f"{tracks:,}",
                    *(f"{value:.1f}" for value in (np.median(own["us"]), own["us"].min(), own["us"].max())),
                    f"{own['GB'].max():.3f}",
                    f"{own['anonymous'].max():.3f}",
                ]
            )
        lines += [*table(head, body, "rrrrrr"), ""]
    write_whole(HERE / "lists.md", lambda partial: partial.write_text("\n".join(lines).rstrip() + "\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["measure", "serve", "report", "export", "load"])
    parser.add_argument("--tracks", type=int, nargs="+", default=[50_000, 1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.part in ("export", "load"):
        found = export(given.tracks[0], given.folder) if given.part == "export" else load(given.folder)
        write_record(found, given.folder / f"{given.part}.json")
        return
    if given.part != "report":
        {"measure": measure, "serve": serve}[given.part](given.tracks, given.folder)
    report()


if __name__ == "__main__":
    main()
