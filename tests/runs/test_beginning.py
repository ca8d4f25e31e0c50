"""What is refused before a run begins, and what it leaves in its folder if it fails before it has learned."""

from pathlib import Path

import pytest

from segue.errors import InputError
from segue.runs.folder import check_recipe, lock_folder, refuse_used_folder
from tests.contracts.building import composed

BEGINNING = ["config.yaml", "run.json", "uncommitted.diff", "rejected.jsonl"]


def fail(folder: Path, error: type[BaseException], *written: str) -> set[str]:
    """What is in the folder of a run that fails after it has written these files."""
    for name in written:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(error), lock_folder(folder):
        raise error
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_failed_before_it_learned_anything_leaves_its_folder_to_another(tmp_path: Path) -> None:
    assert fail(tmp_path, InputError, *BEGINNING) == {"rejected.jsonl"}
    refuse_used_folder(tmp_path)


@pytest.mark.parametrize("learned", ["checkpoints/last.ckpt", "lists/part-0.npz"])
def test_a_run_that_failed_later_keeps_its_folder_for_resuming(tmp_path: Path, learned: str) -> None:
    assert fail(tmp_path, InputError, *BEGINNING, learned) == {*BEGINNING, learned}


def test_a_run_that_was_interrupted_keeps_its_folder(tmp_path: Path) -> None:
    assert fail(tmp_path, KeyboardInterrupt, *BEGINNING) == {*BEGINNING}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("model=convex", "recipe=counting"), "takes values from its recipe, and recipe=counting has none for it"),
        (("model=rules", "+optimizer.lr=1"), "optimizer cannot be used with model=rules, which has no gradients"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(words: tuple[str, ...], line: str) -> None:
    config = composed(*words)
    choices = config.hydra.runtime.choices
    with pytest.raises(InputError, match=line):
        check_recipe(config, model=choices.model, recipe=choices.recipe)


@pytest.mark.parametrize("words", [("model=convex",), ("model=rules",), ("datamodule=yes", "model=contextual")])
def test_a_recipe_that_fits_is_not(words: tuple[str, ...]) -> None:
    config = composed(*words)
    choices = config.hydra.runtime.choices
    check_recipe(config, model=choices.model, recipe=choices.recipe)
