"""The walk-through of docs/scaling.md runs, in its order and in a small world; what cannot be prepared is said."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from tests.datamodules.preparing import why_no_spark
from tests.e2e.running import PATIENCE_S, binary, run_verb, serving
from tests.e2e.test_compare import compare
from tests.e2e.test_readme import PORT, WORLD, commands
from tests.e2e.test_train import metrics_of, train

PAGE = commands("docs/scaling.md")
[LAST] = [number for number, line in enumerate(PAGE) if line.startswith("curl ")]
WALK, AFTER = PAGE[: LAST + 1], PAGE[LAST + 1 :]
SMALL = {
    "simulate.py": (*WORLD, "sessions=1500"),
    "train.py": ("trainer.max_epochs=1", "trainer.accelerator=cpu", "callbacks.plots=null", "callbacks.export.k=10"),
}
SPARK = "engine=spark"


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the steps before the service have been taken; where Spark is not used, DuckDB makes the pairs."""
    cwd = tmp_path_factory.mktemp("walk")
    for line in WALK[:-2]:
        [_, verb, *words] = shlex.split(line)
        words = [word for word in words if not word.startswith("sessions=")]
        words += SMALL.get(verb, ())
        if verb == "train.py":
            train(cwd, *words, FORKS_FORK_CHILDREN="1")
        elif verb == "compare.py":
            assert "2 runs" in compare(cwd, *words).stdout
        elif verb == "prepare.py":
            done = run_verb(verb, cwd, *(word for word in words if word != SPARK or not why_no_spark()))
            assert f"next         python train.py datamodule=shards datamodule.path={cwd / 'pairs'}" in done.stdout
        else:
            run_verb(verb, cwd, *words)
    return cwd


def test_the_walk_through_has_every_step_and_other_sections_prepare_nothing_else() -> None:
    verbs = [shlex.split(line)[1] for line in WALK]
    assert verbs[:-1] == ["simulate.py", "prepare.py", "train.py", "train.py", "compare.py", "serve.py"]
    assert SPARK in WALK[1]
    assert "trainer=ddp" in WALK[2]
    assert [line for line in AFTER if "prepare.py" in line or "datamodule=shards" in line] == []


def test_the_walk_through_goes_from_raw_logs_to_a_served_model(walked: Path) -> None:
    binary("curl")
    for run in ("model", "neighbours"):
        assert metrics_of(walked / run)["test/ndcg_at_10"] > 0
    *_, start, curl = WALK
    words = [word for word in shlex.split(start)[2:] if not word.startswith("hydra.run.dir=")]
    with serving(walked, *words, run="service") as service:
        line = curl.replace(PORT, f":{service.port}")
        asked = subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=PATIENCE_S)
        [event] = service.lines()
    lists = (walked / "model" / "recommendations.jsonl").read_text().splitlines()
    [of_track] = [entry["recommendations"] for entry in map(json.loads, lists) if entry["track"] == 10]
    assert json.loads(asked.stdout) == {"user": 7, "track": event["recommendation"]}
    assert event["recommendation"] in of_track


def test_spark_made_the_pairs_of_the_walk_through(walked: Path) -> None:
    manifest = json.loads((walked / "pairs" / "manifest.json").read_text())
    assert manifest["recipe"] == "shares"
    if why := why_no_spark():
        assert manifest["engine"] == "duckdb"
        pytest.skip(f"the rest of the walk-through ran from the pairs of DuckDB: {why}")
    assert manifest["engine"] == "spark"


def test_what_cannot_be_prepared_is_said_in_a_line(walked: Path) -> None:
    source = ("datamodule=botify", "datamodule.path=raw")
    (walked / "busy").mkdir()
    refused = {
        (*source, "hydra.run.dir=pairs"): "pairs holds a run already; choose another folder",
        (*source, "hydra.run.dir=busy"): "busy holds a run already, which another process is writing",
        ("datamodule=shards", "datamodule.path=pairs"): "datamodule=shards has pairs already",
    }
    with FileLock(walked / "busy" / ".lock"):
        for words, message in refused.items():
            done = run_verb("prepare.py", walked, *words, code=2)
            assert message in " ".join(done.stderr.split())
            assert "Traceback" not in done.stderr
