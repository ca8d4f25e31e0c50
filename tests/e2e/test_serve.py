"""`serve.py` as a process, with Redis and nginx as processes: its commands, and the failures it must survive."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from tests.conftest import ROOT, write_lines
from tests.e2e import running as processes
from tests.e2e.running import (
    PATIENCE_S,
    Crowd,
    Redis,
    Running,
    ask,
    binary,
    crowd,
    held_port,
    number_of,
    redis_server,
    serve,
    serving,
    starting,
    wait_until,
)

N = 60
KEYS = ["message", "timestamp", "user", "track", "time", "latency", "recommendation", "experiments"]


class Lists(NamedTuple):
    """Two recommendations files for one catalogue, without an answer in common, and a damaged file."""

    a: Path
    b: Path
    damaged: Path


STEPS = {"a": range(1, 6), "b": range(11, 16)}
"""Distance on the ring of tracks 100 … 159 from a track to the answers of a list."""


def write_lists(path: Path, steps: Mapping[int, Iterable[int]]) -> Path:
    tracks = ({"artist": f"Artist {row // 3}", "title": f"Title {row}", "track": 100 + row} for row in range(N))
    write_lines(
        path,
        (
            {**track, "recommendations": [100 + (row + step) % N for step in steps[row]]}
            for row, track in enumerate(tracks)
        ),
    )
    return path


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Lists:
    folder = tmp_path_factory.mktemp("lists")
    a, b = (write_lists(folder / f"{name}.jsonl", dict.fromkeys(range(N), steps)) for name, steps in STEPS.items())
    damaged = folder / "damaged.jsonl"
    damaged.write_bytes(a.read_bytes()[:-20])
    return Lists(a, b, damaged)


def came_from(traffic: Crowd) -> dict[int, str]:
    """Which list each answered request was answered from, by the request's number."""
    found = {}
    for asked in traffic.answered:
        if asked.answer is not None:
            step = (asked.answer - asked.track) % N
            found[asked.number] = next((name for name, steps in STEPS.items() if step in steps), f"none: {step}")
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, lists: Lists) -> Iterator[Running]:
    """A service for several tests."""
    words = f"recommendations={lists.a}", "limits.header_timeout_s=4", "limits.body_timeout_s=4"
    with serving(tmp_path_factory.mktemp("shared"), *words) as running:
        yield running


_BLOCKS = itertools.count(1)


@pytest.fixture
def users() -> int:
    """The first of a million users who are nobody's yet: a service may have had other tests, or this one before."""
    return next(_BLOCKS) * 1_000_000


# Endpoints, starting and stopping


def test_endpoints_and_log_lines_are_the_predecessors(service: Running, users: int) -> None:
    for path in ("/", "/track/107", "/health"):  # as load balancers ask
        head = service.ask("HEAD", path)
        assert (head.status, head.body) == (200, "")
        assert int(head.headers["content-length"]) > 0
    user, before_ms = users + 7, int(time.time() * 1000)
    answer = service.next(user, 107, 0.25)
    assert answer.status == 200
    assert answer.body == {"user": user, "track": answer.body["track"]}
    assert (answer.body["track"] - 107) % N in STEPS["a"]
    last = service.ask("POST", f"/last/{user}", {"track": answer.body["track"], "time": 1})
    assert (last.status, last.body) == (200, {"user": user})
    lines = [json.loads(line) for line in (service.run / "logs" / "worker-1" / "data.json").read_text().splitlines()]
    first, second = (line for line in lines if line["user"] == user)
    assert list(first) == [*KEYS, "propensity", "release"]
    assert list(second) == KEYS
    assert before_ms <= first["timestamp"] <= second["timestamp"] <= time.time() * 1000
    assert (first["track"], first["recommendation"], second["recommendation"]) == (107, answer.body["track"], None)


