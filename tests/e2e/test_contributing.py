"""A new head, exactly as CONTRIBUTING.md says: its contract is tested, it is searched and exported."""

import json
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.conftest import NUM_RING_TRACKS, ROOT
from tests.e2e.forks import fork_command

NOT_OURS = shutil.ignore_patterns(".*", "outputs", "data", "mlruns", "mlflow.db*", "optuna.db*", "experiments", "docs")
QUICK = ("trainer.accelerator=cpu", "trainer.max_epochs=2", "model.dim=16", "datamodule.batch_size=256")


def steps() -> dict[str, str]:
    """The blocks of code of CONTRIBUTING.md by their language."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(python|yaml)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return {language: textwrap.dedent(block) for language, block in blocks}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with one class, one yaml and one line more."""
    folder = tmp_path_factory.mktemp("contributor") / "segue"
    shutil.copytree(ROOT, folder, ignore=NOT_OURS, symlinks=True)
    heads, listed = folder / "src/models/heads.py", folder / "tests/contracts/test_heads.py"
    heads.write_text(heads.read_text(encoding="utf-8") + "\n\n" + steps()["python"], encoding="utf-8")
    (folder / "conf/model/one_table.yaml").write_text(steps()["yaml"], encoding="utf-8")
    before = listed.read_text(encoding="utf-8")
    listed.write_text(before.replace("HEADS = [", 'HEADS = ["one_table", ', 1), encoding="utf-8")
    return folder


def run(clone: Path, *words: str) -> str:
    first = words[0] if words[0] == "-m" else str(clone / words[0])
    command = fork_command(first, *words[1:])
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_contract_is_tested_and_nothing_else_has_to_know_it(clone: Path) -> None:
    tests = "tests/contracts/test_heads.py", "tests/contracts/test_rankers.py"
    plainly = "-o", "addopts=", "-o", "filterwarnings="  # without shapes being checked, which takes half of the time
    printed = run(clone, "-m", "pytest", "-q", *plainly, *tests, "-k", "one_table or listed_here")
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 20
    run(clone, "-m", "ruff", "check", "src/models/heads.py")


def test_it_is_searched_for_what_it_has_and_exported(clone: Path, ring_logs: Path) -> None:
    source = "datamodule=botify", f"datamodule.path={ring_logs}"
    quick = [word for word in QUICK if not word.startswith("model.")]
    run(
        clone,
        *("train.py", "-m", "search=optuna", "search.num_trials=1", "model=one_table", *source, *quick),
        *("callbacks.export.k=5", "~callbacks.plots", "logger=none", "hydra.sweep.dir=search"),
    )
    lists = (clone / "search/0/recommendations.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lists) == NUM_RING_TRACKS
    assert len(json.loads(lists[0])["recommendations"]) == 5
    columns = (clone / "search/search.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"model.dim", "model.alpha", "optimizer.lr", "optimizer.weight_decay"} <= set(columns)
    assert not {"model.dropout", "model.track_dropout", "loss.temperature"} & set(columns)
