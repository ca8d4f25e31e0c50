"""What a run leaves in its folder if it fails before it has learned anything."""

from pathlib import Path

import pytest

from segue.errors import InputError
from segue.runs.beginning import freed_if_nothing_was_learned
from segue.runs.folder import refuse_used_folder

BEGINNING = ["config.yaml", "run.json", "uncommitted.diff", ".lock", "rejected.jsonl"]


def fail(folder: Path, error: type[BaseException], *written: str) -> set[str]:
    """What is in the folder of a run that fails after it has written these files."""
    for name in written:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(error), freed_if_nothing_was_learned(folder):
        raise error
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_failed_before_it_learned_anything_leaves_its_folder_to_another(tmp_path: Path) -> None:
    assert fail(tmp_path, InputError, *BEGINNING) == {".lock", "rejected.jsonl"}
    refuse_used_folder(tmp_path)


@pytest.mark.parametrize("learned", ["checkpoints/last.ckpt", "lists/part-0.npz"])
def test_a_run_that_failed_later_keeps_its_folder_for_resuming(tmp_path: Path, learned: str) -> None:
    assert fail(tmp_path, InputError, *BEGINNING, learned) == {*BEGINNING, learned}


def test_a_run_that_was_interrupted_keeps_its_folder(tmp_path: Path) -> None:
    assert fail(tmp_path, KeyboardInterrupt, *BEGINNING) == {*BEGINNING}
