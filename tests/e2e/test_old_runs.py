"""A run from before settings were renamed is still compared and served; resuming it is refused in one line."""

import json
import os
import re
import subprocess
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from segue.tracking.store import open_store
from segue.verdicts.comparison.analysis import QUERY, TESTED
from tests.conftest import ROOT, new_store
from tests.e2e.forks import run_forked

COMMIT = "652e0711af7fef119613bbfebd0d4da696f10e87"
RECORDS = Path(__file__).parent / "run_of_652e071"
"""What a run of that commit left, with `RUN_DIR` and `CWD` in place of its folders."""
METRICS = {"val/ndcg_at_10": 0.2, "test/ndcg_at_10": 0.19, "test/recall_at_10": 0.3, "test/mrr": 0.1}


def verb(cwd: Path, name: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_forked(ROOT / f"{name}.py", *words, cwd=cwd, env=dict(os.environ), timeout_s=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the records of a run of that commit, in a store of its own, and its id."""
    cwd = tmp_path_factory.mktemp("cwd")
    run = cwd / "run"
    run.mkdir()
    client = mlflow.MlflowClient(new_store(cwd))
    experiment = client.create_experiment("segue", artifact_location=str(cwd / "artifacts"))
    assert experiment == open_store(f"sqlite:///{cwd}/mlflow.db", "segue")
    tags = {"setup": "convex α=0.9", "setup_digest": "a0", "config_digest": "c0", "data_digest": "d0"}
    run_id = str(client.create_run(experiment, tags={**tags, "run_dir": str(run), "git_commit": COMMIT}).info.run_id)
    client.log_param(run_id, "seed", 1)
    for name, value in METRICS.items():
        client.log_metric(run_id, name, value)
    for name in ("config.yaml", "run.json"):
        text = (RECORDS / name).read_text(encoding="utf-8").replace("RUN_DIR", str(run)).replace("CWD", str(cwd))
        (run / name).write_text(
            re.sub(r'"mlflow_run_id": "\w+"', f'"mlflow_run_id": "{run_id}"', text), encoding="utf-8"
        )
    (run / "metrics.json").write_text(json.dumps({**METRICS, "mlflow_run_id": run_id}))
    queries = {**{name: range(20) for name in QUERY}, **{name: [0.0, 1.0] * 10 for name in TESTED}}
    pd.DataFrame(queries).to_parquet(run / "test_queries.parquet", index=False)
    lists = [{"track": track, "recommendations": [(track + 1) % 5, (track + 2) % 5]} for track in range(5)]
    (run / "recommendations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lists))
    for file in run.iterdir():
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)
    return cwd, run_id


def test_an_old_run_is_compared(old: tuple[Path, str]) -> None:
    cwd, run_id = old
    done = verb(cwd, "compare", "hydra.run.dir=compared")
    assert f"recommendations=run:{run_id[:8]}" in done.stdout
    record = json.loads((cwd / "compared" / "comparison.json").read_text())
    assert [one["setup"] for one in record["setups"]] == ["convex α=0.9"]


def test_an_old_run_is_served(old: tuple[Path, str]) -> None:
    cwd, run_id = old
    (cwd / "store").mkdir()
    done = verb(cwd, "serve", "load", f"store.folder={cwd}/store", f"recommendations=run:{run_id}")
    assert "is current in" in done.stdout


@pytest.mark.parametrize("by_id", [False, True])
def test_an_old_run_is_not_resumed_and_the_line_names_its_commit(old: tuple[Path, str], by_id: bool) -> None:
    cwd, run_id = old
    done = verb(cwd, "train", f"resume={run_id if by_id else 'run'}", code=2)
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: resume={cwd}/run: it began at commit {COMMIT}, where settings had other names; ")
    assert line.endswith("check out that commit to resume it, or start a new run")