CLOSING = re.compile(
    r"^stopped      after [\d,.]+ s; requests answered: ([\d,]+) \(next ([\d,]+), last ([\d,]+), page ([\d,]+); "
    r"2xx ([\d,]+)(?:, 4xx ([\d,]+))?\); events logged: ([\d,]+); fallbacks: ([\d,]+); worker restarts: ([\d,]+)$",
    re.MULTILINE,
)


@pytest.mark.timing
def test_start_lines_and_closing_line(tmp_path: Path, lists: Lists) -> None:
    arms = f"arms={{C: random, T1: {{recommender: {lists.a}, pick: ranked, artist_gap: 3}}, T2: {lists.b}}}"
    with serving(tmp_path, arms, "experiment=LINES", "workers=2") as running:
        with crowd(running.port) as traffic:
            traffic.wait_for(300)
        for path, status in (("/", 200), ("/health", 200), ("/nowhere", 404)):
            assert running.ask("GET", path).status == status
        assert running.next(1, 4711).status == 404
        version = running.version()
        os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does, to all of them
        assert running.process.wait(PATIENCE_S) == 0
    assert traffic.failed == []
    lines = running.said().splitlines()
    assert lines[:7] == [
        "experiment   LINES",
        "arm C        random, policy=random",
        f"arm T1       {lists.a}, pick=ranked, artist_gap=3",
        f"arm T2       {lists.b}, pick=uniform, artist_gap=0",
        f"release      {version}, 60 tracks, in {running.run}/store",
        f"run folder   {running.run}",
        f"serving      http://127.0.0.1:{running.port} (2 workers), documentation: "
        f"http://127.0.0.1:{running.port}/docs",
    ]
    closing = CLOSING.search(running.said())
    assert closing is not None
    counts = [int((group or "0").replace(",", "")) for group in closing.groups()]
    asked = Counter(asked.call for asked in traffic.answered)
    num_answered = asked.total()
    assert counts[:4] == [num_answered + 5, asked["next"] + 1, asked["last"], 4]
    assert counts[4:] == [num_answered + 3, 2, len(running.lines()), 0, 0]
    assert len(running.lines()) == num_answered


@pytest.mark.timing
def test_sigterm_under_load_answers_what_is_in_flight_and_logs_every_answer(tmp_path: Path, lists: Lists) -> None:
    body = json.dumps({"track": 100, "time": 1.0}).encode()
    head = b"POST /next/999999 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(tmp_path, f"recommendations={lists.a}", "workers=2") as running, crowd(running.port) as traffic:
        traffic.wait_for(500)
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE_S) as slow:
            slow.sendall(head + body[:9])
            assert slow.recv(1000).startswith(b"HTTP/1.1 100")  # the request is in flight: its body is being read
            running.process.send_signal(signal.SIGTERM)
            wait_until(running.is_refusing, "a service that stops")
            slow.sendall(body[9:])
            assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        assert running.process.wait(PATIENCE_S) == 0, running.said()
        assert "is killed" not in running.said(), running.said()
        traffic.is_over = True
    assert traffic.statuses() == {}
    lines = running.lines()
    [slow_line] = [line for line in lines if line["user"] == 999999]
    traffic.check([line for line in lines if line is not slow_line])


def test_an_address_that_cannot_be_listened_at_is_one_line_and_leaves_no_files(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = {
            f"port={port}": f"cannot listen at 127.0.0.1:{port}",
            "host=no.such.host.invalid": "host must be an address",
        }
        for word, message in refused.items():
            done = serve(tmp_path, "recommendations=random", word, code=2)
            assert message in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timing
def test_sigterm_during_loading_leaves_no_files(tmp_path: Path) -> None:
    lists = tmp_path / "lists.jsonl"
    os.mkfifo(lists)
    words = f"recommendations={lists}"
    with held_port() as port, starting(tmp_path, words, f"port={port}", stderr=subprocess.PIPE) as process:
        unwritten = wait_until(lambda: os.open(lists, os.O_WRONLY | os.O_NONBLOCK), "the loader, which waits for lines")
        with pytest.raises(OSError, match="Address already in use"):  # its port is its own already
            socket.create_server(("127.0.0.1", port))
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)  # the loader, which has the same pipe, is gone as well
        os.close(unwritten)
    assert (process.returncode, said) == (130, b"interrupted\n")
    assert list(tmp_path.iterdir()) == [lists]


