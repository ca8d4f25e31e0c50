"""`simulate.py` as a user runs it: commands, files, errors, an interruption."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.running import PATIENCE_S, run_verb, started, wait_until
from tests.e2e.test_train import BARE, command, train

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


def test_a_service_that_does_not_run_ends_the_run_with_one_line(tmp_path: Path) -> None:
    done = simulate(tmp_path, *SMALL, "arms={C: 'http://127.0.0.1:9'}", "arm.service.retries=1", code=2)
    assert "GET http://127.0.0.1:9/track/0 failed 2 times" in done.stderr
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


def test_two_processes_on_an_empty_folder_simulate_the_same_logs_once_and_share_a_store(tmp_path: Path) -> None:
    import mlflow

    words = (
        *("world.num_tracks=300", "world.num_listeners=80", "datamodule.prepare.sessions=600", "model=popular"),
        *("callbacks.export.k=5", *BARE),
    )
    both = [
        subprocess.Popen(command(*words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name == "segue"]
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert runs[0].data.metrics["test/mrr"] == runs[1].data.metrics["test/mrr"]
    [folder] = [path for path in (tmp_path / "data" / "simulated").iterdir() if path.is_dir()]
    written = (folder / "logs" / "day-1" / "data.json").stat().st_mtime_ns
    train(tmp_path, *words, "logger=none")
    assert (folder / "logs" / "day-1" / "data.json").stat().st_mtime_ns == written
