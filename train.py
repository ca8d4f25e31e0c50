"""From event logs or playlists to a tracked MLflow run: checkpoint, metrics, `recommendations.jsonl`."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.runs.resume import command_line
from src.sweeps.jobs import Sweep
from src.sweeps.search import Search
from src.sweeps.search_words import search_as_sweeper
from src.terminal.console import console
from src.terminal.entry import verb
from src.terminal.quiet import hush_libraries
from src.terminal.tables import frame_table, metrics_table
from src.tracking.previous_runs import folder_of, join_sweep, same_runs

if TYPE_CHECKING:
    from src.datamodules.pair_datamodule import PairDataModule
    from src.runs.resume import PreviousRun


def _words(words: list[str]) -> list[str]:
    return search_as_sweeper(command_line(words, folder_of))


@verb("train", rewrite=_words, sweepers=[Sweep, Search])
def train(config: DictConfig) -> float:
    """Fit, test the best checkpoint, export and log; or go on with a run that was stopped.

    Returns:
        The best value of the monitored metric, for a search.
    """
    hush_libraries()
    from src.errors import check_number
    from src.runs.folder import hold, setup_name
    from src.runs.resume import named_run, run_to_resume

    _check_choices(config)
    check_number("trainer.devices", config.trainer.devices, whole=True, least=1, most=1, hint="runs use one device")
    hydra = HydraConfig.get()
    chosen = {"model": hydra.runtime.choices["model"], "experiment": hydra.runtime.choices["experiment"]}
    setup = setup_name(**chosen, alpha=config.model.get("alpha"), overrides=hydra.overrides.task, swept=config.swept)
    config.run_name = config.run_name or f"{setup} seed={config.seed}"
    named = named_run(config)
    datamodule = _data(config)
    same = same_runs(config, datamodule.digest()) if config.resume is True else []
    previous = run_to_resume(named, same, data=datamodule.path, data_digest=datamodule.digest())
    if previous:
        join_sweep(config, previous)
        if previous.value is not None:
            console.print(
                f"{config.run_name}: done already, run {previous.run_id} in {previous.run_dir}", soft_wrap=True
            )
            return previous.value
        config.run_dir = str(previous.run_dir)
    with hold(Path(config.run_dir)):
        return _run(config, datamodule, previous, setup)


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


def _run(config: DictConfig, datamodule: "PairDataModule", earlier: "PreviousRun | None", setup: str) -> float:
    from hydra.utils import instantiate
    from pytorch_lightning import seed_everything

    from src.runs.folder import RunRecord, as_dict, parameters, write_config
    from src.runs.resume import config_digest, setup_digest
    from src.tracking.logger import RunLogger
    from src.tracking.store import PRUNED, open_store, run_colour

    run_dir = Path(config.run_dir)
    begun = RunRecord.read(run_dir) if earlier else None
    seed_everything(config.seed, workers=True, verbose=False)
    console.print(frame_table(datamodule.summary(), title=str(datamodule.path)))
    model = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    callbacks = instantiate(config.callbacks, _convert_="all").values()
    callbacks = [made(datamodule) if isinstance(made, partial) else made for made in callbacks if made is not None]
    pruning = None
    if config.trial:
        from src.callbacks.pruning import Pruning

        pruning = Pruning(**config.trial, monitor=config.monitor.metric)
        callbacks.append(pruning)
    tracked = None
    if config.get("logger"):
        open_store(config.logger.tracking_uri, config.logger.experiment_name)
        above = {"mlflow.parentRunId": config.parent_run_id} if config.parent_run_id else {}
        run_id = begun.mlflow_run_id if begun else None
        tracked = instantiate(config.logger, _convert_="all", tags=above, run_id=run_id)
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=tracked or False, _convert_="all")
    logger = trainer.logger if isinstance(trainer.logger, RunLogger) else None  # a fast_dev_run has none
    if logger:
        logger.start()
        logger.log_hyperparams(parameters(config))
        digests = {"setup_digest": setup_digest(config), "config_digest": config_digest(config)}
        logger.log_tags({"setup": setup, **digests, "mlflow.runColor": run_colour(setup)})
    write_config(as_dict(config), run_dir / "config.yaml", again=bool(earlier))
    RunRecord(
        overrides=[word for word in HydraConfig.get().overrides.task if not word.startswith("resume=")],
        mlflow_run_id=logger.run_id if logger else (begun.mlflow_run_id if begun else None),
        data_digest=datamodule.digest(),
        began_in=str(Path.cwd()),
        run_dir=str(run_dir.resolve()),
    ).write(run_dir)

    trainer.fit(model, datamodule, ckpt_path=earlier and earlier.checkpoint, weights_only=True)
    if pruning and pruning.pruned:  # nobody will want what it would test and export
        if logger:
            logger.log_tags({PRUNED: "true"})
            logger.finish()
        return float("nan")
    best = None if config.trainer.fast_dev_run else "best"
    trainer.test(model, datamodule, ckpt_path=best, weights_only=True, verbose=False)
    if logger:
        logger.finish()

    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    console.print(metrics_table(metrics, title=config.run_name))
    _say_what_next(config)
    return float(metrics[config.monitor.metric])


def _say_what_next(config: DictConfig) -> None:
    choices, run_dir = HydraConfig.get().runtime.choices, config.run_dir
    lines = {"run folder": run_dir}
    if config.get("logger"):
        store = config.logger.tracking_uri
        lines["MLflow UI"] = store if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"
    if config.parent_run_id is None:
        source = f"datamodule={choices['datamodule']} datamodule.path={config.datamodule.path}"
        lines["next"] = f"python train.py -m model=track,artist,mean,convex,contextual {source}"
        if choices["datamodule"] == "simulated" and config.callbacks.export is not None:
            arms = f"'arms={{C: popular, T1: {run_dir}/recommendations.jsonl}}'"
            lines[""] = f"python simulate.py {arms} world={choices['world']}"
    for name, line in lines.items():
        console.print(f"{name:12} {line}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    train()
