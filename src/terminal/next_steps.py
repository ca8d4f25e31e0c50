"""What a run of `train.py` left, and which command could come next."""

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig


def next_steps(config: DictConfig, choices: Mapping[str, str], recommendations: Path | None) -> str:
    """Lines for a person.

    Args:
        config: of the run, all of it.
        choices: the name that was chosen of each group of conf.
        recommendations: the file that was exported; None where none was.
    """
    lines = {"run folder": config.run_dir}
    if config.get("logger"):
        store = config.logger.tracking_uri
        lines["MLflow UI"] = store if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"
    if config.parent_run_id is None:
        source = f"datamodule={choices['datamodule']} datamodule.path={config.datamodule.path}"
        lines["next"] = f"python train.py -m model=track,artist,mean,convex,contextual {source}"
        if choices["datamodule"] == "simulated" and recommendations is not None:
            arms = f"'arms={{C: popular, T1: {recommendations}}}'"
            lines[""] = f"python simulate.py {arms} world={choices['world']}"
    return "\n".join(f"{name:12} {line}" for name, line in lines.items())
