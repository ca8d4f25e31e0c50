"""A refit: what is exported has learned all sessions, and no metric of a log sees it."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

from segue.callbacks.assembly import AfterTest, Refitted
from segue.callbacks.run_context import RunContext
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.models.export import Export
from segue.models.fitted import FittedModel
from segue.models.pair_ranker import PairRanker
from segue.reports.console import keeping
from segue.runs.tracking.named_runs import locate_recommendations
from segue.verbs.train import train as train_here
from segue.verbs.training.refit import begun, epochs_of_refit, is_refitted
from segue.verdicts.comparison.runs import register
from tests.e2e.test_resume import kill_at, words
from tests.e2e.test_train import BARE, metrics_of, train

SMALL = ("world.num_tracks=300", "world.num_listeners=80", "datamodule.prepare.sessions=1500")
SHORT = ("trainer.accelerator=cpu", "model.dim=8", "trainer.max_epochs=2", "callbacks.plots=null")
HARD = (
    *(*BARE, "refit=auto", "scheduler=plateau", "scheduler.patience=0"),
    *("context=session", "trainer.max_epochs=4", "logger=none"),
)


def of_logs(run: Path) -> dict[str, Any]:
    """The metrics that are computed from logs."""
    others = ("online/", "time/", "fit_seconds", "mlflow_run_id")
    return {name: value for name, value in metrics_of(run).items() if not name.startswith(others)}


def lists(folder: Path) -> bytes:
    return (folder / "recommendations.jsonl").read_bytes()


def artifacts(cwd: Path, run: str) -> set[str]:
    """What MLflow has of a run."""
    from mlflow import MlflowClient

    client, run_id = MlflowClient(f"sqlite:///{cwd}/mlflow.db"), metrics_of(cwd / run)["mlflow_run_id"]
    return {file.path for folder in ("", "checkpoints") for file in client.list_artifacts(run_id, folder)}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same run without and with a refit, below `none` and `all`, and what the second one printed."""
    cwd = tmp_path_factory.mktemp("cwd")
    for refit in ("none", "all"):
        done = train(cwd, *SMALL, *SHORT, f"refit={refit}", f"hydra.run.dir={refit}")
    return cwd, done.stdout


def test_no_metric_of_a_log_sees_the_refitted_model(both: tuple[Path, str]) -> None:
    cwd, _ = both
    known = of_logs(cwd / "none")
    assert of_logs(cwd / "all") == known
    assert {name.partition("/")[0] for name in known} >= {"val", "test"}
    assert lists(cwd / "all") != lists(cwd / "none")  # otherwise this would show nothing
    assert lists(cwd / "all" / "evaluated") == lists(cwd / "none")


def test_listeners_play_what_is_exported(both: tuple[Path, str]) -> None:
    cwd, _ = both
    times = [metrics_of(cwd / name)["online/mean_time_per_session"] for name in ("none", "all")]
    assert times[0] != times[1]


def test_a_run_says_which_model_is_which(both: tuple[Path, str]) -> None:
    cwd, printed = both
    record = json.loads((cwd / "all" / "refit.json").read_text())
    assert record["sessions"] == 1500
    assert f"exported     refitted on all 1,500 sessions until {record['until']}" in printed
    assert "tested       epoch 2 of 2, trained on the oldest 80 % of the sessions" in printed
    card = (cwd / "all" / "model_card.md").read_text()
    assert "- exported: refitted on all 1,500 sessions" in card
    assert "`test/…` are of the tested model, `online/…` of the exported one." in card
    assert "- exported: the tested model" in (cwd / "none" / "model_card.md").read_text()
    assert not (cwd / "none" / "refit.json").exists()


