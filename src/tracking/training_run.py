"""One training in MLflow: its logger, and what is logged of it before training begins."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from segue.runs.folder import parameters
from segue.runs.resume import config_digest, setup_digest
from segue.tracking.logger import RunLogger
from segue.tracking.store import PRUNED, open_store, run_colour


def build_logger(config: DictConfig, run_id: str | None) -> RunLogger | None:
    """The logger that the config chose, with its store open; None where it chose none.

    Args:
        config: all of it.
        run_id: the run to resume; None for a new one.

    Raises:
        InputError: the store cannot be opened.
    """
    if not config.get("logger"):
        return None
    open_store(config.logger.tracking_uri, config.logger.experiment_name)
    tags = {"mlflow.parentRunId": config.parent_run_id} if config.parent_run_id else {}
    logger: RunLogger = instantiate(config.logger, _convert_="all", tags=tags, run_id=run_id)
    return logger


def run_logger(trainer: Trainer) -> RunLogger | None:
    """The logger of a trainer; None where it has none, as in a `fast_dev_run`."""
    return trainer.logger if isinstance(trainer.logger, RunLogger) else None


def start_run(logger: RunLogger, config: DictConfig, *, setup: str, source: str, data_digest: str) -> None:
    """Start or resume the run, and log its parameters, its set-up and the digests by which it is found again.

    Args:
        logger: of the run.
        config: all of it.
        setup: name of the set-up.
        source: name of the source in `conf/datamodule/`.
        data_digest: digest of its data.

    Raises:
        InputError: the store cannot be reached, or has no such run.
    """
    logger.start()
    logger.log_hyperparams(parameters(config))
    digests = {"setup_digest": setup_digest(config), "config_digest": config_digest(config), "data_digest": data_digest}
    logger.log_tags(
        {
            "setup": setup,
            "source": source,
            "mlflow.runColor": run_colour(setup),
            "run_dir": str(Path(config.run_dir)),
            **digests,
        }
    )


def end_pruned(logger: RunLogger) -> None:
    """End a run that a search pruned."""
    logger.log_tags({PRUNED: "true"})
    logger.finish()