@pytest.mark.timing
def test_sigterm_during_loading_leaves_a_store_that_was_there(tmp_path: Path, lists: Lists) -> None:
    with serving(tmp_path, f"recommendations={lists.a}"):
        pass
    (tmp_path / "run" / "serve.json").unlink()
    index = tmp_path / "run" / "store" / "index.json"
    before = index.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a Redis that never says which release is current
        silent.settimeout(PATIENCE_S)
        url = f"store.url=redis://127.0.0.1:{silent.getsockname()[1]}"
        words = f"recommendations={lists.a}", "store=redis", url, f"store.timeout_s={PATIENCE_S}", "hydra.run.dir=run"
        with starting(tmp_path, *words, stderr=subprocess.PIPE) as process, silent.accept()[0]:
            process.terminate()
            _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (130, b"interrupted\n")
    assert index.read_bytes() == before


def test_an_invalid_token_is_one_line(tmp_path: Path) -> None:
    done = serve(tmp_path, "recommendations=random", "port=0", code=2, env={"SEGUE_TOKEN": "café"})
    assert done.stderr.startswith("error: SEGUE_TOKEN must be printable ASCII")


# Workers that die and disks that are full


def new_worker(running: Running, known: set[int]) -> int:
    """Process id of a worker that is not one of the known ones, as soon as there is one."""
    return int(wait_until(lambda: set(running.workers()) - known, "a new worker").pop())


@pytest.mark.timing
def test_a_worker_killed_three_times_under_load_does_not_end_the_service(tmp_path: Path, lists: Lists) -> None:
    """The other one answers all the time, and every answered request is in the log."""
    words = f"recommendations={lists.a}", "workers=2"
    with serving(tmp_path, *words) as running:
        steady, dying = running.workers()
        health = Counter[str]()
        with crowd(running.port) as traffic:
            for number in range(1, 4):
                os.kill(dying, signal.SIGKILL)
                traffic.wait_for(20)
                # until the supervisor, which a busy machine may delay, knows of it
                wait_until(lambda: running.said().count(" died by SIGKILL") == number, "the death")  # noqa: B023
                if number > 1:  # a single death is over once the worker is back
                    health[running.health()] += 1
                dying = new_worker(running, {steady, dying})
                wait_until(lambda: "segue_workers_alive 2.0" in running.ask("GET", "/metrics").body, "two workers")
            traffic.wait_for(100)
            assert steady in running.workers()
            (problem,) = running.ask("GET", "/health").body["problems"]
            assert re.fullmatch(r"worker-\d is restarted often: it died 3 times in a row, last by SIGKILL", problem)
            metrics = running.ask("GET", "/metrics").body
        restarts = re.findall(r'^segue_worker_restarts_total{worker="worker-(\d)"} (\d+)', metrics, re.M)
        assert sorted(int(float(count)) for _, count in restarts) == [0, 3]
        assert health == {"degraded": 2}
        assert traffic.statuses() == {}
        running.stop()  # with exit code 0
    print(f"{len(traffic.answered)} answered, {len(traffic.broken)} broken")
    traffic.check(running.lines())
    assert {path.parent.name for path in running.run.glob("logs/*/data.json")} == {"worker-1", "worker-2"}
    closing = CLOSING.search(running.said())
    assert closing is not None
    assert closing[9] == "3"
    num_logged = int(closing[7].replace(",", ""))  # a killed worker may have logged and not yet counted
    assert len(traffic.answered) <= num_logged <= len(running.lines())