def test_mlflow_has_both_models_and_the_registry_two_versions(
    both: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    cwd, _ = both
    uri = f"sqlite:///{cwd}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(uri)
    run = client.get_run(metrics_of(cwd / "all")["mlflow_run_id"])
    assert run.data.tags["exported"] == "refitted"
    version = register(run, uri, name="segue", alias="champion")
    kinds = {one.version: one.tags["segue.model"] for one in client.search_model_versions("name = 'segue'")}
    assert kinds == {1: "evaluated", 2: "refitted"}
    assert (version, int(client.get_model_version_by_alias("segue", "champion").version)) == ("2", 2)
    assert locate_recommendations("model:segue@champion").read_bytes() == lists(cwd / "all")
    client.set_registered_model_alias("segue", "before", "1")
    assert locate_recommendations("model:segue@before").read_bytes() == lists(cwd / "none")


def test_a_finished_run_is_refitted_by_resuming_it(both: tuple[Path, str]) -> None:
    cwd, _ = both
    shutil.copytree(cwd / "none", cwd / "kept")
    train(cwd, "resume=none", "refit=all")
    try:
        assert of_logs(cwd / "none") == of_logs(cwd / "kept")
        assert lists(cwd / "none") == lists(cwd / "all")
        assert {"refit.json", "evaluated"} < artifacts(cwd, "none")
        train(cwd, "resume=none", "refit=none")
        assert not {"refit.json", "evaluated", "checkpoints/refitted.ckpt"} & artifacts(cwd, "none")
        assert lists(cwd / "none") == lists(cwd / "kept")
        assert not (cwd / "none" / "evaluated").exists()
        assert not (cwd / "none" / "refit.json").exists()
    finally:
        shutil.rmtree(cwd / "none")
        (cwd / "kept").rename(cwd / "none")


def test_a_kill_in_the_middle_of_a_refit_changes_nothing(ring_logs: Path, tmp_path: Path) -> None:
    train(tmp_path, *words(ring_logs, *HARD, "hydra.run.dir=whole"))
    assert (tmp_path / "whole" / "refit.json").exists()  # the newest sessions test
    kill_at(tmp_path, "refit 2/", *words(ring_logs, *HARD, "hydra.run.dir=killed"))
    assert not (tmp_path / "killed" / "recommendations.jsonl").exists()
    done = train(tmp_path, "resume=killed")
    assert "epoch 1/" not in done.stdout
    assert "refit 1/" not in done.stdout
    assert lists(tmp_path / "killed") == lists(tmp_path / "whole")
    assert of_logs(tmp_path / "killed") == of_logs(tmp_path / "whole")
    assert "refit 1/" not in train(tmp_path, "resume=killed", "callbacks.export=null").stdout  # nothing is exported


def test_jobs_are_not_refitted(ring_logs: Path, tmp_path: Path) -> None:
    given = [f"datamodule.path={ring_logs}", "datamodule=botify", *SHORT[:1], "trainer.max_epochs=1", *SHORT[-1:]]
    given += ["logger=none", "hydra.sweep.dir=sweep"]
    train(tmp_path, "-m", *given, "model=track,rules")
    assert not list((tmp_path / "sweep").glob("*/refit.json"))
    done = train(tmp_path, "-m", *given, "model=track,rules", "refit=all", "hydra.sweep.dir=other", code=2)
    assert "a multirun (-m) compares runs; leave it out, and refit the winner: python train.py resume=" in " ".join(
        done.stderr.split()
    )
    done = train(tmp_path, "resume=sweep/1", "refit=all")
    assert "exported     refitted on all 400 sessions" in done.stdout
    fitted = [FittedModel.read(tmp_path / "sweep" / "1", "rules", evaluated=one) for one in (False, True)]
    top = [one.top(np.array([0]), np.ones(1, np.float32), 5)[1].tolist() for one in fitted]
    assert top[0] != top[1]  # counts of all sessions, and of those for training


@pytest.mark.parametrize(
    ("refit", "split", "is_job", "expected"),
    [
        ("auto", "time", False, True),
        ("auto", "time", True, False),
        ("auto", "session", False, False),
        ("all", "session", False, True),
        ("all", "pair", False, True),
        ("none", "time", False, False),
    ],
)
def test_the_default_refits_a_single_run_whose_newest_sessions_test(
    refit: str, split: str, is_job: bool, expected: bool, ring_logs: Path, datamodule_of: Any
) -> None:
    data = datamodule_of(ring_logs, split=split)
    data.setup()
    assert is_refitted(data, refit=refit, is_job=is_job, is_exported=True) is expected
    if refit == "auto":
        assert not is_refitted(data, refit=refit, is_job=is_job, is_exported=False)


@pytest.mark.parametrize(("split", "hidden"), [("time", 0.2), ("session", 0.0), ("pair", 0.0)])
def test_all_data_become_training_data(split: str, hidden: float, ring_logs: Path, datamodule_of: Any) -> None:
    data: PairDataModule = datamodule_of(ring_logs, split=split, cold_share=hidden)
    data.setup()
    before, num_new = {name: len(pairs) for name, pairs in data.pairs.items()}, data.new_tracks.sum()
    everything = data.as_training()
    assert {name: len(pairs) for name, pairs in everything.pairs.items()} == {"train": 400 * 7, "val": 0, "test": 0}
    assert everything.vocabulary.next_counts.sum() == 400 * 7
    assert not everything.new_tracks.any()
    assert {name: len(pairs) for name, pairs in data.pairs.items()} == before  # it is a copy
    assert data.new_tracks.sum() == num_new
    assert everything.digest() != data.digest()


def test_a_refit_that_diverges_loses_nothing_and_writes_no_checkpoint_that_nobody_wants(
    ring_logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("it has diverged")

    given = [f"datamodule.path={ring_logs}", "datamodule=botify", *SHORT, "logger=none", "refit=all"]
    given += ["callbacks.checkpoint=null", "trainer.max_epochs=1"]
    monkeypatch.setattr("segue.verbs.training.refit.refuse_non_finite", refuse)
    with keeping() as printed:
        train_here.call([*given, f"hydra.run.dir={tmp_path / 'run'}"])
    assert "refit        none, the tested model is exported: it has diverged" in printed.text()
    assert lists(tmp_path / "run")
    assert not (tmp_path / "run" / "refit.json").exists()
    assert not (tmp_path / "run" / "checkpoints" / "refitted.ckpt").exists()


@pytest.mark.parametrize(("limit", "expected"), [(None, 8), (1.0, 8), (0.5, 8), (10, 10)])
def test_a_refit_takes_as_many_steps_as_validation_chose(limit: float | None, expected: int) -> None:
    data = [create_autospec(PairDataModule, instance=True, pairs={"train": range(num)}) for num in (80, 100)]
    assert epochs_of_refit(10, *data, limit=limit) == expected
    assert epochs_of_refit(1, *data, limit=limit) == 1


def test_only_the_same_refit_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "refitted.ckpt"
    assert begun(tmp_path, 2, {"used": "never"}) is None
    path.parent.mkdir()
    torch.save({"state_dict": {}, "refit": {"epochs": 2, "decided": {"used": "never"}}}, path)
    assert begun(tmp_path, 2, {"used": "never"}) == path
    assert begun(tmp_path, 3, {"used": "never"}) is None
    assert begun(tmp_path, 2, {"used": "boosts"}) is None


def test_a_kill_between_the_lists_of_both_models_leaves_no_mixture(tmp_path: Path) -> None:
    class Killed(Exception):  # noqa: N818
        pass

    def write(*_: object, into: Path | None = None) -> None:
        if into is None:  # those of the refitted model
            raise Killed
        into.mkdir()

    export = create_autospec(Export, instance=True, path=tmp_path / "recommendations.jsonl")
    export.write.side_effect = write
    data = create_autospec(PairDataModule, instance=True, catalog=range(3), vocabulary=None)
    after_test = AfterTest(RunContext(datamodule=data), export=export)
    refitted = create_autospec(Refitted, instance=True, data=data)
    refitted.record.return_value = {}
    refitted.module = create_autospec(PairRanker, instance=True, scorer=None)
    after_test.refitted = refitted
    for file in ("recommendations.jsonl", "vectors.npz"):
        (tmp_path / file).write_text("of the run before")
    with pytest.raises(Killed):
        after_test._write_lists(export, create_autospec(PairRanker, instance=True), refitted.module)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluated", "refit.json"}
