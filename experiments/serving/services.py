"""Services under load, for the studies of this folder: catalogues, services that run, wrk, and what processes cost.

N tracks in the catalogue, K candidates of a list. MB are 10⁶ bytes.
"""

import contextlib
import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from src.catalog import Catalog
from src.recommendations import Recommendations
from src.serving.release import Arm, write_release
from src.serving.server import free_port
from src.serving.store import FolderStore
from src.terminal.console import ROOT

HERE = Path(__file__).parent
K, NUM_USERS = 50, 10_000
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def catalogue(num_tracks: int) -> Catalog:
    titles = [f"Title {track}" for track in range(num_tracks)]
    artists = [f"Artist {track // 4}" for track in range(num_tracks)]
    return Catalog.from_columns(range(num_tracks), titles, artists, source="the study")


def random_lists(num_tracks: int, rng: np.random.Generator) -> Recommendations:
    """Distinct candidates all over the catalogue."""
    steps = rng.integers(1, num_tracks // K, (num_tracks, K)).cumsum(1)
    rows = (np.arange(num_tracks)[:, None] + steps) % num_tracks
    return Recommendations(rows=rows, scores=np.broadcast_to(np.float32(np.nan), rows.shape))


def load_release(store: FolderStore, catalog: Catalog, lists: Recommendations) -> str:
    """Make lists current in a store, as `serve.py load` does, but from memory; tell their version."""
    write = partial(
        write_release,
        experiment="SEGUE",
        arms={"C": Arm(recommender="random lists", policy="lists", pick="uniform")},
        catalog=catalog,
        top_tracks=np.empty(0, np.int64),
        lists={"C": lists},
        provenance={},
    )
    return store.load(write)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service that answers.

    Args:
        port: on 127.0.0.1.
        roots: processes that were started; they and what they have started make up the service.
        logs: folder with its event logs.
        ready_s: seconds from its start to its first answer.
        counts: whether it counts its answers itself, at `/metrics`.
    """

    port: int
    roots: tuple[int, ...]
    logs: Path
    ready_s: float
    counts: bool

    def get(self, path: str) -> bytes:
        """A page of it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read()

    def num_lines(self) -> int:
        """Lines in its logs, once nothing is written any more."""
        size, before = self._log_bytes(), -1
        while size != before:
            time.sleep(0.3)
            size, before = self._log_bytes(), size
        return sum(file.read_bytes().count(b"\n") for file in self._log_files())

    def num_answers(self) -> int | None:
        """Listeners' requests answered with 200, by its own count."""
        if not self.counts:
            return None
        lines = self.get("/metrics").decode().splitlines()
        wanted = [line for line in lines if line.startswith('segue_requests_total{endpoint="next",status="200"}')]
        return sum(int(float(line.split()[-1])) for line in wanted)

    def processes(self) -> list[int]:
        """Every process that it is made of."""
        return [pid for root in self.roots for pid in _tree(root)]

    def cpu_s(self) -> float:
        """Processor time that its processes have used so far."""
        return sum(map(_cpu_s, self.processes()))

    def worker(self) -> int:
        """The process that answers; of several, the one that has worked most."""
        return max(_tree(self.roots[0])[1:], key=_cpu_s)  # the first is who has started it

    def memory(self) -> dict[str, float]:
        """In MB: of the worker, and of all its processes, where pages in common count once."""
        worker = memory_mb(self.worker())
        everything = sum(memory_mb(pid)["Pss"] for pid in self.processes())
        return {
            "worker_rss_mb": worker["Rss"],
            "worker_pss_mb": worker["Pss"],
            "worker_anonymous_mb": worker["Anonymous"],
            "all_processes_pss_mb": everything,
        }

    def _log_files(self) -> list[Path]:
        return list(self.logs.rglob("data.json*"))

    def _log_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._log_files())


def _tree(pid: int) -> list[int]:
    found = [pid]
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [process for child in file.read_text().split() for process in _tree(int(child))]
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def memory_mb(pid: int) -> dict[str, float]:
    """`Rss`, `Pss`, `Anonymous` and so on of a process, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}


def busy_s() -> float:
    """Seconds of processor time that this machine has given to anybody."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * _TICK_S


