"""Which recipe `datamodule=table` and `datamodule=shards` get: that of the data.

A table has `shares` if its columns give a share played, else `playlists`. Shards have the recipe that they were
prepared for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


def choose_recipe(words: Sequence[str], compose: "Callable[[list[str]], DictConfig]") -> list[str]:
    """The choice that the data add to the command line.

    Args:
        words: of the command line.
        compose: from words to a config.

    Returns:
        A choice of `datamodule=`; nothing where another source is chosen, where the usual recipe fits, and where the
        data cannot be read with these settings, which the run reports.
    """
    if not {"datamodule=table", "datamodule=shards"} & {*words}:
        return []
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from segue.errors import InputError

    try:
        config = compose([word for word in words if word.lstrip("+~").startswith("datamodule")])
        source = config.hydra.runtime.choices.datamodule
        recipe = {"table": _recipe_of_table, "shards": _recipe_of_shards}[source](config.datamodule)
    except (HydraException, OmegaConfBaseException, InputError, OSError, ValueError, KeyError, TypeError):
        return []  # also where another `datamodule=` is typed after it
    return [] if recipe == "shares" else [f"datamodule={source}_{recipe}"]


def _recipe_of_shards(datamodule: Any) -> str:
    import json

    return str(json.loads(Path(datamodule.path, "manifest.json").read_text(encoding="utf-8"))["recipe"])


def _recipe_of_table(datamodule: Any) -> str:
    from segue.datamodules.reading.table import look_at
    from segue.datamodules.reading.table_settings import settings_in

    return "playlists" if look_at(datamodule.path, settings_in(datamodule)).share == "none" else "shares"
