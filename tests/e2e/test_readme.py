"""Every command of the README runs, on a small world and a small log in place of the reader's own."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.running import serve, serving, wait_until
from tests.e2e.test_abtest import abtest
from tests.e2e.test_compare import compare
from tests.e2e.test_simulate import SMALL, simulate
from tests.e2e.test_train import train

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
SWEEPS = [line for line in COMMANDS if line.startswith("python compare.py") or " -m " in line]
TRAIN = [shlex.split(line)[2:] for line in COMMANDS if line.startswith("python train.py") and line not in SWEEPS]
SERVED = [line for line in COMMANDS if line.startswith("python serve.py") or "http://127.0.0.1:5001" in line]
PLAYED = [
    line for line in COMMANDS if line.startswith(("python simulate.py", "python abtest.py")) and line not in SERVED
]
WORLD = [word for word in SMALL if not word.startswith("sessions=")]
TARGETS = sorted({line.split()[1] for line in COMMANDS if line.startswith("make ")})


@pytest.mark.parametrize("words", TRAIN, ids=" ".join)
def test_a_train_command_runs(words: list[str], ring_logs: Path, tmp_path: Path) -> None:
    values = [word.replace("<folder>", str(ring_logs)) for word in words]
    if not any(word.startswith("datamodule") for word in values):
        values += ["world.num_tracks=300", "world.num_listeners=80", "datamodule.prepare.sessions=1500"]
    done = train(tmp_path, "trainer.max_epochs=1", *values)
    if "--cfg" in values:
        assert "ndcg_at_10" in done.stdout
        assert "${" not in done.stdout
        assert not (tmp_path / "outputs").exists()
    else:
        assert list(tmp_path.glob("outputs/train/**/metrics.json"))


def test_the_comparing_commands_run_one_after_another(ring_logs: Path, tmp_path: Path) -> None:
    few = {
        "track,artist,mean,convex,contextual": "artist,convex",
        "seed=1,2,3": "seed=1,2",
        "num_trials=20": "num_trials=2",
        "launcher=joblib": "launcher=joblib hydra.launcher.n_jobs=1",  # tests/e2e/test_sweeps.py has two at a time
    }
    for line in SWEEPS:
        for much, little in few.items():
            line = line.replace(much, little)
        [_, verb, *words] = shlex.split(line)
        if verb == "compare.py":
            compare(tmp_path, *words)
            continue
        source = "datamodule=botify", f"datamodule.path={ring_logs}", "trainer.accelerator=cpu"
        train(tmp_path, *words, *source, "trainer.max_epochs=1", "callbacks.plots=null")
    assert len(list(tmp_path.glob("outputs/train/*/*/metrics.json"))) == 4 + 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with logs of a small world and a model of them, and the id of its run."""
    cwd = tmp_path_factory.mktemp("trained")
    simulate(cwd, *SMALL, "sessions=2000", "hydra.run.dir=logs")
    words = "datamodule=botify", "datamodule.path=logs", "trainer.max_epochs=1", "callbacks.export.k=10"
    train(cwd, *words, "hydra.run.dir=model")
    return cwd, json.loads((cwd / "model" / "metrics.json").read_text())["mlflow_run_id"]


def words_of(line: str, run_id: str, port: int = 0) -> tuple[str, list[str]]:
    """The verb and the words of a command, with what stands in for the reader's own."""
    for placeholder, value in (
        ("<recommendations.jsonl>", "model/recommendations.jsonl"), ("<id>", run_id), ("<folder>", "logs"),
        ("<run folder>", "served"), (":5001", f":{port}"),
    ):  # fmt: skip
        line = line.replace(placeholder, value)
    [_, verb, *words] = shlex.split(line)
    return verb, words


@pytest.mark.parametrize("line", PLAYED)
def test_a_simulate_or_abtest_command_runs(line: str, trained: tuple[Path, str]) -> None:
    cwd, run_id = trained
    verb, words = words_of(line, run_id)
    small = list(WORLD) if "logs=" not in line else []
    few = ["sessions=200"] if small and "sessions=" not in line else []
    {"simulate.py": simulate, "abtest.py": abtest}[verb](cwd, *words, *small, *few)


def test_the_serving_commands_run_one_after_another(trained: tuple[Path, str]) -> None:
    cwd, run_id = trained
    first, second, load, listeners = SERVED
    with serving(cwd, *words_of(first, run_id)[1], run="first"):
        pass
    with serving(cwd, *words_of(second, run_id)[1], run="served") as service:
        before = service.version()
        serve(cwd, *words_of(load, run_id)[1])
        wait_until(lambda: service.version() != before, "the new version")
        verb, words = words_of(listeners, run_id, service.port)
        assert verb == "simulate.py"
        simulate(cwd, *words, *WORLD, "sessions=100", "hydra.run.dir=heard")
        record = json.loads((cwd / "heard" / "simulation.json").read_text())
        assert len(service.lines()) == record["arms"]["C"]["steps"] + record["arms"]["C"]["sessions"]


def test_the_readme_names_commands() -> None:
    assert len(SERVED) == 4
    assert len(PLAYED) >= 6
    assert len(TRAIN) >= 4
    assert len(SWEEPS) == 4
    assert {"train", "test"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
