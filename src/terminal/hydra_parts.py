"""What Segue uses of Hydra beyond its documented interface, tried with Hydra 1.3.8.

`tests/terminal/test_hydra_parts.py` reports which part an upgrade has removed.
"""

import os
from collections.abc import Sequence

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from segue.settings import with_defaults

PLUGINS = "hydra_plugins.segue"
"""The name under which `conf/hydra/sweeper/` finds our sweepers. Hydra takes plugins only from `hydra_plugins`, so they
have a name there; nothing of that name is imported."""


class VerbSweeper(Sweeper):
    """A sweeper that a verb can have."""

    full_errors = False
    """Whether jobs show a traceback for whatever fails, not only for our bugs (HYDRA_FULL_ERROR=1)."""


def register(sweepers: Sequence[type[VerbSweeper]], *, full_errors: bool) -> None:
    """Make sweepers known to Hydra as `hydra_plugins.segue.<name>`.

    `Plugins.register` would know them by the module that they lie in, which Hydra then refuses.
    """
    for sweeper in sweepers:
        sweeper.full_errors = full_errors
        Plugins.instance().class_name_to_class[f"{PLUGINS}.{sweeper.__name__}"] = sweeper


class _WithDefaults(FileConfigSource):
    """Yaml files in which a `_target_` of ours has the settings that the file leaves out."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        result = super().load_config(config_path)
        result.config = OmegaConf.create(with_defaults(OmegaConf.to_container(result.config)))
        return result


def know_defaults() -> None:
    """Let Hydra take the defaults of settings from the code that has them, see `segue.settings`."""
    Plugins.instance()  # it registers its own sources first
    SourcesRegistry.instance().types["file"] = _WithDefaults


def hand_errors_over() -> None:
    """Let Hydra raise its errors instead of printing them."""
    os.environ["HYDRA_FULL_ERROR"] = "1"


def share_config_store() -> None:
    """Save `--help` half of its time: Hydra copies all of its store for each config group that it lists.

    Nothing is lost, since loading a config copies it anyway.
    """
    store = ConfigStore.instance()
    vars(store)["__deepcopy__"] = lambda _: store
