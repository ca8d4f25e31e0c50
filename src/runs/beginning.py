"""What a run leaves in its folder before it trains."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from src.runs.folder import RunRecord, as_dict, write_config


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