def test_a_service_runs_where_the_listening_room_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("room", "__pycache__"))
    (copy / "serve.py").write_bytes((ROOT / "serve.py").read_bytes())
    (copy / "segue").symlink_to("src")
    monkeypatch.setattr(processes, "ROOT", copy)
    with serving(tmp_path, "recommendations=random", "world.num_tracks=100") as service:
        assert (service.ask("GET", "/room").status, service.ask("GET", "/docs").status) == (404, 200)
        assert (
            "there is no page at /room: segue.serving.room is not installed; room.enabled=false hides" in service.said()
        )


@pytest.mark.timing
def test_workers_stop_after_the_supervisor_was_killed(tmp_path: Path, lists: Lists) -> None:
    with serving(tmp_path, f"recommendations={lists.a}", "workers=2") as running:
        workers = running.workers()
        assert running.next(1).status == 200
        running.process.kill()
        running.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "no worker")
        assert len(running.lines()) == 1


@pytest.mark.timing
def test_a_worker_that_starts_beside_a_damaged_release_serves_the_one_before(tmp_path: Path, lists: Lists) -> None:
    with serving(tmp_path, f"recommendations={lists.a}") as running:
        before = running.version()
        serve(tmp_path, "load", f"store.folder={running.run}/store", f"recommendations={lists.b}")
        wait_until(lambda: running.version() != before, "the new version")
        (damaged,) = (running.run / "store" / running.version()).glob("lists_C.npy")
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        (worker,) = running.workers()
        os.kill(worker, signal.SIGKILL)
        running.wait_for_health("degraded")
        health = running.ask("GET", "/health").body
        assert health["version"] == before
        assert "lists_C.npy is damaged: it has changed since it was written" in health["problems"][0]
        assert running.next(1).status == 200


# New recommendations


@pytest.mark.timing
def test_a_reload_under_load_fails_no_request_and_mixes_no_lists(tmp_path: Path, lists: Lists) -> None:
    with serving(tmp_path, f"recommendations={lists.a}") as running:
        folder = f"store.folder={running.run}/store"
        a = running.version()
        with crowd(running.port) as traffic:
            traffic.wait_for(100)
            serve(tmp_path, "load", folder, f"recommendations={lists.b}")
            wait_until(lambda: running.version() != a, "the new version")
            to_b, b = traffic.num_asked, running.version()
            traffic.wait_for(300)
            done = serve(tmp_path, "load", folder, f"recommendations={lists.damaged}", code=2)
            assert f"{lists.damaged}, line {N} is damaged" in done.stderr
            assert (running.health(), running.version()) == ("ok", b)
            num_of_b = len(traffic.answered)
            assert f"version {a} is current" in serve(tmp_path, "rollback", folder).stdout
            running.wait_for_version(a)
            to_a = traffic.num_asked
            traffic.wait_for(300)
        assert traffic.failed == []
        source = came_from(traffic)
        assert set(source.values()) == {"a", "b"}
        of_b = [asked.number for asked in traffic.answered[:num_of_b] if asked.number >= to_b]
        assert {source[number] for number in of_b if number in source} == {"b"}
        assert {source[number] for number in source if number >= to_a} == {"a"}
        in_order = [source[asked.number] for asked in traffic.answered if asked.number in source]
        turns = [name for name, _ in itertools.groupby(in_order)]
        assert turns == ["a", "b", "a"] or len(turns) < 20  # answers of one moment arrive in any order
        traffic.check(running.lines())
        listed = serve(tmp_path, "versions", folder).stdout.split()
        assert listed == [a, "current", b]
        assert "no version before" in serve(tmp_path, "rollback", folder, code=2).stderr


# Bad clients


