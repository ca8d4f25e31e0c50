"""The settings of a source from its file in `conf/datamodule/`, without the rest of a run."""

from collections.abc import Mapping
from typing import Any

from segue.datamodules.reading.table_settings import TableSettings, table_settings
from segue.runs.provenance import ROOT

_CONFIGS = ROOT / "conf" / "datamodule"
_KEYS = ("files", "columns", "units", "zone", "clock", "ids", "artist_separator", "share", "shares_above_one")


def source_config(name: str) -> Any:
    """The settings of a source, as OmegaConf has them: its file on top of the file that its defaults name first.

    Args:
        name: name of the file.
    """
    from omegaconf import OmegaConf

    config: Any = OmegaConf.load(_CONFIGS / f"{name}.yaml")
    first = next((base for base in config.get("defaults", []) if isinstance(base, str)), None)
    return config if first is None else OmegaConf.merge(source_config(first), config)


def settings_of(name: str, changes: Mapping[str, Any] | None = None) -> TableSettings:
    """What the files of a source contain.

    Args:
        name: name of its file in `conf/datamodule/`.
        changes: other values of some keys, such as `{"units": {"timestamp": "s"}}`.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    from omegaconf import OmegaConf

    return settings_in(OmegaConf.merge(source_config(name), dict(changes or {})))


def settings_in(config: Any) -> TableSettings:
    """What the files of a source contain, by its config.

    Args:
        config: of the datamodule, as OmegaConf has it.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    from omegaconf import OmegaConf

    keys = [*_KEYS, "unknown_shares", "optional", "catalogue", "sql", "attributes", "attribute_defaults"]
    chosen: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
    return table_settings(**chosen)
