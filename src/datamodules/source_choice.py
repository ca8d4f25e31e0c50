"""Which source and which recipe the command line chooses, and whether it says of which source a path is."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segue.errors import InputError
from segue.runs.provenance import CONF


def check_source_choice(datamodule: str, overrides: Sequence[str]) -> None:
    """Refuse a path of the user's without its source, before simulated logs are written to it.

    Args:
        datamodule: the file of `conf/datamodule/` that was chosen.

    Raises:
        InputError: `datamodule.path=` is given, `datamodule=` is not, and nothing else chose a source.
    """
    values = dict(word.lstrip("+").partition("=")[::2] for word in overrides)
    chosen, path = values.get("datamodule", "{}"), values.get("datamodule.path")
    if chosen.startswith("{"):  # settings, and no source: datamodule={path: <folder>}
        path = path or next(iter(re.findall(r"\bpath:\s*([^,}]+)", chosen)), None)
    if datamodule != "simulated" or path is None or not chosen.startswith("{"):
        return
    found = sources_of(Path(path.strip("'\"")))
    has = f"it has the files of {found[0]}: " if found else ""
    raise InputError(
        f"datamodule.path={path} does not say what the files are; {has}type {option_of(path)} (or "
        "datamodule=simulated, which writes logs of the simulated world into that folder)"
    )


def option_of(path: str) -> str:
    """What has to be typed for data: their source and their path, or the source alone if it is its name.

    Args:
        path: a path, in quotes or not, or the name of a source.
    """
    plain = path.strip("'\"")
    if (CONF / "datamodule" / f"{plain}.yaml").is_file():
        return f"datamodule={plain}"
    return f"datamodule={next(iter(sources_of(Path(plain))), 'table')} datamodule.path={path}"


def refuse_shards(datamodule: str) -> None:
    """Refuse shards where a source is needed.

    Raises:
        InputError: it is one of shards.
    """
    if datamodule.startswith("shards"):
        raise InputError("datamodule=shards has pairs already; give the source that they were prepared from")


def refuse_open_recipe(recipe: str) -> None:
    """Refuse `recipe=auto` where nothing is trained that could be compared.

    Raises:
        InputError: it is `auto`.
    """
    if recipe == "auto":
        raise InputError("recipe=auto is a choice of train.py, which trains; name a recipe, or leave recipe= out")


def sources_of(folder: Path) -> list[str]:
    """Names of the sources whose files of events and of tracks a folder has, in the order of the alphabet.

    Only sources that name both kinds of files are looked for; their names alone say little.
    """
    found = []
    for config in sorted((CONF / "datamodule").glob("*.yaml")):
        source = OmegaConf.load(config)  # its own values alone
        events, tracks = OmegaConf.select(source, "files.pattern"), OmegaConf.select(source, "catalogue.file")
        names_both = isinstance(events, str) and isinstance(tracks, str) and config.stem != "default"
        if names_both and folder.is_dir() and any(folder.glob(tracks)) and any(folder.glob(events)):
            found.append(config.stem)
    return found


# Settings that say which model is trained, or how.
_OF_A_MODEL = ("recipe", "model", "experiment", "ranker", "loss", "optimizer", "scheduler", "monitor", "add")
# Words that are about a model which has been chosen: a search of its settings, and training in several processes.
_OF_MANY = ("hydra/sweeper=optuna", "trainer=ddp")
# Columns of logs that a recommender has written.
_OF_A_RECOMMENDER = re.compile(r"(?i)(^|_)(propensity|recommender|recommended|recommendations?|experiments?)($|_)")


class RecipeChoice:
    """The choice that the data add to the command line: the recipe of `datamodule=table` and of shards.

    A table has `shares` if its columns give a share played, else `playlists`. Shards have the recipe that they were
    prepared for. A run composes several configs of the same data, which are looked at once.

    Args:
        compares: whether a table has `auto`, where nothing on the command line and no column says otherwise.
    """

    def __init__(self, *, compares: bool = False) -> None:
        self._compares = compares
        self._known: dict[tuple[str, ...], tuple[str, str] | None] = {}

    def __call__(self, words: Sequence[str], compose: Callable[[list[str]], DictConfig]) -> list[str]:
        """Choose for a command line.

        Returns:
            A choice of `datamodule=`; nothing where another source is chosen, where the usual recipe fits, and where
            the data cannot be read with these settings, which the run reports.
        """
        if not {"datamodule=table", "datamodule=shards"} & {*words}:
            return []
        of_data = tuple(word for word in words if word.lstrip("+~").startswith("datamodule"))
        if of_data not in self._known:
            self._known[of_data] = _choices_of_data(of_data, compose)
        if (choices := self._known[of_data]) is None:
            return []
        choice = choices[0 if self._compares and not any(map(_names_a_model, words)) else 1]
        return [] if choice.endswith("_shares") else [f"datamodule={choice}"]


def _choices_of_data(words: Sequence[str], compose: Callable[[list[str]], DictConfig]) -> tuple[str, str] | None:
    """The source with its recipe where nothing names a model, and where something does; None for no choice."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = compose([*words])
        source = config.hydra.runtime.choices.datamodule
        if source != "shards":
            return _choices_of_table(source, config.datamodule)
        recipe = json.loads(Path(config.datamodule.path, "manifest.json").read_text(encoding="utf-8"))["recipe"]
        return (f"{source}_{recipe}",) * 2
    except (HydraException, OmegaConfBaseException, InputError, OSError, ValueError, KeyError, TypeError):
        return None  # also where another `datamodule=` is typed after it


def _names_a_model(word: str) -> bool:
    return word in _OF_MANY or re.split(r"[.=]", word.lstrip("+~"))[0] in _OF_A_MODEL


def _choices_of_table(source: str, datamodule: Any) -> tuple[str, str]:
    from segue.datamodules.reading.table import look_at
    from segue.datamodules.reading.table_settings import settings_in

    plan = look_at(datamodule.path, settings_in(datamodule))
    of_columns = f"{source}_{'playlists' if plan.share == 'none' else 'shares'}"
    is_open = not any(map(_OF_A_RECOMMENDER.search, plan.roles.holds))
    return f"{source}_auto" if is_open else of_columns, of_columns