@pytest.mark.timing
def test_slow_clients_are_disconnected_and_delay_no_other_client(service: Running, users: int) -> None:
    head = b"POST /next/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n"
    with contextlib.ExitStack() as stack:
        traffic = stack.enter_context(crowd(service.port, first_user=users, pause_s=0.05))
        slow = []
        began = time.monotonic()
        for sent in [head] * 40 + [head + b"\r\n{"] * 10:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), PATIENCE_S))
            connection.sendall(sent)
            slow.append(connection)
        num_before = len(traffic.answered)
        answers = []
        for connection in slow:
            answer = b""
            while chunk := connection.recv(1000):  # until the connection is closed
                answer += chunk
            answers.append(answer)
            if len(answers) == 1:
                # in the four seconds of their limits; a service that waited for them would have answered eight at most
                assert len(traffic.answered) - num_before > 20
        # those of this service, and not the limit for headers that it has where none is given
        assert 2 < time.monotonic() - began < 20
    assert traffic.failed == []
    assert {answer[:12] for answer in answers[:40]} <= {b"", b"HTTP/1.1 408", b"HTTP/1.1 400"}
    assert {answer[:12] for answer in answers[40:]} == {b"HTTP/1.1 408"}
    assert all(b"longer than 4 s" in answer for answer in answers[40:])


def test_large_headers_and_bodies_are_refused(service: Running) -> None:
    assert service.ask("GET", "/", headers={"X": "x" * 20_000}).status == 431
    assert service.ask("POST", "/next/1", b" " * 5_000).status == 413
    assert service.health() == "ok"


def test_a_running_service_has_no_training_libraries_loaded(service: Running) -> None:
    for process in (service.process.pid, *service.workers()):
        libraries = Path(f"/proc/{process}/maps").read_text()
        assert "/numpy/" in libraries
        for name in ("torch", "pandas", "pyarrow", "scipy"):  # MLflow brings the last three
            assert f"/{name}/" not in libraries


@pytest.mark.timing
def test_memory_stays_flat_at_full_speed(service: Running, users: int) -> None:
    [worker] = service.workers()

    def resident_mb() -> float:
        return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    with crowd(service.port, first_user=users, pause_s=0) as traffic:
        traffic.wait_for(2_000)
        before = resident_mb()
        traffic.wait_for(6_000)
        grown_mb = resident_mb() - before
    print(f"{before:.0f} MB + {grown_mb:.1f} MB")
    assert traffic.failed == []
    assert grown_mb < 2


# Redis


class Replicas(NamedTuple):
    """Two services that share Redis, ranked."""

    cwd: Path
    server: Redis
    twins: Path
    one: Running
    two: Running

    @property
    def ports(self) -> tuple[int, int]:
        return self.one.port, self.two.port

    def load(self, *words: object, verb: str = "load", code: int = 0) -> subprocess.CompletedProcess[str]:
        return serve(self.cwd, verb, *self.server.words, *map(str, words), code=code)

    def lines(self, users: int) -> list[dict[str, Any]]:
        """Those of a million users."""
        lines = self.one.lines() + self.two.lines()
        return [line for line in lines if users <= line["user"] < users + 1_000_000]

    def wait_for_version(self, version: str) -> None:
        for replica in (self.one, self.two):
            replica.wait_for_version(version)


