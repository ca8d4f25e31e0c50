"""From event logs or playlists to a tracked MLflow run: checkpoint, metrics, `recommendations.jsonl`."""

from pathlib import Path

from omegaconf import DictConfig

from src.console import ROOT, console, frame_table, hush_libraries, metrics_table, verb


@verb("train")
def train(config: DictConfig) -> None:
    """Fit, test the best checkpoint, export and log."""
    import json

    hush_libraries()
    from hydra.utils import instantiate
    from pytorch_lightning import seed_everything

    from src.tracking import open_store, write_config

    run_dir = Path(config.run_dir)
    seed_everything(config.seed, workers=True, verbose=False)
    with console.status("reading events"):
        datamodule = instantiate(config.datamodule, _convert_="all")
        datamodule.setup()
    console.print(frame_table(datamodule.summary(), title=f"{config.datamodule.path}"))
    model = instantiate(config.ranker, _convert_="all")(vocabulary=datamodule.vocabulary)
    trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks, _convert_="all").values()),
        logger=config.logger and instantiate(config.logger, _convert_="all"),
        _convert_="all",
    )
    write_config(config, run_dir / "config.yaml", root=ROOT)
    if config.logger:
        open_store(config.logger.tracking_uri, config.logger.experiment_name)

    trainer.fit(model, datamodule)
    best = None if config.trainer.fast_dev_run else "best"
    trainer.test(model, datamodule, ckpt_path=best, weights_only=True, verbose=False)

    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    console.print(metrics_table(metrics, title=config.run_name))
    console.print(f"run folder   {run_dir}", soft_wrap=True)
    console.print("MLflow UI    make ui")
    console.print("next         python train.py -m model=track,artist,mean,convex,contextual")


if __name__ == "__main__":
    train()
