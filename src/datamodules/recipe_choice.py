"""Which recipe `datamodule=table` gets: `shares` if a share played can be computed from its columns, else `playlists`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.runs.provenance import ROOT

_TABLE = "datamodule=table"
_CONFIGS = ROOT / "conf" / "datamodule"


def choose_recipe(words: Sequence[str]) -> list[str]:
    """Replace `datamodule=table` by `datamodule=table_playlists` where no share played is known.

    Args:
        words: of the command line of `train.py`. A sweep over settings of the source, and settings that cannot be
            used, are left as they are: the run reports them.

    Returns:
        The words.
    """
    if _TABLE not in words:
        return list(words)
    from src.errors import InputError

    try:
        has_share = _has_share([word for word in words if word.lstrip("+").startswith("datamodule.")])
    except InputError:
        return list(words)
    return list(words) if has_share else ["datamodule=table_playlists" if word == _TABLE else word for word in words]


def _has_share(overrides: Sequence[str]) -> bool:
    """Whether the share played is known, given the settings of a table on the command line.

    Raises:
        InputError: the settings cannot be used.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from src.datamodules.table import look_at
    from src.datamodules.table_settings import table_settings
    from src.errors import InputError

    config = OmegaConf.merge(*(OmegaConf.load(_CONFIGS / f"{name}.yaml") for name in ("default", "table")))
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            value = override.value()
            OmegaConf.update(config, override.key_or_group.removeprefix("datamodule."), value, merge=True)
        names = ("path", "files", "columns", "units", "zone", "clock", "ids", "artist_separator", "share")
        chosen: Any = OmegaConf.to_container(
            OmegaConf.masked_copy(config, [*names, "shares_above_one", "catalogue", "sql"]), resolve=True
        )
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(str(error)) from None
    path = chosen.pop("path")
    if not isinstance(path, str) or path == "???":
        raise InputError("no path")
    return look_at(str(Path(path)) if "://" not in path else path, table_settings(**chosen)).share != "none"
