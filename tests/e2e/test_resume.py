"""A run that was stopped goes on as if it had not been."""

import json
import os
import re
import shutil
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from tests.conftest import ROOT, event, write_lines
from tests.e2e.forks import fork_command, held_command
from tests.e2e.running import started
from tests.e2e.test_train import BARE, VOLATILE, metrics_of, quick, train

LONG = ("trainer.max_epochs=5", "callbacks.early_stopping.patience=3", *BARE)
HARD = (*LONG, "scheduler=plateau", "scheduler.patience=0", "model.alpha=learned", "context=gru4rec", "logger=mlflow")


def words(logs: Path, *more: str) -> list[str]:
    quick_words = ["trainer.accelerator=cpu", "model.dim=16", "optimizer.lr=0.05", "datamodule.batch_size=256"]
    return ["datamodule=botify", f"datamodule.path={logs}", *quick_words, *more]


def kill_after_epoch(cwd: Path, epoch: int, *overrides: str) -> None:
    """kill -9 of a run that has said that the epoch was over, and has done nothing since."""
    kill_at(cwd, f"epoch {epoch}/", *overrides)


def kill_at(cwd: Path, said_last: str, *overrides: str) -> None:
    """kill -9 of a run that has printed a line that begins so, and has done nothing since."""
    held = held_command({said_last: cwd / "never"}, "train.py", *overrides)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with started(held, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith(said_last):
                process.kill()
        assert process.wait() == -signal.SIGKILL, said


_LATER = """
import runpy, sys, time
from types import SimpleNamespace
from segue.datamodules.pairs import pair_rules
pair_rules.time = SimpleNamespace(time=lambda: time.time() + 2 * 86400)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def two_days_later(cwd: Path, verb: str, *overrides: str) -> str:
    """What a verb prints whose clock says that it is the day after tomorrow."""
    words = fork_command("-c", _LATER, str(ROOT / verb), *overrides)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(run: Path) -> dict[str, Any]:
    return {name: value for name, value in metrics_of(run).items() if name not in VOLATILE}


@pytest.fixture(scope="module")
def killed(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run, `whole`, and `killed`, the same one killed after its second epoch."""
    cwd = tmp_path_factory.mktemp("cwd")
    train(cwd, *words(ring_logs, *HARD, "hydra.run.dir=whole"))
    kill_after_epoch(cwd, 2, *words(ring_logs, *HARD, "hydra.run.dir=killed"))
    return cwd


def test_a_run_that_was_killed_ends_with_the_numbers_of_one_that_was_not(killed: Path) -> None:
    import mlflow

    begun = json.loads((killed / "killed" / "run.json").read_text())
    spy = f"+callbacks.kill={{_target_: tests.e2e.spy.KillInExport, mark: {killed}/mark}}"
    train(killed, "resume=killed", spy, "trust=tests", code=-signal.SIGKILL)  # again, in its export
    assert not (killed / "killed" / "recommendations.jsonl").exists()
    done = train(killed, "resume=killed", code=2)  # which trusts nobody now
    assert f"resume={killed}/killed: its settings build tests.e2e.spy.KillInExport" in " ".join(done.stderr.split())
    done = train(killed, "resume=killed", "trust=tests")
    assert "epoch 1/" not in done.stdout  # it did not begin anew
    assert numbers(killed / "killed") == numbers(killed / "whole")
    lists = [(killed / name / "recommendations.jsonl").read_bytes() for name in ("killed", "whole")]
    assert lists[0] == lists[1]
    cards = [
        (killed / name / "model_card.md").read_text().partition("## Intended use")[2] for name in ("killed", "whole")
    ]
    assert len({card.partition("## Command and versions")[0] for card in cards}) == 1
    assert all(card for card in cards)
    run_id = metrics_of(killed / "killed")["mlflow_run_id"]
    assert run_id == begun["mlflow_run_id"]
    client = mlflow.MlflowClient(f"sqlite:///{killed}/mlflow.db")
    assert client.get_run(run_id).info.status == "FINISHED"
    whole = metrics_of(killed / "whole")["mlflow_run_id"]
    best = numbers(killed / "whole")
    for metric in ("train/loss", "val/ndcg_at_10"):
        curves = [{one.step: one.value for one in client.get_metric_history(of, metric)} for of in (run_id, whole)]
        assert curves[0] == curves[1]
        assert len(curves[0]) >= 4
        assert best[metric] == pytest.approx(curves[0][best["epoch"]])


def test_a_run_is_found_by_its_id_and_trained_on(killed: Path) -> None:
    run_id = metrics_of(killed / "whole")["mlflow_run_id"]
    before = metrics_of(killed / "whole")["epochs"]
    more = f"trainer.max_epochs={before + 1}", "callbacks.early_stopping.patience=50"
    train(killed, f"resume=run:{run_id[:8]}", *more)
    after = metrics_of(killed / "whole")
    assert after["epochs"] == before + 1
    assert after["mlflow_run_id"] == run_id


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=true", "logger=none"], "logger=none has none; give resume=<run folder>"),
        (["resume=whole"], "another process is writing"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_a_line(killed: Path, overrides: list[str], message: str) -> None:
    with FileLock(killed / "whole" / ".lock"):
        done = train(killed, *overrides, code=2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.timing
def test_a_damaged_checkpoint_is_one_line_whose_remedy_works(ring_logs: Path, tmp_path: Path) -> None:
    kill_after_epoch(tmp_path, 2, *words(ring_logs, *LONG, "logger=none", "hydra.run.dir=run"))
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for damaged in (checkpoint.read_bytes()[:-1000], b""):
        checkpoint.write_bytes(damaged)
        done = train(tmp_path, "resume=run", code=2)
        said = " ".join(done.stderr.split())
        assert f"error: the checkpoint {checkpoint} cannot be read (" in said
        assert "delete it and resume the run, which then begins at its first epoch" in said
        assert "Traceback" not in said
    checkpoint.unlink()
    assert "epoch 1/1" in train(tmp_path, "resume=run", "trainer.max_epochs=1", "logger=none").stdout


def test_a_run_that_a_full_disk_has_stopped_is_resumed(ring_logs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(run), "-o"]
    if subprocess.run([*mount, "size=64k"], capture_output=True).returncode:
        pytest.skip("may not mount a small disk; root may")
    try:
        once = words(ring_logs, *LONG, "trainer.max_epochs=1", "logger=none", "hydra.run.dir=run")
        full = " ".join(train(tmp_path, *once, code=2).stderr.split())
        assert full.startswith(f"error: cannot use {run}/")
        assert f"No space left on device; make space there, then resume={run} continues the run" in full
        again = " ".join(train(tmp_path, *once, code=2).stderr.split())
        assert f"{run} holds a run already; resume={run} continues it if it was stopped" in again
        subprocess.run([*mount, "remount,size=64m"], check=True)
        train(tmp_path, f"resume={run}", "logger=none")
        assert (run / "recommendations.jsonl").is_file()
    finally:
        subprocess.run(["umount", str(run)], check=True)


def test_a_sweep_that_is_repeated_does_only_what_is_missing(ring_logs: Path, tmp_path: Path) -> None:
    import mlflow

    quiet = *BARE, "trainer.max_epochs=1", "resume=true"
    quick(tmp_path, ring_logs, "--multirun", "model=track", "hydra.sweep.dir=one", *quiet)
    first = {metrics_of(tmp_path / "one" / "0")["mlflow_run_id"]}
    two = "--multirun", "model=track,mean", "hydra.sweep.dir=two", *quiet
    done = quick(tmp_path, ring_logs, *two)
    assert done.stdout.count("done already, run") == 1
    assert [path.parent.name for path in (tmp_path / "two").glob("*/metrics.json")] == ["1"]
    done = quick(tmp_path, ring_logs, "model=track", *quiet)
    assert done.stdout.startswith("track α=1 seed=1: done already, run:")
    assert done.stdout.count("\n") == 1  # no tables
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("segue").experiment_id])
    parents = [run for run in runs if run.data.tags.get("segue.kind") == "sweep"]
    assert len(runs) == 2 + len(parents)
    newest = parents[0].info.run_id
    below = {run.info.run_id for run in runs if f"sweep.{newest}" in run.data.tags}
    assert first == below


def test_a_run_that_left_out_plays_of_the_future_has_the_day_and_is_resumed_with_it(
    ring_logs: Path, tmp_path: Path
) -> None:
    shutil.copytree(ring_logs, logs := tmp_path / "logs")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    lines = [event(1, round(tomorrow.timestamp() * 1000) + nth, 100 + nth) for nth in range(5)]
    write_lines(logs / "logs" / "later" / "data.json", lines)
    done = quick(tmp_path, logs, *BARE, "logger=none", "trainer.max_epochs=1", "hydra.run.dir=run")
    [line] = [line for line in done.stdout.splitlines() if "later than today" in line]
    [option] = re.findall(r"datamodule\.policies\.until=[\d-]+", line)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["datamodule"]["policies"]["until"] == option.partition("=")[2]
    assert json.loads((tmp_path / "run/run.json").read_text())["overrides"][-1] == option
    said = two_days_later(tmp_path, "train.py", "resume=run", "trainer.max_epochs=2", "logger=none")
    assert "epoch 2/2" in said
    assert "later than today" not in said
    assert "5 by until" in said
