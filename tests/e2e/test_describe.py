"""`describe.py` as its user meets it: before training."""

import json
import shlex
from pathlib import Path

import pytest

from tests.e2e.running import run_verb
from tests.e2e.test_train import train

SMALL = ("trainer.max_epochs=1", "callbacks.plots=null", "callbacks.export.k=10", "logger=none")


@pytest.fixture(scope="module")
def described(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder, and what was printed."""
    cwd = tmp_path_factory.mktemp("described")
    words = "datamodule=botify", f"datamodule.path={ring_logs}", "hydra.run.dir=answer"
    return cwd / "answer", run_verb("describe.py", cwd, *words).stdout


def test_the_run_folder_has_the_numbers_and_the_picture(described: tuple[Path, str]) -> None:
    folder, printed = described
    assert {path.name for path in folder.iterdir()} == {"describe.json", "describe.png"}
    record = json.loads((folder / "describe.json").read_text(encoding="utf-8"))
    assert (record["num_events"], record["num_users"], record["num_tracks"]) == (3200, 50, 60)
    assert record["warnings"] == []
    assert "describe.py datamodule=botify" in record["provenance"]["command"]
    assert "run folder   " in printed


def test_the_next_command_trains_on_the_same_data(described: tuple[Path, str], tmp_path: Path) -> None:
    folder, printed = described
    [command] = [line.removeprefix("next").strip() for line in printed.splitlines() if line.startswith("next ")]
    python, verb, *words = shlex.split(command)
    assert (python, verb) == ("python", "train.py")
    train(tmp_path, *words, *SMALL, "hydra.run.dir=run")
    record = json.loads((folder / "describe.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data_digest"] == record["data_digest"]