@contextlib.contextmanager
def replicated(cwd: Path, *words: str) -> Iterator[Replicas]:
    # what follows a track best is its twin, whose best is the first again: a replica that knows half repeats at once
    twins = write_lists(cwd / "twins.jsonl", {row: (1 - row % 2 * 2, 2, 3, 4, 5) for row in range(N)})
    with redis_server(cwd / "redis") as server:
        serve(cwd, "load", *server.words, f"recommendations={twins}", "pick=ranked")
        words = *server.words, *words
        with serving(cwd, *words, run="one") as one, serving(cwd, *words, run="two") as two:
            yield Replicas(cwd, server, twins, one, two)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Replicas that wait for Redis however busy the machine is."""
    with replicated(tmp_path_factory.mktemp("replicas"), f"store.timeout_s={PATIENCE_S}") as both:
        yield both


@pytest.mark.timing
def test_a_session_is_shared_by_replicas(replicas: Replicas, users: int) -> None:
    some = range(users, users + 20)
    for user in some:
        played = [100 + user % N]
        for step in range(30):
            replica = (replicas.one, replicas.two)[step % 2]
            answer = replica.next(user, played[-1])
            assert answer.status == 200
            played.append(answer.body["track"])
        assert len(set(played)) == len(played)
    assert (replicas.one.health(), replicas.two.health()) == ("ok", "ok")
    heard = {line["user"] for line in replicas.one.lines()} & {line["user"] for line in replicas.two.lines()}
    assert set(some) <= heard


@pytest.mark.timing
def test_a_damaged_piece_in_redis_is_refused_until_it_is_loaded_again(
    replicas: Replicas, users: int, tmp_path: Path
) -> None:
    served = replicas.one.version()
    first = 20 + users // 1_000_000 % 30  # of lists that these replicas have not had yet
    new = write_lists(tmp_path / "new.jsonl", dict.fromkeys(range(N), range(first, first + 5)))
    replicas.load(f"recommendations={new}", "store.name=stage")
    with redis.Redis(port=replicas.server.port) as client:
        index = json.loads(client.get("stage:index") or b"")
        for key in client.keys(f"stage:{index['current']}:*"):
            value = client.get(key)
            assert value is not None
            if b":lists_C:" in key:
                value = value[:-1] + bytes([value[-1] ^ 1])
            client.set(key.replace(b"stage:", b"segue:"), value)
        client.set("segue:index", json.dumps({**index, "versions": [served, index["current"]]}))
    for replica in (replicas.one, replicas.two):
        replica.wait_for_health("degraded")
        health = replica.ask("GET", "/health")
        assert (health.status, health.body["version"]) == (200, served)
        assert "damaged" in health.body["problems"][0]
        assert replica.next(users).status == 200
    replicas.load(f"recommendations={new}")
    replicas.wait_for_version(index["current"])
    replicas.load(verb="rollback")
    replicas.wait_for_version(served)
    replicas.one.wait_for_health("ok")
    replicas.two.wait_for_health("ok")


@pytest.mark.timing
def test_no_request_fails_while_redis_dies_and_returns_empty(tmp_path: Path, users: int) -> None:
    """Replicas do without Redis after a second, and ask it again after another one."""
    with replicated(tmp_path, "store.timeout_s=1") as replicas, crowd(*replicas.ports, first_user=users) as traffic:
        served = replicas.one.version()
        traffic.wait_for(200)
        replicas.server.stop()
        for replica in (replicas.one, replicas.two):
            replica.wait_for_health("degraded")
            assert "does not answer" in replica.ask("GET", "/health").body["problems"][0]
        traffic.wait_for(200)
        replicas.server.start()
        traffic.wait_for(200)
        wait_until(lambda: "holds no release" in str(replicas.one.ask("GET", "/health").body["problems"]), "empty")
        assert replicas.one.version() == served
        replicas.load(f"recommendations={replicas.twins}", "pick=ranked")
        replicas.one.wait_for_health("ok")
        replicas.two.wait_for_health("ok")
        traffic.wait_for(200)
        traffic.is_over = True
    assert traffic.failed == []
    traffic.check(replicas.lines(users))


@pytest.mark.timing
def test_many_requests_at_once_share_the_connections_to_redis(replicas: Replicas, users: int) -> None:
    with crowd(replicas.one.port, connections=300, first_user=users) as traffic:
        seen = Counter(replicas.one.health() for _ in range(20))
        traffic.wait_for(1000)
    assert seen == {"ok": 20}
    assert traffic.failed == []


@pytest.mark.timing
def test_redis_may_be_down_at_the_start_with_on_failure_embedded(tmp_path: Path, lists: Lists) -> None:
    with redis_server(tmp_path / "redis", is_up=False) as server:
        done = serve(tmp_path, *server.words, "port=0", code=2)
        assert f"Redis at redis://127.0.0.1:{server.port} does not answer" in done.stderr
        assert "store.on_failure=embedded" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        words = *server.words, "store.on_failure=embedded"
        with serving(tmp_path, *words, f"recommendations={lists.a}") as running:
            assert "warning: Redis at" in running.said()
            running.wait_for_health("degraded")
            assert (running.next(1).body["track"] - 100) % N in STEPS["a"]
            server.start()
            serve(tmp_path, "load", *server.words, f"recommendations={lists.b}")
            running.wait_for_health("ok")
            assert (running.next(1).body["track"] - 100) % N in STEPS["b"]


# nginx


@pytest.mark.timing
def test_nginx_skips_a_replica_that_was_killed(tmp_path: Path, lists: Lists) -> None:
    nginx = binary("nginx")
    with held_port() as port, redis_server(tmp_path / "redis") as server, contextlib.ExitStack() as stack:
        serve(tmp_path, "load", *server.words, f"recommendations={lists.a}", "pick=ranked")
        one, two = (stack.enter_context(serving(tmp_path, *server.words, run=run)) for run in ("one", "two"))
        config = (ROOT / "docs" / "nginx.conf").read_text()
        changes = {
            "127.0.0.1:5001": f"127.0.0.1:{one.port}",
            "127.0.0.1:5002": f"127.0.0.1:{two.port}",
            "listen 8080": f"listen 127.0.0.1:{port}",
            "/run/nginx.pid": f"{tmp_path}/nginx.pid",
            "/var/log/nginx/error.log": f"{tmp_path}/error.log",
            "http {": "http {\n" + "".join(
                f"    {kind}_temp_path {tmp_path}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
        }  # fmt: skip
        for old, new in changes.items():
            assert config.count(old) == 1 or old.startswith("127"), old
            config = config.replace(old, new)
        (tmp_path / "nginx.conf").write_text(config)
        words = [nginx, "-p", str(tmp_path), "-e", f"{tmp_path}/error.log", "-c", str(tmp_path / "nginx.conf")]
        front = subprocess.Popen([*words, "-g", "daemon off;"])
        try:
            wait_until(lambda: ask(port, "GET", "/health").body["status"] == "ok", "nginx")
            for path in ("/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics"):
                assert ask(port, "GET", path).status == 404
            large = ask(port, "POST", "/next/1", b" " * 5_000)
            assert (large.status, large.headers["content-type"]) == (413, "application/json")
            assert ask(port, "POST", "/next/1", {"track": 4711, "time": 1.0}).body["reason"].startswith("track 4711")
            with crowd(port, first_user=10) as traffic:
                traffic.wait_for(200)
                one.process.send_signal(signal.SIGSTOP)  # so that it starts no other worker
                for process in [*one.workers(), one.process.pid]:
                    os.kill(process, signal.SIGKILL)
                one.process.wait()
                traffic.wait_for(200)
                again = stack.enter_context(serving(tmp_path, *server.words, f"port={one.port}", run="again"))
                wait_until(lambda: again.num_whole_lines() > 20, "the replica is asked again")
        finally:
            front.send_signal(signal.SIGTERM)
            front.wait(PATIENCE_S)
        print(f"{len(traffic.answered)} answered, failed: {dict(traffic.statuses())}, broken: {len(traffic.broken)}")
        assert traffic.broken == []
        assert set(traffic.statuses()) <= {502}  # what was in flight at the replica that was killed
        assert len(traffic.refused) <= 8
        lines = [line for running in (one, two, again) for line in running.lines()]
        in_flight = {asked.number for asked, _, _ in traffic.refused}
        traffic.check([line for line in lines if number_of(line) not in in_flight])
        assert "Redis" not in two.said()
