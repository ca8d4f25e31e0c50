"""`trainer=ddp`: processes that train one run together."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from omegaconf import OmegaConf

from tests.conftest import ROOT, build_datamodule, new_store, write_lines
from tests.datamodules.sharding import read_shards, shards_of
from tests.e2e.forks import CHILDREN_TOO, fork_command, held_command
from tests.e2e.running import PATIENCE_S, held_port, started
from tests.e2e.test_resume import words
from tests.e2e.test_train import FILES, VOLATILE, metrics_of, train

pytestmark = pytest.mark.timing

RUN = (
    *("trainer.max_epochs=3", "callbacks.early_stopping=null", "model.dropout=0", "model.track_dropout=0"),
    *("callbacks.plots=null", "context=gru4rec", "logger=mlflow", "loss=bce"),
    "callbacks.epoch_checkpoint.every_s=0.01",
)


def kill_the_second_process(cwd: Path, *overrides: str) -> str:
    """kill -9 of the second process after two epochs; what the first one printed."""
    go = cwd / "go"
    held = held_command({"epoch 2/": go}, "train.py", *overrides)
    env = {**os.environ, **CHILDREN_TOO, "PYTHONPATH": str(ROOT)}
    with started(held, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("epoch 2/"):
                name = f"run_name={cwd.name}-two"
                [second] = [
                    one.pid
                    for one in psutil.process_iter(["cmdline"])
                    if name in (words := " ".join(one.info["cmdline"] or [])) and "segue-processes-" in words
                ]
                os.kill(second, signal.SIGKILL)
                go.touch()
        assert process.wait(PATIENCE_S) == 2, said
    return said


def test_two_processes_train_the_run_of_one_also_after_one_of_them_died(ring_logs: Path, tmp_path: Path) -> None:
    new_store(tmp_path)
    train(tmp_path, *words(ring_logs, *RUN, "hydra.run.dir=one"))
    two = words(ring_logs, *RUN, "trainer=ddp", "hydra.run.dir=two", f"run_name={tmp_path.name}-two")
    said = kill_the_second_process(tmp_path, *two)
    [line] = [line for line in said.splitlines() if "error" in line.lower() or "Traceback" in line]
    assert line.startswith("error: process 1 of 2 died (SIGKILL; a possible cause is too little memory)")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [run.info.status for run in client.search_runs(["1"])] == ["FAILED", "FINISHED"]

    done = train(tmp_path, "resume=two", FORKS_FORK_CHILDREN="1")
    assert "epoch 1/" not in done.stdout
    assert done.stdout.count("epoch 3/") == 1
    one, other = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert one.keys() == other.keys()
    for name in one.keys() - set(VOLATILE):
        assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    assert {path.name for path in (tmp_path / "two").iterdir() if path.is_file()} >= {*FILES, "refit.json"}
    exported = [np.load(tmp_path / name / "vectors.npz")["items"] for name in ("one", "two")]
    np.testing.assert_allclose(exported[1], exported[0], rtol=1e-3, atol=1e-5)  # refitted in both processes
    [run] = client.search_runs(["1"], filter_string=f"run_name = '{tmp_path.name}-two'")
    assert run.info.status == "FINISHED"
    curves = [
        [point.step for point in client.get_metric_history(metrics["mlflow_run_id"], "train/loss")]
        for metrics in (one, other)
    ]
    assert curves[0] == curves[1]
    assert not (tmp_path / "outputs").exists()

    shutil.copytree(ring_logs, tmp_path / "logs")
    lines = map(json.loads, (ring_logs / "logs" / "b" / "data.json").read_text().splitlines())
    later = [line | {"timestamp": line["timestamp"] + 86_400_000} for line in lines]
    write_lines(tmp_path / "logs" / "logs" / "c" / "data.json", later)
    done = train(tmp_path, "from=two", "datamodule.path=logs", "hydra.run.dir=night", FORKS_FORK_CHILDREN="1")
    assert "new          200 sessions, 1,600 plays, 0 tracks" in done.stdout
    assert json.loads((tmp_path / "night" / "refit.json").read_text())["sessions"] == 600
    devices = [OmegaConf.load(tmp_path / name / "config.yaml").trainer.devices for name in ("two", "night")]
    assert devices == [2, 1]


def test_two_processes_that_resume_in_the_middle_of_an_epoch_equal_two_that_never_stopped(
    ring_logs: Path, tmp_path: Path
) -> None:
    shards_of(build_datamodule(ring_logs, tmp_path), tmp_path / "shards")
    read_shards(tmp_path / "shards").setup()
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
    fits = fork_command("-m", "tests.e2e.two_fits", str(tmp_path / "shards"), str(tmp_path))
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with held_port() as port, ExitStack() as stack:
        environment["MASTER_PORT"] = str(port)
        both = [
            stack.enter_context(
                started(fits, cwd=ROOT, env={**environment, "RANK": rank, "LOCAL_RANK": rank}, **streams)
            )
            for rank in "01"
        ]
        said = [process.communicate(timeout=PATIENCE_S)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
