"""`simulate.py` as a user runs it: commands, files, errors, a service, an interruption."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e.forks import fork_command
from tests.e2e.running import PATIENCE_S, PATIENT, run_verb, started, wait_until
from tests.e2e.test_train import BARE, command, train
from tests.simulation.test_catalogue_world import catalog_of, write_run

SMALL = ("world.num_tracks=300", "world.num_listeners=80", "sessions=200")

simulate = partial(run_verb, "simulate.py")


def test_the_default_run_writes_logs_and_a_record_and_prints_the_next_commands(tmp_path: Path) -> None:
    done = simulate(tmp_path, *SMALL)
    [run] = (tmp_path / "outputs" / "simulate").iterdir()
    record = json.loads((run / "simulation.json").read_text())
    assert list(record["arms"]) == ["C", "T1", "T2"]
    for arm in record["arms"].values():
        assert {"sessions", "steps", "mean_time_per_session", "mean_tracks_per_session"} <= set(arm)
    assert record["steps_per_second"] > 0
    assert {"command", "git_commit", "numpy"} <= set(record["provenance"])
    lines = (run / "logs" / "day-1" / "data.json").read_text().splitlines()
    assert len(lines) == sum(arm["steps"] + arm["sessions"] for arm in record["arms"].values())
    assert str(run) in done.stdout
    printed = done.stdout.splitlines()
    assert f"next         python abtest.py logs={run}" in printed
    assert f"next         python train.py datamodule=botify datamodule.path={run}" in printed
    assert "time per session: sum of the shares played; 1 is one track played in full." in done.stdout
    assert "brackets: 95 % interval" in done.stdout
    assert "fallbacks (no track to recommend, a random one was played): T1" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_model_trained_on_simulated_logs_can_be_simulated_on_the_next_day(tmp_path: Path) -> None:
    """Listeners → logs → model → recommendations → the same listeners on the next day."""
    simulate(tmp_path, *SMALL, "sessions=1000", "hydra.run.dir=monday")
    train(
        tmp_path, "datamodule=botify", "datamodule.path=monday", "trainer.max_epochs=2", "callbacks.export.k=10",
        "hydra.run.dir=night", *BARE,
    )  # fmt: skip
    run_id = json.loads((tmp_path / "night" / "metrics.json").read_text())["mlflow_run_id"]
    lists = "night/recommendations.jsonl"
    done = simulate(
        tmp_path, *SMALL, f"arms={{C: run:{run_id}, T1: {lists}, T2: {{recommender: {lists}, pick: ranked}}}}",
        "after=monday", "experiment=TUESDAY", "hydra.run.dir=tuesday",
    )  # fmt: skip
    assert f"next         python abtest.py logs={tmp_path / 'tuesday'} experiment=TUESDAY" in done.stdout.splitlines()
    lines = (tmp_path / "tuesday" / "logs" / "day-2" / "data.json").read_text().splitlines()
    assert {json.loads(line)["experiments"]["TUESDAY"] for line in lines} == {"C", "T1", "T2"}
    assert (tmp_path / "tuesday" / "logs" / "day-1" / "data.json").samefile(
        tmp_path / "monday" / "logs" / "day-1" / "data.json"
    )


def test_listeners_of_the_tracks_of_a_run_have_the_ids_of_the_app(tmp_path: Path) -> None:
    catalog = catalog_of(120)
    model, other = (write_run(tmp_path / name, catalog, gap=gap) for name, gap in (("A", 1), ("B", 2)))
    words = ("world=catalogue", f"world.tracks={model}", "world.num_listeners=60", "sessions=100")
    done = simulate(tmp_path, *words, f"arms={{C: popular, T1: {other}}}", "hydra.run.dir=run")
    assert f"warning: listeners of this world have the tastes of {model}: it shows whether ids" in done.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "logs" / "day-1" / "data.json").read_text().splitlines()]
    assert {event["track"] for event in events} < set(catalog.track_ids)
    assert {event["recommendation"] for event in events} < {None, *catalog.track_ids}
    refused = simulate(tmp_path, *words, f"arms={{C: popular, T1: {model}}}", code=2)
    assert refused.stderr.count("\n") == 1
    assert f"arms.T1: {model} is the run whose vectors are the tastes of the listeners of this world" in refused.stderr


class Botify(BaseHTTPRequestHandler):
    """The endpoints of the service; recommends the track after the last."""

    protocol_version = "HTTP/1.1"
    calls: list[tuple[str, str, Any]] = []  # noqa: RUF012 - a server makes a new handler for each connection
    answer: Any = None
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        _, call, user = self.path.split("/")
        self.calls.append((call, user, body))
        answer = {"user": int(user)}
        if call == "next":
            answer["track"] = (body["track"] + 1) % 300
        content = json.dumps(answer if type(self).answer is None else type(self).answer).encode()
        self.send_response(type(self).status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        """The record of a track; nothing else is there."""
        _, call, *of = self.path.split("/")
        is_known = call == "track" and int(of[0]) < 300
        content = json.dumps({"track": int(of[0])} if is_known else {"reason": "not here"}).encode()
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def botify() -> Iterator[str]:
    Botify.calls, Botify.answer, Botify.status = [], None, 200
    server = ThreadingHTTPServer(("127.0.0.1", 0), Botify)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.timing
def test_a_running_service_receives_every_request_and_every_end_of_a_session(botify: str, tmp_path: Path) -> None:
    simulate(tmp_path, *SMALL, PATIENT, "sessions=60", f"arms={{C: {botify}}}", "hydra.run.dir=run")
    events = [json.loads(line) for line in (tmp_path / "run" / "logs" / "day-1" / "data.json").read_text().splitlines()]
    calls = sorted((call, user, body["track"], body["time"]) for call, user, body in Botify.calls)
    assert calls == sorted((e["message"], str(e["user"]), e["track"], e["time"]) for e in events)
    open_sessions = set()
    for call, user, body in Botify.calls:  # no listener is in two sessions at once
        if body["time"] == 1.0 and user not in open_sessions:
            open_sessions.add(user)
        assert user in open_sessions
        if call == "last":
            open_sessions.remove(user)


def test_a_failing_service_ends_the_run_with_one_line(botify: str, tmp_path: Path) -> None:
    Botify.answer, Botify.status = {"reason": "down"}, 500
    done = simulate(
        tmp_path, *SMALL, PATIENT, f"arms={{C: random, T1: {botify}}}", "arm.service.retries=1", "sessions=100",
        "hydra.run.dir=run", code=2,
    )  # fmt: skip
    assert "failed 2 times, last with status 500" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert json.loads((tmp_path / "run" / "simulation.json").read_text())["arms"]["C"]["sessions"] > 0


def test_a_service_that_does_not_run_ends_the_run_with_one_line(tmp_path: Path) -> None:
    done = simulate(tmp_path, *SMALL, "arms={C: 'http://127.0.0.1:9'}", "arm.service.retries=0", code=2)
    assert "GET http://127.0.0.1:9/experiments failed 1 times" in done.stderr
    assert "check that the service of this world runs" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["after=nowhere"], "after=nowhere: cannot read nowhere/simulation.json"),
        (["world=files", "world.path=nowhere"], "cannot read nowhere/tracks.json"),
        (["sesions=5"], "did you mean sessions?"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_leaves_no_file(tmp_path: Path, words: list[str], message: str) -> None:
    done = simulate(tmp_path, *words, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_existing_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tracks.json").write_text("mine")
    done = simulate(tmp_path, *SMALL, "hydra.run.dir=mine", code=2)
    assert "mine already has tracks.json; choose another folder with hydra.run.dir=" in done.stderr
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]


@pytest.mark.timing
def test_of_two_processes_with_one_folder_one_is_rejected(tmp_path: Path) -> None:
    words = fork_command(str(ROOT / "simulate.py"), *SMALL, "sessions=1000", "hydra.run.dir=run")
    both = [
        subprocess.Popen(
            [*words, f"seed={seed}"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for seed in (1, 2)
    ]
    errors = [process.communicate(timeout=PATIENCE_S)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    record = json.loads((tmp_path / "run" / "simulation.json").read_text())
    lines = (tmp_path / "run" / "logs" / "day-1" / "data.json").read_text().splitlines()
    assert len(lines) == sum(arm["steps"] + arm["sessions"] for arm in record["arms"].values())


@pytest.mark.timing
def test_ctrl_c_keeps_completed_sessions(tmp_path: Path) -> None:
    endless = "sessions=2000", "days=1000", "workers=2", "hydra.run.dir=run"
    words = [sys.executable, str(ROOT / "simulate.py"), *SMALL[:2], *endless]
    with started(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until((tmp_path / "run" / "logs" / "day-2" / "data.json").exists, "the second day")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert stderr.strip() == "interrupted"
    record = json.loads((tmp_path / "run" / "simulation.json").read_text())
    assert record["complete"] is False
    assert len(record["days"]) >= 2
    num_lasts = sum(path.read_text().count('"message": "last"') for path in tmp_path.glob("run/logs/*/data.json"))
    assert sum(arm["sessions"] for arm in record["arms"].values()) == num_lasts > 0


def test_two_processes_simulate_the_same_logs_once(tmp_path: Path) -> None:
    words = (
        "world.num_tracks=300", "world.num_listeners=80", "datamodule.prepare.sessions=600", "model=popular",
        "callbacks.export.k=5", "callbacks.plots=null", "logger=none",
    )  # fmt: skip
    both = [
        subprocess.Popen(command(*words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()
    [folder] = [path for path in (tmp_path / "data" / "simulated").iterdir() if path.is_dir()]
    written = (folder / "logs" / "day-1" / "data.json").stat().st_mtime_ns
    train(tmp_path, *words)
    assert (folder / "logs" / "day-1" / "data.json").stat().st_mtime_ns == written
