"""Every command of the README runs, on a small world and a small log in place of the reader's own."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.test_train import train

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
TRAIN = [shlex.split(line)[2:] for line in COMMANDS if line.startswith("python train.py")]
TARGETS = sorted({line.split()[1] for line in COMMANDS if line.startswith("make ")})


@pytest.mark.parametrize("words", TRAIN, ids=" ".join)
def test_a_train_command_runs(words: list[str], ring_logs: Path, tmp_path: Path) -> None:
    flags = [word for word in words if word.startswith("-")]
    values = [word.replace("<folder>", str(ring_logs)) for word in words if word not in flags]
    if not any(word.startswith("datamodule") for word in values):
        values += ["world.num_tracks=300", "world.num_listeners=80", "datamodule.prepare.sessions=1500"]
    train(tmp_path, *flags, *values, "trainer.max_epochs=1")
    assert list(tmp_path.glob("outputs/train/**/metrics.json"))


def test_the_readme_names_commands() -> None:
    assert len(TRAIN) >= 4
    assert {"setup", "train", "test"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
