"""Segue's session memory and rate limit against packages: python experiments/throughput/memory.py

Measures the cost of a call, what one worker sees of another, what is left after a worker is killed, and how many
clients are kept. Takes about a minute; prints the results and writes no file.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import cachetools
import diskcache
import limits
from limits.storage import MemoryStorage
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from experiments.studying import Study, sized
from segue.serving.limits import RateLimit
from segue.serving.session_memory import MappedSessions
from segue.serving.settings import SessionSettings

STUDY = Study(__file__, __doc__)
CAPACITY, MAX_TRACKS, IDLE_S = 32_768, 128, 1800
NUM_USERS, BURST = 10_000, 100
_FORK = multiprocessing.get_context("fork")

Play = Callable[[int, int], list[int]]
Take = Callable[[str], float]


def mapped(folder: Path) -> Play:
    memory = MappedSessions(
        folder / "sessions.bin", SessionSettings(capacity=CAPACITY, max_tracks=MAX_TRACKS, idle_s=IDLE_S)
    )

    def play(user: int, track: int) -> list[int]:
        call = memory.play(user, track, 1.0, time.time_ns() // 1_000_000)
        try:
            call.send(None)
        except StopIteration as answer:
            return list(answer.value.tracks)
        raise AssertionError("the call must not wait")

    return play


def on_disk(folder: Path) -> Play:
    cache: Any = diskcache.Cache(str(folder / "diskcache"), size_limit=CAPACITY * MAX_TRACKS * 8)

    def play(user: int, track: int) -> list[int]:
        with cache.transact():
            played = [*np.frombuffer(cache.get(user, b""), np.int64).tolist()[1 - MAX_TRACKS :], track]
            cache.set(user, np.array(played, np.int64).tobytes(), expire=IDLE_S)
        return played

    return play


def in_process(_: Path) -> Play:
    cache = cachetools.TTLCache[int, list[int]](CAPACITY, IDLE_S)

    def play(user: int, track: int) -> list[int]:
        played = [*cache.get(user, [])[1 - MAX_TRACKS :], track]
        cache[user] = played
        return played

    return play


MEMORIES = {"Segue, a mapped file": mapped, "diskcache": on_disk, "cachetools.TTLCache": in_process}


def ours() -> tuple[Take, Callable[[], int]]:
    limit = RateLimit(per_second=100, burst=BURST)
    return lambda client: limit.take(client, time.monotonic()), lambda: len(limit._buckets)


def with_limits(strategy: type[RateLimiter]) -> tuple[Take, Callable[[], int]]:
    storage = MemoryStorage()
    limiter, rate = strategy(storage), limits.RateLimitItemPerSecond(BURST, 1)

    def take(client: str) -> float:
        if limiter.hit(rate, client):
            return 0.0
        return max(0.0, float(limiter.get_window_stats(rate, client).reset_time) - time.time())

    return take, lambda: max(len(storage.storage), len(storage.events))


def with_lru() -> tuple[Take, Callable[[], int]]:
    """Segue's bucket in a cache that drops the least recently used client."""
    buckets = cachetools.LRUCache[str, tuple[float, float]](10_000)

    def take(client: str) -> float:
        now_s = time.monotonic()
        tokens, filled_s = buckets.get(client, (float(BURST), now_s))
        tokens = min(BURST, tokens + (now_s - filled_s) * 100)
        buckets[client] = (tokens - (tokens >= 1), now_s)
        return 0.0 if tokens >= 1 else (1 - tokens) / 100

    return take, lambda: len(buckets)


LIMITS: dict[str, Callable[[], tuple[Take, Callable[[], int]]]] = {
    "Segue, a token bucket": ours,
    "the same bucket in cachetools.LRUCache": with_lru,
    "limits, fixed window": lambda: with_limits(FixedWindowRateLimiter),
    "limits, moving window": lambda: with_limits(MovingWindowRateLimiter),
    "limits, sliding window counter": lambda: with_limits(SlidingWindowCounterRateLimiter),
}


def us_per_call(call: Callable[..., object], arguments: list[tuple[Any, ...]], rounds: int) -> str:
    """CPU time per call: median, smallest and largest of some rounds."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        for one in arguments:
            call(*one)
        spent.append((time.process_time() - start) / len(arguments) * 1e6)
    return f"{np.median(spent):.1f} µs of CPU per call ({min(spent):.1f}–{max(spent):.1f})"


def seen_by_another(make: Callable[[Path], Play], folder: Path, num_tracks: int) -> int:
    """Number of tracks of a session that a worker sees after another worker has written them."""
    worker = _FORK.Process(target=lambda: [make(folder)(1, track) for track in range(num_tracks)])
    worker.start()
    worker.join()
    return len(make(folder)(1, -1)) - 1


def kept_after_a_kill(make: Callable[[Path], Play], folder: Path) -> tuple[int, float]:
    """How many of ten tracks are left after a worker is killed while it writes, and seconds until the next answer."""
    next_worker, parent, child = make(folder), *_FORK.Pipe()

    def work() -> None:
        play = make(folder)
        for track in range(10):
            play(7, track)
        child.send("played")
        while True:
            play(8, 0)

    worker = _FORK.Process(target=work)
    worker.start()
    parent.recv()
    time.sleep(0.2)
    worker.kill()
    worker.join()
    start = time.perf_counter()
    return len(next_worker(7, 10)) - 1, time.perf_counter() - start


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--calls", type=int, default=sized(20_000, 100), help="calls in each round")
    parser.add_argument("--rounds", type=int, default=sized(5, 1), help="number of rounds")
    options = STUDY.parse(parser)
    print(", ".join(f"{name} {version(name)}" for name in ("cachetools", "diskcache", "limits")), "\n\nSession memory")
    for name, make in MEMORIES.items():
        with tempfile.TemporaryDirectory(prefix="segue-memory-") as folder:
            plays: list[tuple[Any, ...]] = [(number * 7919 % NUM_USERS, number) for number in range(options.calls)]
            cost = us_per_call(make(Path(folder)), plays, options.rounds)
        with tempfile.TemporaryDirectory(prefix="segue-memory-") as folder:
            seen = seen_by_another(make, Path(folder), 100)
        with tempfile.TemporaryDirectory(prefix="segue-memory-") as folder:
            kept, waited_s = kept_after_a_kill(make, Path(folder))
        print(
            f"  {name}: {cost}; another worker sees {seen} of 100 tracks; after a worker is killed, {kept} of 10 tracks"
        )
        print(f"    are left and the next answer takes {waited_s * 1e3:.1f} ms")
    print("\nRate limit")
    for name, make_limit in LIMITS.items():
        take, num_clients = make_limit()
        cost = us_per_call(take, [(f"10.0.0.{number % 200}",) for number in range(options.calls)], options.rounds)
        for number in range(50_000):
            take(f"client {number}")
        waits = [take("a burst at once") for _ in range(BURST + 1)]
        print(f"  {name}: {cost}; {num_clients():,} of 50,000 clients are kept;")
        print(f"    after a burst the next request waits {waits[-1]:.3f} s")


if __name__ == "__main__":
    STUDY.run(main)
