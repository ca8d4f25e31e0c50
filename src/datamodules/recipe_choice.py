"""Which recipe `datamodule=table` gets: `shares` if its columns give a share played, else `playlists`.

`datamodule=shards` gets the recipe that its shards were prepared for.
"""

from collections.abc import Sequence

_TABLE = "datamodule=table"
_SHARDS = "datamodule=shards"


def choose_recipe(words: Sequence[str]) -> list[str]:
    """Replace `datamodule=table` by `table_playlists` where no share played is known, and name the recipe of shards.

    Args:
        words: of the command line of `train.py`. A sweep over settings of the source, and settings that cannot be
            used, are left as they are: the run reports them.

    Returns:
        The words.
    """
    if _SHARDS in words:
        return _with_recipe_of_shards(words)
    if _TABLE not in words:
        return list(words)
    from segue.errors import InputError

    try:
        has_share = _has_share([word for word in words if word.lstrip("+").startswith("datamodule.")])
    except InputError:
        return list(words)
    return list(words) if has_share else ["datamodule=table_playlists" if word == _TABLE else word for word in words]


def _with_recipe_of_shards(words: Sequence[str]) -> list[str]:
    import json
    from pathlib import Path

    path = next((word.partition("=")[2] for word in words if word.startswith("datamodule.path=")), "")
    try:
        recipe = json.loads(Path(path.strip("'\""), "manifest.json").read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        return list(words)
    name = _SHARDS if recipe == "shares" else f"{_SHARDS}_{recipe}"
    return [name if word == _SHARDS else word for word in words]


def _has_share(overrides: Sequence[str]) -> bool:
    """Whether the share played is known, given the settings of a table on the command line.

    Raises:
        InputError: the settings cannot be used.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from segue.datamodules.reading.source_config import settings_of
    from segue.datamodules.reading.table import look_at
    from segue.errors import InputError

    changes = OmegaConf.create()
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key = str(override.key_or_group).removeprefix("datamodule.")
            OmegaConf.update(changes, key, override.value(), merge=True)
        path = OmegaConf.select(changes, "path")
        settings = settings_of("table", dict(changes))
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(str(error)) from None
    if not isinstance(path, str):
        raise InputError("there is no path")
    return look_at(path, settings).share != "none"
