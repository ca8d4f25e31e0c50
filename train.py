"""From event logs or playlists to a tracked MLflow run: checkpoint, metrics, `recommendations.jsonl`."""

from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.console import ROOT, console, frame_table, hush_libraries, metrics_table, verb


@verb("train")
def train(config: DictConfig) -> None:
    """Fit, test the best checkpoint, export and log."""
    import json

    hush_libraries()
    from hydra.utils import instantiate
    from pytorch_lightning import seed_everything

    from src.errors import check_number
    from src.tracking import open_store, refuse_used_folder, run_name, write_config

    run_dir, logger = Path(config.run_dir), config.get("logger")  # None for logger=none
    refuse_used_folder(run_dir)
    check_number("trainer.devices", config.trainer.devices, whole=True, least=1, most=1, hint="runs use one device")
    chosen = HydraConfig.get().runtime.choices
    config.run_name = config.run_name or run_name(
        model=chosen["model"], alpha=config.model.alpha, experiment=chosen["experiment"], seed=config.seed
    )
    with console.status("preparing"):
        datamodule = instantiate(config.datamodule, _convert_="all")
    datamodule.prepare_data()
    with console.status("reading events"):
        datamodule.setup()
    seed_everything(config.seed, workers=True, verbose=False)
    console.print(frame_table(datamodule.summary(), title=str(datamodule.path)))
    model = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    callbacks = instantiate(config.callbacks, _convert_="all").values()
    callbacks = [made(datamodule) if isinstance(made, partial) else made for made in callbacks]
    if logger:
        open_store(logger.tracking_uri, logger.experiment_name)  # before MLFlowLogger, which would make it unlocked
    trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=instantiate(logger, _convert_="all") if logger else False,
        _convert_="all",
    )
    write_config(OmegaConf.to_container(config, resolve=True), run_dir / "config.yaml", root=ROOT)

    trainer.fit(model, datamodule)
    best = None if config.trainer.fast_dev_run else "best"
    trainer.test(model, datamodule, ckpt_path=best, weights_only=True, verbose=False)

    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    console.print(metrics_table(metrics, title=config.run_name))
    console.print(f"run folder   {run_dir}", soft_wrap=True, markup=False)
    if logger:
        console.print(f"MLflow UI    mlflow ui --backend-store-uri {logger.tracking_uri}", soft_wrap=True)
    models = "track,artist,mean,convex,contextual"
    source = f"datamodule={chosen['datamodule']} datamodule.path={config.datamodule.path}"
    console.print(f"next         python train.py -m model={models} {source}", soft_wrap=True, markup=False)
    if chosen["datamodule"] == "simulated":
        arms = f"'arms={{C: popular, T1: {run_dir}/recommendations.jsonl}}'"
        world = f"world={chosen['world']}"
        console.print(f"             python simulate.py {arms} {world}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    train()
