"""What Segue uses of Hydra beyond its documented interface, tried with Hydra 1.3.8.

`tests/terminal/test_hydra_parts.py` reports which part an upgrade has removed.
"""

import os
from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

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


def hand_errors_over() -> None:
    """Let Hydra raise its errors instead of printing them."""
    os.environ["HYDRA_FULL_ERROR"] = "1"


def share_config_store() -> None:
    """Save `--help` half of its time: Hydra copies all of its store for each config group that it lists.

    Nothing is lost, since loading a config copies it anyway.
    """
    store = ConfigStore.instance()
    vars(store)["__deepcopy__"] = lambda _: store
