"""What is refused before a run begins, and what it leaves in its folder before it trains."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from segue.errors import InputError
from segue.runs.folder import LOCK, RECORD, RunRecord, as_dict, write_config

UNCOMMITTED = "uncommitted.diff"
"""What a run folder has of the changes that were not committed."""

_OF_THE_BEGINNING = {"config.yaml", RECORD, UNCOMMITTED}
_OF_ALL_RUNS = {LOCK, "rejected.jsonl"}


def check_recipe(config: DictConfig, *, model: str, recipe: str) -> None:
    """Refuse a recipe whose values the model cannot take, before any data are read.

    Args:
        config: all of it.
        model: its name in `conf/model/`.
        recipe: its name in `conf/recipe/`.

    Raises:
        InputError: the recipe has no values for the model, or a baseline gets settings of gradient training.
    """
    try:
        OmegaConf.to_container(config.model, resolve=True)
    except InterpolationKeyError:
        raise InputError(
            f"model={model} takes values from its recipe, and recipe={recipe} has none for it; leave out recipe=, so "
            "that datamodule= names it"
        ) from None
    given = [key for key in ("loss", "optimizer", "scheduler") if key in config]
    if "loss" not in config.ranker and given:
        raise InputError(f"{given[0]} cannot be used with model={model}, which has no gradients; leave it out")


def record_beginning(
    config: DictConfig, *, words: Sequence[str], data_digest: str, mlflow_run_id: str | None, is_resumed: bool
) -> None:
    """Write `config.yaml` and `run.json`.

    Args:
        config: all of it.
        words: the overrides of the command line.
        data_digest: of the data that the run learns from.
        mlflow_run_id: of MLflow, if it has one.
        is_resumed: whether the folder has this run already.

    Raises:
        InputError: the folder holds another run.
    """
    run_dir = Path(config.run_dir)
    write_config(as_dict(config), run_dir / "config.yaml", is_resumed=is_resumed)
    RunRecord(
        overrides=[word for word in words if not word.startswith(("resume=", "trust="))],
        mlflow_run_id=mlflow_run_id,
        data_digest=data_digest,
        began_in=str(Path.cwd()),
        run_dir=str(run_dir.resolve()),
    ).write(run_dir)


@contextmanager
def freed_if_nothing_was_learned(run_dir: Path) -> Iterator[None]:
    """Free the folder of a run that fails before it has written anything of its own, so that it can take another run.

    A failed run whose folder has more, such as a checkpoint, keeps its folder, where it can be resumed.

    Args:
        run_dir: the folder.
    """
    try:
        yield
    except Exception:
        if {path.name for path in run_dir.iterdir()} <= _OF_THE_BEGINNING | _OF_ALL_RUNS:
            for name in _OF_THE_BEGINNING:
                (run_dir / name).unlink(missing_ok=True)
        raise
