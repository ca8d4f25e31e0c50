"""Many runs from one command, without training: jobs in another process, and how a sweep reports failures."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from segue.errors import InputError, JobFailed, JobsFailed
from segue.reports.console import console, errors
from segue.runs.provenance import command
from segue.verbs.sweeps.jobs import Job, Sweep, environment_of
from tests.e2e.running import run_verb


def test_a_job_in_another_process_records_the_command_that_started_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["worker"])
    hydra = {"job": {"num": 3}, "runtime": {"output_dir": str(tmp_path / "run")}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
    for stream in (console, errors):
        monkeypatch.setattr(stream, "_file", None)  # as it is before, so that it is so afterwards
    assert Job(lambda _: command(), False, ["simulate.py", "seed=1"])(DictConfig({})) == "python simulate.py seed=1"
    assert command() == "python worker"


class LocalLauncher:
    """Named as the one of submitit that starts all jobs at once."""


@pytest.mark.parametrize(("cores", "num_jobs", "threads"), [(8, 2, "4"), (2, 5, "1"), (3, 2, "1")])
def test_jobs_that_start_all_at_once_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, num_jobs: int, threads: str
) -> None:
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment_of(LocalLauncher(), num_jobs)["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in environment_of(LocalLauncher(), num_jobs)


# The sweep, on a launcher that runs nothing


class FakeLauncher:
    def __init__(self, fails: Sequence[str]) -> None:
        self._fails, self.launched = fails, list[list[str]]()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        results = []
        for words in job_overrides:
            self.launched.append(list(words))
            failed = bool({*words} & {*self._fails})
            value = JobFailed("no such seed") if failed else None
            status = JobStatus.FAILED if failed else JobStatus.COMPLETED
            results.append(JobReturn(overrides=list(words), status=status, _return_value=value))
        assert initial_job_idx == len(self.launched) - len(job_overrides)
        return results


def make_sweep(folder: Path, *, batch: int | None = None, fails: Sequence[str] = ()) -> tuple[Sweep, FakeLauncher]:
    class Loader:
        def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> None: ...

    sweep, launcher = Sweep(max_batch_size=batch), FakeLauncher(fails)
    sweep.config = sweep.cfg = OmegaConf.create({"seed": 1})
    sweep.folder = folder
    context: Any = type("Context", (), {"config_loader": Loader()})()
    sweep.hydra_context, sweep.launcher = context, launcher  # type: ignore[assignment]
    return sweep, launcher


def test_every_combination_is_run_with_the_fixed_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, launcher = make_sweep(tmp_path, batch=2)
    assert len(sweep.sweep(["seed=1,2", "days=3", "world=a,b"])) == 4
    assert launcher.launched == [[f"seed={seed}", "days=3", f"world={world}"] for seed in (1, 2) for world in "ab"]
    assert (tmp_path / "multirun.yaml").exists()
    printed = capsys.readouterr().out
    assert printed == f"4 jobs in {tmp_path}\n"  # nothing is logged, so there is nothing to compare


def test_a_comparison_is_proposed_only_where_a_job_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Sweep, "parent", lambda *_: nullcontext("0123456789abcdef"))
    for fails, is_proposed in ((["seed=1"], True), (["seed=1", "seed=2"], False)):
        sweep, _ = make_sweep(tmp_path, fails=fails)
        monkeypatch.setattr(sweep, "launch", lambda jobs, *_, of=sweep: of.launcher.launch(jobs, initial_job_idx=0))
        with pytest.raises(JobsFailed):
            sweep.sweep(["seed=1,2"])
        assert ("python compare.py parent=run:01234567" in capsys.readouterr().out) is is_proposed


def test_an_interval_cannot_be_swept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lr=interval\(0,1\) is an interval, .*; name values, or add search=optuna"):
        make_sweep(tmp_path)[0].sweep(["lr=interval(0,1)"])


# The command line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["search=optuna", "search.batch=2", "seed=2"],
            "search=optuna starts many runs and needs -m: python train.py -m search=optuna search.batch=2 seed=2",
        ),
        (["-m", "search=nonsense"], "there is no search=nonsense; choose one of optuna"),
    ],
)
def test_a_search_needs_a_multirun_and_a_known_name(words: list[str], line: str, tmp_path: Path) -> None:
    done = run_verb("train.py", tmp_path, *words, code=2)
    assert done.stderr == f"error: {line}\n"
    assert not list(tmp_path.glob("outputs/*/*"))
