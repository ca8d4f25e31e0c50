"""`train.py` as its user meets it: from a shell."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.recommendations import Recommendations
from segue.verbs.train import train as verb
from tests.conftest import NUM_RING_TRACKS, ROOT, make_catalog, new_store
from tests.e2e.forks import fork_command, run_forked
from tests.e2e.running import PATIENCE_S, started

BASELINES = ("popular", "rules")
"""Of those that count one, and of those that count pairs; contracts are of all."""
QUICK = ("trainer.accelerator=cpu", "model.dim=16", "optimizer.lr=0.02", "datamodule.batch_size=256")
RING = ("datamodule.pairing=consecutive", "trainer.max_epochs=6")
"""What is loved on the ring is the next track."""
BARE = ("callbacks.plots=null", "callbacks.lineage.model=false", "refit=none")
"""Without pictures, the model in MLflow and a refit, which take half of a short run."""
VOLATILE = ("mlflow_run_id", "fit_seconds")
FILES = {
    *("config.yaml", "metrics.json", "recommendations.jsonl", "run.json", "test_queries.parquet", "top_tracks.json"),
    *("plays.npz", "vectors.npz", "model_card.md"),
}
REFITTED = {"refit.json", "evaluated"}
"""What a run leaves besides where it is refitted."""
PLOTS = {"artists.png", "calibration.png", "learning_curve.png"}
DIRTY = {"uncommitted.diff"}
"""What a run leaves besides where the checkout has changes that are not committed."""


def command(*overrides: str) -> list[str]:
    """A training that starts at once, for tests that send signals or run several at a time."""
    return fork_command(str(ROOT / "train.py"), *overrides)


def train(cwd: Path, *overrides: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    if code == 0 and "logger=none" not in overrides:
        new_store(cwd)
    done = run_forked(ROOT / "train.py", *overrides, cwd=cwd, env={**os.environ, **env}, timeout_s=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def quick(cwd: Path, logs: Path, *overrides: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    flags = [word for word in overrides if word.startswith("--")]
    values = [word for word in overrides if word not in flags]
    return train(cwd, *flags, "datamodule=botify", f"datamodule.path={logs}", *RING, *QUICK, *values, **kwargs)


def metrics_of(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


@pytest.fixture(scope="module")
def ring_run(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One plain run in a folder of its own, and what it printed."""
    cwd = tmp_path_factory.mktemp("cwd")
    done = quick(cwd, ring_logs, "model=convex", "model.alpha=0.8", "hydra.run.dir=run")
    return cwd / "run", done.stdout


