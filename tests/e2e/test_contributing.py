"""Everything that CONTRIBUTING.md adds, exactly as it says: contracts are tested, and each is used once."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import NUM_RING_TRACKS, ROOT
from tests.e2e.forks import fork_command

NOT_OURS = shutil.ignore_patterns(".*", "outputs", "data", "mlruns", "mlflow.db*", "optuna.db*", "experiments", "docs")
QUICK = ("trainer.accelerator=cpu", "trainer.max_epochs=2", "datamodule.batch_size=256", "~callbacks.plots")
BLOCKS = re.findall(
    r"^```(?:python|yaml|diff)\n(?:# at the end of|#|---) (\S+)\n(.*?)^```",
    (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
ADDED = ("one_table", "huber", "together", "steep", "recall_at_5")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with all blocks of the page: code at the end of a file, lines of a file changed, a new yaml file."""
    folder = tmp_path_factory.mktemp("contributor") / "segue"
    shutil.copytree(ROOT, folder, ignore=NOT_OURS, symlinks=True)
    for name, block in BLOCKS:
        path, lines = folder / name, block.splitlines(keepends=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        before, after = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
        if path.suffix == ".yaml":
            text = block
        elif before == after:
            text += "\n\n" + block
        else:
            assert text.count(before) == 1, f"{name} has not these lines of CONTRIBUTING.md:\n{before}"
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")
    return folder


def run(clone: Path, *words: str, code: int = 0) -> str:
    first = words[0] if words[0] == "-m" else str(clone / words[0])
    command = fork_command(first, *words[1:])
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_each_takes_ten_lines_at_most(name: str, block: str) -> None:
    code = re.sub(r'""".*?"""', "", block, flags=re.DOTALL) if name.endswith(".py") else block
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_their_contracts_are_tested(clone: Path) -> None:
    plainly = "-o", "addopts=", "-o", "filterwarnings="  # without shapes being checked, which takes half of the time
    printed = run(clone, "-m", "pytest", "-v", *plainly, "tests/contracts", "-k", " or ".join(ADDED))
    for name in ADDED:
        assert re.search(rf"\[.*{name}.*\] PASSED", printed), printed
    run(clone, "-m", "ruff", "check", *{name for name, _ in BLOCKS if name.endswith(".py")})


def test_a_head_is_searched_for_what_it_has_and_exported(clone: Path, ring_logs: Path) -> None:
    source = "datamodule=botify", f"datamodule.path={ring_logs}"
    run(
        clone,
        *("train.py", "-m", "search=optuna", "search.num_trials=1", "model=one_table", "loss=huber", *source, *QUICK),
        *("callbacks.export.k=5", "logger=none", "hydra.sweep.dir=search"),
        *("monitor.metric=val/recall_at_5", "monitor.mode=max"),
    )
    lists = (clone / "search/0/recommendations.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lists) == NUM_RING_TRACKS
    assert len(json.loads(lists[0])["recommendations"]) == 5
    columns = (clone / "search/search.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"model.dim", "optimizer.lr", "optimizer.weight_decay"} <= set(columns)
    assert not {"model.dropout", "model.track_dropout", "model.alpha", "loss.temperature"} & set(columns)


def test_a_setting_is_checked_and_changes_the_lists(clone: Path, ring_logs: Path) -> None:
    lists = set()
    for power in ("1.0", "3.0"):
        words = "model=together", f"model.power={power}", f"run_dir=power{power}", "logger=none", "~callbacks.plots"
        run(clone, "train.py", "datamodule=botify", f"datamodule.path={ring_logs}", *words)
        lists.add((clone / f"power{power}/recommendations.jsonl").read_text(encoding="utf-8"))
    assert len(lists) == 2
    refused = run(clone, "train.py", "datamodule=botify", "model=together", "model.power=0", code=2)
    assert "model.power must be a number above 0, got 0" in refused