def stop_in_order() -> None:
    """SIGTERM ends this process as Ctrl-C does: with everything that it has started."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def segue(folder: Path, *words: str) -> Iterator[Running]:
    """Our service, with these words for serve.py."""
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, "serve.py", f"port={port}", f"hydra.run.dir={folder}", *words]
    with process(command, folder.with_suffix(".out")) as started:
        ready_s = wait(port, "/health", started, folder.with_suffix(".out"))
        yield Running(port=port, roots=(started.pid,), logs=folder / "logs", ready_s=ready_s, counts=True)


@contextmanager
def redis(folder: Path, lists: Recommendations) -> Iterator[tuple[int, int]]:
    """A Redis with the rival's lists; its port and its process."""
    port = free_port("127.0.0.1", 0)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with process([*command, "--dir", str(folder)], folder / "redis.out") as started:
        client = Redis(port=port)
        for _ in range(500):
            with contextlib.suppress(Exception):
                client.ping()
                break
            time.sleep(0.02)
        pipeline = client.pipeline(transaction=False)
        for track, candidates in enumerate(lists.rows.tolist()):
            pipeline.set(f"recommendations:{track}", json.dumps(candidates))
        pipeline.execute()
        client.close()
        yield port, started.pid


@contextmanager
def rival(folder: Path, redis_port: int, redis_pid: int) -> Iterator[Running]:
    """What `rival.py` describes."""
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "--bind", f"127.0.0.1:{port}"]
    command += ["--pythonpath", str(HERE), f"rival:make_app({redis_port}, {str(folder)!r})"]
    out = folder.with_suffix(".out")
    with process(command, out) as started:
        ready_s = wait(port, "/health", started, out)
        yield Running(port=port, roots=(started.pid, redis_pid), logs=folder, ready_s=ready_s, counts=False)


@contextmanager
def process(command: Sequence[str], out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which ends with the block, whatever happens there."""
    with out.open("wb") as file:
        started = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield started
    finally:
        started.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def wait(port: int, path: str, started: subprocess.Popen[bytes], out: Path, limit_s: float = 180) -> float:
    """Seconds until a service that was just started is ready."""
    began = time.perf_counter()
    while time.perf_counter() - began < limit_s and started.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return time.perf_counter() - began
        time.sleep(0.01)
    raise RuntimeError(f"{started.args!r} does not answer:\n{out.read_text(errors='replace')[-2000:]}")


def wrk_command(port: int, *, connections: int, seconds: int, num_tracks: int, seed: int) -> list[str]:
    given = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "10", "-s", str(HERE / "bench.lua")]
    return [*given, f"http://127.0.0.1:{port}", "--", str(num_tracks), str(NUM_USERS), str(seed)]


def read_wrk(printed: str) -> dict[str, Any]:
    """What bench.lua has printed last."""
    given: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return given


def drive(service: Running, *, connections: int, seconds: int, num_tracks: int, seed: int) -> dict[str, Any]:
    """Load of wrk on a service; what it measured, what the service's processes cost, and what they logged."""
    command = wrk_command(service.port, connections=connections, seconds=seconds, num_tracks=num_tracks, seed=seed)
    lines, answers = service.num_lines(), service.num_answers()
    began, busy, spent = time.perf_counter(), busy_s(), service.cpu_s()
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    wall_s, spent, busy = time.perf_counter() - began, service.cpu_s() - spent, busy_s() - busy
    wrk = resource.getrusage(resource.RUSAGE_CHILDREN)
    wrk_s = wrk.ru_utime + wrk.ru_stime - own.ru_utime - own.ru_stime
    found = read_wrk(done.stdout)
    found["lines"] = service.num_lines() - lines
    after = service.num_answers()
    return {
        "connections": connections,
        "requests_per_second": found["answered"] / found["seconds"],
        **found,
        "answers_counted_by_service": None if after is None or answers is None else after - answers,
        "cpu_us_per_request": 1e6 * spent / max(found["answered"], 1),
        "cores_of_others": max(busy - spent - wrk_s, 0) / wall_s,
    }


def is_logged(run: dict[str, Any]) -> bool:
    """Whether each answer has a line, and nothing but requests has.

    wrk hangs up on up to one request a connection at its end: those are answered to nobody, and may have a line.
    """
    counted = run["answers_counted_by_service"]
    return run["answered"] <= run["lines"] <= run["sent"] and counted in (None, run["lines"])
