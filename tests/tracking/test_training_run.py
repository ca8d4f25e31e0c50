"""What MLflow knows of a training before it begins: all that finding it again needs, whatever callbacks there are."""

from pathlib import Path
from unittest.mock import create_autospec

import mlflow
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from segue.tracking.logger import RunLogger, build_logger, run_logger, start_run


def config_of(folder: Path, **changes: object) -> DictConfig:
    logger = {
        "_target_": "segue.tracking.logger.RunLogger",
        "experiment_name": "segue",
        "run_name": "a run",
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "patience_s": 1.0,
    }
    config = {"run_dir": f"{folder}/run", "run_name": "a run", "parent_run_id": None, "seed": 3, "logger": logger}
    return OmegaConf.create({**config, **changes})


def test_a_run_begins_with_what_finds_it_again(tmp_path: Path) -> None:
    config = config_of(tmp_path, parent_run_id="above")
    logger = build_logger(config, run_id=None)
    assert logger is not None
    start_run(logger, config, setup="track", source="yes", data_digest="of the data")
    run = mlflow.MlflowClient(config.logger.tracking_uri).get_run(logger.run_id)
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == "above"
    assert (tags["setup"], tags["data_digest"], tags["run_dir"]) == ("track", "of the data", config.run_dir)
    assert len(tags["config_digest"]) == len(tags["setup_digest"]) == 16
    assert run.data.params == {"seed": "3"}


def test_where_no_logger_is_chosen_there_is_none(tmp_path: Path) -> None:
    assert build_logger(config_of(tmp_path, logger=None), run_id=None) is None
    assert not list(tmp_path.iterdir())


def test_the_logger_of_a_trainer_is_ours_or_none() -> None:
    ours = create_autospec(RunLogger, instance=True)
    assert run_logger(create_autospec(Trainer, instance=True, logger=ours)) is ours
    assert run_logger(create_autospec(Trainer, instance=True, logger=None)) is None