def test_a_run_leaves_what_the_design_says(ring_run: tuple[Path, str]) -> None:
    run, _ = ring_run
    assert {path.name for path in run.iterdir()} - DIRTY == {*FILES, *REFITTED, "checkpoints", "plots"}
    lists = {"recommendations.jsonl", "vectors.npz", "plays.npz", "top_tracks.json"}
    assert {path.name for path in (run / "evaluated").iterdir()} == lists
    assert {path.name for path in (run / "plots").iterdir()} == PLOTS
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["alpha"] == 0.8
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert "scorer.parts.track.weight" in checkpoint["state_dict"]
    recommendations = Recommendations.read(
        run / "recommendations.jsonl", make_catalog(row // 3 for row in range(NUM_RING_TRACKS))
    )
    assert recommendations.rows.shape == (NUM_RING_TRACKS, 50)
    assert (recommendations.rows >= 0).all()


def test_metrics_have_the_designed_names_and_stand_beside_their_floors(ring_run: tuple[Path, str]) -> None:
    metrics = metrics_of(ring_run[0])
    named = {
        *("val/mse", "test/mse", "test/mse_mean_floor", "test/mae", "test/mae_mean_floor"),
        *("test/recall_at_1", "test/recall_at_10", "test/recall_at_50", "test/ndcg_at_10"),
        *("test/mrr", "test/coverage_at_10", "test/same_artist_at_10", "test/popularity_rank_at_10", "mlflow_run_id"),
        *("test/recall_at_10_popular_floor", "test/recall_at_10_counts_floor"),
    }
    assert named <= metrics.keys()
    assert all(isinstance(value, int | float) for name, value in metrics.items() if name != "mlflow_run_id")
    assert metrics["alpha"] == pytest.approx(0.8)
    assert metrics["test/mse"] < metrics["test/mse_mean_floor"]
    assert metrics["test/recall_at_10"] > 2 * metrics["test/recall_at_10_popular_floor"]


def test_a_run_prints_its_table_its_folder_and_what_comes_next(ring_run: tuple[Path, str]) -> None:
    run, printed = ring_run
    assert "3,200" in printed  # events, in the table of the splits
    commands = "mlflow ui --backend-store-uri sqlite:///mlflow.db", "python serve.py recommendations="
    for shown in ("recall_at_10", "mse", "popular", str(run), *commands):
        assert shown in printed
    assert "Traceback" not in printed
    assert "Lightning" not in printed


def test_a_run_prints_where_its_time_went_and_mlflow_has_it(ring_run: tuple[Path, str]) -> None:
    import mlflow

    run, printed = ring_run
    phases = ["start", "data", "tracking", "training", "validation", "refit", "test", "lists", "pictures"]
    _, _, table = printed.partition("Where the time went")
    seconds = {
        row[0]: float(row[1].replace(",", ""))
        for row in map(str.split, table.splitlines())
        if row and row[0] in (*phases, "all")
    }
    assert list(seconds) == [*phases, "all"]
    assert sum(seconds[phase] for phase in phases) == pytest.approx(seconds["all"], abs=0.05 * len(seconds))
    client = mlflow.MlflowClient(f"sqlite:///{run.parent}/mlflow.db")
    logged = client.get_run(metrics_of(run)["mlflow_run_id"]).data.metrics
    for phase in phases:
        assert logged[f"time/{phase}_s"] == pytest.approx(seconds[phase], abs=0.06 if phase != "tracking" else 2)


def test_mlflow_knows_all_of_a_run(ring_run: tuple[Path, str]) -> None:
    import mlflow

    run, _ = ring_run
    metrics = metrics_of(run)
    client = mlflow.MlflowClient(f"sqlite:///{run.parent}/mlflow.db")
    tracked = client.get_run(metrics["mlflow_run_id"])
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == "convex α=0.8 seed=1"
    assert tracked.data.params["model.alpha"] == "0.8"
    assert tracked.data.params["datamodule.pairing"] == "consecutive"
    for tag in ("command", "git_commit", "git_dirty", "data_digest", "torch"):
        assert tracked.data.tags[tag]
    for name, value in metrics.items():
        if name.startswith("test/"):
            assert tracked.data.metrics[name] == pytest.approx(value, rel=1e-6)
    curve = client.get_metric_history(metrics["mlflow_run_id"], "val/loss")
    assert [point.step for point in curve] == list(range(int(metrics["epochs"]) + 1))
    assert curve[-1].value == metrics["val/loss"] == min(point.value for point in curve)  # of the best epoch
    files = {file.path for file in client.list_artifacts(metrics["mlflow_run_id"])}
    assert files - DIRTY == {*FILES, *REFITTED, "checkpoints", "plots"}
    plots = {Path(file.path).name for file in client.list_artifacts(metrics["mlflow_run_id"], "plots")}
    assert plots == PLOTS


def test_the_same_command_twice_gives_the_same_numbers(ring_run: tuple[Path, str], ring_logs: Path) -> None:
    run, _ = ring_run
    words = *BARE, "refit=auto", "model=convex", "model.alpha=0.8", "logger=none"
    quick(run.parent, ring_logs, *words, "hydra.run.dir=again")
    first, again = (metrics_of(run.parent / name) for name in ("run", "again"))
    for metrics in (first, again):
        for name in VOLATILE:
            metrics.pop(name)
    assert first == again
    texts = [(run.parent / name / "recommendations.jsonl").read_bytes() for name in ("run", "again")]
    assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def swept(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over a head and baselines of every kind, in a folder of its own."""
    cwd = tmp_path_factory.mktemp("swept")
    words = "datamodule=botify", f"datamodule.path={ring_logs}", "trainer.accelerator=cpu", "hydra.sweep.dir=sweep"
    train(cwd, "--multirun", f"model=convex,{','.join(BASELINES)}", *words, *BARE, "trainer.max_epochs=1")
    return cwd


def test_baselines_are_trained_and_exported_beside_a_head(swept: Path) -> None:
    jobs = [metrics_of(swept / "sweep" / str(job)) for job in range(1 + len(BASELINES))]
    assert len({metrics["mlflow_run_id"] for metrics in jobs}) == len(jobs)
    assert jobs[0].keys() > {"alpha", "val/loss", "test/mse"}
    catalog = make_catalog(row // 3 for row in range(NUM_RING_TRACKS))
    for job, name in enumerate(BASELINES, start=1):
        run = swept / "sweep" / str(job)
        assert {path.name for path in run.iterdir()} - DIRTY == {*FILES - {"vectors.npz"}, "checkpoints"}
        assert Recommendations.read(run / "recommendations.jsonl", catalog).rows.shape == (NUM_RING_TRACKS, 50)
        metrics = metrics_of(run)
        assert metrics["epochs"] == 1
        assert not {"alpha", "val/loss", "test/mse"} & metrics.keys()
        assert len(pd.read_parquet(run / "test_queries.parquet")) == metrics["test/num_queries"]
        if name == "popular":
            assert metrics["test/mrr"] == pytest.approx(metrics["test/mrr_popular_floor"], rel=1e-6)
        if name == "rules":  # it must find what is next on the ring
            assert metrics["test/recall_at_10"] > 2 * metrics["test/recall_at_10_popular_floor"]


def test_a_baseline_that_is_done_is_tested_and_exported_again_without_counting(swept: Path) -> None:
    run = swept / "sweep" / "2"
    before, exported = metrics_of(run), (run / "recommendations.jsonl").read_bytes()
    (run / "metrics.json").unlink()
    train(swept, f"resume={run}")
    after = metrics_of(run)
    assert {**after, "fit_seconds": 0} == {**before, "fit_seconds": 0}
    assert (run / "recommendations.jsonl").read_bytes() == exported


def interrupted(cwd: Path, logs: Path, *words: str, times: int = 1) -> tuple[int, str]:
    """Exit code and output of a training that would never end without Ctrl-C in its third epoch."""
    new_store(cwd)
    endless = "trainer.max_epochs=100000", "callbacks.early_stopping.patience=100000"
    words = *words, "datamodule=botify", f"datamodule.path={logs}", *endless
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with started(command(*words), cwd=cwd, **streams) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "epoch 3/" in line:
                break
        for _ in range(times):
            running.send_signal(signal.SIGINT)
            time.sleep(0.02)  # the second one may find that the run has ended
        printed, _ = running.communicate(timeout=PATIENCE_S)
    return running.returncode, printed


@pytest.mark.timing
def test_ctrl_c_ends_training_and_still_tests_and_exports(ring_logs: Path, tmp_path: Path) -> None:
    code, printed = interrupted(tmp_path, ring_logs, *QUICK, "hydra.run.dir=run")
    assert code == 0, printed
    assert "Ctrl-C: training ends here" in printed
    assert 3 <= metrics_of(tmp_path / "run")["epochs"] < 100000
    assert (tmp_path / "run" / "recommendations.jsonl").exists()


@pytest.mark.timing
def test_ctrl_c_twice_stops_at_once_and_leaves_nothing_half_written(ring_logs: Path, tmp_path: Path) -> None:
    code, printed = interrupted(tmp_path, ring_logs, *QUICK, "hydra.run.dir=run", times=2)
    assert code in (0, 130), printed  # 0 where it had ended before the second came
    assert "Traceback" not in printed, printed
    assert not list((tmp_path / "run").rglob("*.partial*"))


BAD_INPUT = [
    (["model=contextual", "model.alpha=0.3"], "model.alpha must be null, got 0.3; use model=convex"),
    (["model=rules", "monitor.metric=val/loss"], "val/loss cannot be computed: this model only ranks; use monitor=nd"),
    (["datamodule.path=/nowhere"], "cannot read /nowhere: no such file or folder; give datamodule.path="),
    (["logger=null"], "logger=null: a config group needs a value; name one of its choices: mlflow, none"),
    (["~seed"], "~seed: a config needs seed; without this word it has its usual value"),
    (["counted=none", "counted.max_length=5"], "counted.max_length=5: counted=none has no settings here; leave it out"),
    (["hydra.run.dir=/dev/null/run"], "cannot use /dev/null.*choose another folder with hydra.run.dir"),
    (["+trainer.limit_test_batches=0"], "trainer.limit_test_batches must be a number above 0, got 0; a run is trained"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_INPUT, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_in_a_line(
    ring_logs: Path, tmp_path: Path, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as refused:
        verb.call(["datamodule=botify", f"datamodule.path={ring_logs}", "trainer.accelerator=cpu", *overrides])
    assert "\n" not in str(refused.value)


def test_bad_input_ends_in_one_line_and_code_two(tmp_path: Path) -> None:
    done = train(tmp_path, "datamodule=botify", "datamodule.path=/nowhere", "model.alpha=7", code=2)  # before it reads
    [line] = done.stderr.splitlines()
    assert line.startswith("error: model.alpha must be a number of at least 0 and at most 1")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to ask for")
def test_a_gpu_that_is_not_there_is_one_line(ring_logs: Path, tmp_path: Path) -> None:
    done = train(tmp_path, "datamodule=botify", f"datamodule.path={ring_logs}", "trainer.accelerator=gpu", code=2)
    [line] = done.stderr.splitlines()
    assert line.startswith("error: trainer: No supported gpu backend found")
    assert "trainer.accelerator=cpu" in line


def test_a_run_folder_is_never_overwritten(ring_run: tuple[Path, str], ring_logs: Path) -> None:
    run, _ = ring_run
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = quick(run.parent, ring_logs, "hydra.run.dir=run", "model.alpha=7", code=2)
    assert "holds a run already" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_real_log_gives_fifty_other_tracks_for_each_of_fifty_thousand(real_data: Path, tmp_path: Path) -> None:
    words = "datamodule=botify", f"datamodule.path={real_data / 'botify-2023'}", "hydra.run.dir=run", *BARE
    train(tmp_path, *words, "trainer.max_epochs=1", "logger=none")
    tracks = pd.read_json(real_data / "botify-2023" / "tracks.json", lines=True)
    columns = (tracks[name].tolist() for name in ("track", "title", "artist"))
    catalog = Catalog.from_columns(*columns, source="tracks.json")
    recommendations = Recommendations.read(tmp_path / "run" / "recommendations.jsonl", catalog)
    assert recommendations.rows.shape == (50_000, 50)
    assert (recommendations.rows >= 0).all()  # `read` has refused repeated tracks and the track itself
    metrics = metrics_of(tmp_path / "run")
    assert metrics["test/mse"] < metrics["test/mse_mean_floor"]
