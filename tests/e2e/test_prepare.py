"""Every command of docs/scaling.md that prepares shards or trains from them runs, in its order; what cannot is said."""

import json
import shlex
from pathlib import Path

import pytest
from filelock import FileLock

from src.datamodules.spark_engine import check_spark
from src.errors import InputError
from tests.e2e.running import run_verb
from tests.e2e.test_readme import commands
from tests.e2e.test_train import metrics_of, train

LINES = [line for line in commands("docs/scaling.md") if "prepare.py" in line or "datamodule=shards" in line]
QUICK = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none", "callbacks.plots=null", "hydra.run.dir=run")


def test_the_page_has_both_commands() -> None:
    assert {shlex.split(line)[1] for line in LINES} == {"prepare.py", "train.py"}


@pytest.fixture(scope="module")
def shards(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the commands for DuckDB have run."""
    cwd = tmp_path_factory.mktemp("scaling")
    for line in LINES:
        words = [word.replace("<folder>", str(ring_logs)) for word in shlex.split(line)[2:]]
        if "train.py" in line:
            train(cwd, *words, *QUICK)
        elif "engine=spark" not in line:
            done = run_verb("prepare.py", cwd, *words)
            assert f"next         python train.py datamodule=shards datamodule.path={cwd / 'shards'}" in done.stdout
    return cwd


def test_the_commands_of_the_page_run(shards: Path) -> None:
    assert json.loads((shards / "shards" / "manifest.json").read_text())["recipe"] == "shares"
    assert metrics_of(shards / "run")["test/ndcg_at_10"] > 0


def test_what_cannot_be_prepared_or_trained_is_said_in_a_line(shards: Path, ring_logs: Path) -> None:
    source = ("datamodule=botify", f"datamodule.path={ring_logs}")
    of_shards = ("datamodule=shards", "datamodule.path=shards")
    (shards / "busy").mkdir()
    refused = {
        ("prepare.py", *source, "hydra.run.dir=shards"): "shards holds a run already; choose another folder",
        ("prepare.py", *source, "hydra.run.dir=busy"): "busy holds a run already, which another process is writing",
        ("prepare.py", *of_shards): "datamodule=shards has pairs already",
        ("train.py", *of_shards, "recipe=playlists"): "recipe=playlists is not the recipe of these shards, shares",
        ("train.py", "datamodule=shards", "datamodule.path=run"): "datamodule.path=run has no manifest.json",
    }
    with FileLock(shards / "busy" / ".lock"):
        for (verb, *words), message in refused.items():
            done = run_verb(verb, shards, *words, *(("logger=none",) if verb == "train.py" else ()), code=2)
            assert message in " ".join(done.stderr.split())
            assert "Traceback" not in done.stderr


def test_the_command_for_spark_runs(ring_logs: Path, tmp_path: Path) -> None:
    try:
        check_spark()
    except InputError as error:
        pytest.skip(str(error))
    [line] = [line for line in LINES if "engine=spark" in line]
    run_verb("prepare.py", tmp_path, *(word.replace("<folder>", str(ring_logs)) for word in shlex.split(line)[2:]))
    assert json.loads((tmp_path / "by_spark" / "manifest.json").read_text())["engine"] == "spark"
