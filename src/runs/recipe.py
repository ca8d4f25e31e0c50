"""Whether a recipe fits the model that is to be trained by it."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from segue.errors import InputError


def named_recipe(overrides: Sequence[str], recipe: str) -> str | None:
    """The recipe, if the command line chose it; None where the source or the model named its own.

    Args:
        overrides: of the command line, all of them.
        recipe: what was chosen in the end.
    """
    return recipe if any(word.startswith(("recipe=", "experiment=")) for word in overrides) else None


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
