"""From event logs or playlists to a tracked MLflow run: checkpoint, metrics, `recommendations.jsonl`."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.terminal.console import ROOT, console, hush_libraries, verb
from src.terminal.next_steps import next_steps
from src.terminal.tables import frame_table, metrics_table

if TYPE_CHECKING:
    from src.datamodules.pair_datamodule import PairDataModule
    from src.runs.resume import Earlier


@verb("train")
def train(config: DictConfig) -> float:
    """Fit, test the best checkpoint, export and log; or go on with a run that was stopped.

    Returns:
        The best value of the monitored metric, for a search.
    """
    hush_libraries()
    from src.errors import InputError, check_number
    from src.runs.folder import Begun, hold, refuse_used_folder, setup_name
    from src.runs.resume import named_run, same_run
    from src.tracking.store import mark

    hydra = HydraConfig.get()
    _check_choices(config)
    check_number("trainer.devices", config.trainer.devices, whole=True, least=1, most=1, hint="runs use one device")
    named = {"model": hydra.runtime.choices["model"], "experiment": hydra.runtime.choices["experiment"]}
    setup = setup_name(**named, alpha=config.model.get("alpha"), overrides=hydra.overrides.task, swept=config.swept)
    config.run_name = config.run_name or f"{setup} seed={config.seed}"
    earlier = named_run(config)
    if not earlier:
        refuse_used_folder(Path(config.run_dir))
    datamodule = _data(config)
    if earlier and Begun.read(earlier.run_dir).data_digest != datamodule.digest():
        raise InputError(
            f"resume={earlier.run_dir}: {datamodule.path} has other data than it began with; start a new run"
        )
    if config.resume is True:
        earlier = same_run(config, datamodule.digest())
    if earlier and config.parent_run_id and earlier.run_id:
        mark(config.logger.tracking_uri, earlier.run_id, f"sweep.{config.parent_run_id}")
    if earlier and earlier.value is not None:
        console.print(f"{config.run_name}: done already, run {earlier.run_id} in {earlier.run_dir}", soft_wrap=True)
        return earlier.value
    if earlier:
        config.run_dir = str(earlier.run_dir)
    with hold(Path(config.run_dir)):
        return _run(config, datamodule, earlier, setup)


def _check_choices(config: DictConfig) -> None:
    """Choices that contradict each other.

    Raises:
        InputError: the worst epoch would be kept, a recipe does not fit the model, or a baseline is given what only
            gradients have a use for.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError

    from src.comparison.analysis import direction
    from src.errors import InputError

    metric, mode = config.monitor.metric, config.monitor.mode
    if mode not in ("max", "min"):
        raise InputError(f"monitor.mode must be max or min, got {mode}")
    if (better := direction(metric)) and mode != better:
        best = {"max": "highest", "min": "lowest"}[better]
        raise InputError(
            f"monitor.mode={mode} would keep the worst epoch: the {best} {metric} is the best; "
            f"say monitor.mode={better}"
        )
    model, recipe = (HydraConfig.get().runtime.choices[group] for group in ("model", "recipe"))
    try:
        OmegaConf.to_container(config.model, resolve=True)
    except InterpolationKeyError:
        raise InputError(
            f"model={model} takes values from its recipe, and recipe={recipe} has none for it; leave out recipe=, so "
            "that datamodule= names it"
        ) from None
    given = [key for key in ("loss", "optimizer", "scheduler") if key in config]
    if "loss" not in config.ranker and given:
        raise InputError(f"{given[0]} means nothing to model={model}, which has no gradients; leave it out")


def _data(config: DictConfig) -> "PairDataModule":
    from hydra.utils import instantiate

    with console.status("preparing"):
        datamodule: PairDataModule = instantiate(config.datamodule, _convert_="all")
    datamodule.prepare_data()
    with console.status("reading events"):
        datamodule.setup()
    return datamodule


def _run(config: DictConfig, datamodule: "PairDataModule", earlier: "Earlier | None", setup: str) -> float:
    from hydra.utils import instantiate
    from pytorch_lightning import Trainer, seed_everything
    from pytorch_lightning.callbacks import Checkpoint

    from src.callbacks.assembly import make_callbacks
    from src.callbacks.context import RunContext
    from src.errors import check_number
    from src.runs.beginning import record_beginning
    from src.runs.folder import Begun
    from src.tracking.training_run import begin_run, end_pruned, make_logger, run_logger

    hydra, run_dir = HydraConfig.get(), Path(config.run_dir)
    seed_everything(config.seed, workers=True, verbose=False)
    console.print(frame_table(datamodule.summary(), title=str(datamodule.path)))
    model = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    check_number("trainer.max_epochs", config.trainer.max_epochs, whole=True, least=1)
    context = RunContext(datamodule=datamodule)
    chosen = instantiate(config.callbacks, _convert_="all")
    callbacks = make_callbacks(chosen, context, monitor=config.monitor.metric, trial=config.trial)
    run_id = Begun.read(run_dir).mlflow_run_id if earlier else None
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=make_logger(config, run_id) or False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        _convert_="all",
    )
    data_digest = datamodule.digest()
    if logger := run_logger(trainer):
        begin_run(logger, config, setup=setup, data_digest=data_digest)
        run_id = logger.run_id
    record_beginning(
        config,
        words=hydra.overrides.task,
        data_digest=data_digest,
        mlflow_run_id=run_id,
        root=ROOT,
        again=bool(earlier),
    )

    trainer.fit(model, datamodule, ckpt_path=earlier.checkpoint if earlier else None, weights_only=True)
    if context.is_pruned():  # nobody will want what it would test and export
        if logger:
            end_pruned(logger)
        return float("nan")
    best = "best" if trainer.checkpoint_callback and not config.trainer.fast_dev_run else None
    trainer.test(model, datamodule, ckpt_path=best, weights_only=True, verbose=False)
    written = context.history.write(run_dir, mlflow_run_id=logger.run_id if logger else None)
    if logger:
        logger.log_file(written)
        logger.finish()

    metrics = context.history.metrics()
    console.print(metrics_table(metrics, title=config.run_name))
    console.print(next_steps(config, hydra.runtime.choices, context.recommendations), soft_wrap=True, markup=False)
    return metrics[config.monitor.metric]


if __name__ == "__main__":
    train()
