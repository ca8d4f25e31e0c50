"""What `conf/` makes of a name, as a run would: heads, losses and whole rankers."""

from functools import cache
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from segue.catalog import Vocabulary
from segue.models.contracts import Loss, Scorer
from segue.models.ranker import Ranker
from segue.verbs.terminal.hydra_parts import know_defaults
from tests.conftest import ROOT

CONF = ROOT / "conf"


@cache
def composed(*overrides: str) -> Any:
    """The config of `python train.py <overrides>`."""
    know_defaults()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["run_dir=x", "run_name=x", *overrides], return_hydra_config=True)


def names(group: str) -> list[str]:
    """All choices of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def target_of(model: str) -> str:
    """The dotted name of what the yaml file of a model, or the one that it begins with, builds."""
    config = yaml.safe_load((CONF / f"model/{model}.yaml").read_text(encoding="utf-8"))
    return str(config["_target_"] if "_target_" in config else target_of(config["defaults"][0]))


def models_of(module: str) -> list[str]:
    """All choices of `model=` that are built by a module, or by a folder of modules, of `src/models/`."""
    return [model for model in names("model") if target_of(model).startswith(f"segue.models.{module}.")]


def make_head(model: str, *words: str, vocabulary: Vocabulary, recipe: str) -> Scorer:
    """A head of the usual size, from its yaml, a recipe and other words of the command line."""
    torch.manual_seed(0)
    config = composed(f"model={model}", f"recipe={recipe}", *words)
    head: Scorer = instantiate(config.model, _convert_="all")(vocabulary)
    return head


def make_loss(loss: str, vocabulary: Vocabulary) -> Loss:
    """A loss, from its yaml."""
    made: Loss = instantiate(composed(f"loss={loss}").loss, _convert_="all")(vocabulary)
    return made


def config_of_ranker(model: str, context: str = "last") -> Any:
    """The config of a small model of any kind, from its yaml and the recipe that goes with it."""
    own = composed(f"model={model}").model
    words = ["model.dim=8"] * ("dim" in own)
    return composed(f"model={model}", f"context={context}", *words).ranker


def make_ranker(model: str, vocabulary: Vocabulary, context: str = "last") -> Ranker:
    """A small model of any kind with the module that fits it."""
    torch.manual_seed(0)
    made: Ranker = instantiate(config_of_ranker(model, context), _convert_="all")(vocabulary=vocabulary)
    return made


def fit(model: LightningModule, datamodule: LightningDataModule, epochs: int) -> Trainer:
    """Train on the CPU and leave nothing behind."""
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule)
    return trainer
