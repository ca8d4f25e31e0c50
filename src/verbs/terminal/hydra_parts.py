"""What Segue uses of Hydra beyond its documented interface, tried with Hydra 1.3.8.

`tests/verbs/terminal/test_hydra_parts.py` reports which part an upgrade has removed.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, version
from hydra._internal import defaults_list
from hydra._internal import hydra as parts
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource as HydrasSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import env_override
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override

from segue.errors import InputError
from segue.runs.provenance import as_called
from segue.settings import with_defaults

PLUGINS = "hydra_plugins.segue"
"""The name under which `conf/hydra/sweeper/` finds our sweepers. Hydra takes plugins only from `hydra_plugins`, so they
have a name there; nothing of that name is imported."""

_NO_MODE = "hydra.mode= is not read; write -m for many runs, and leave it out for one"
Compose = Callable[[list[str]], DictConfig]
"""From overrides to a config."""
Choose = Callable[[Sequence[str], Compose], list[str]]
"""From overrides, and how they are composed, to the overrides that the data add to them."""


class VerbSweeper(Sweeper):
    """A sweeper that a verb can have."""

    split_arguments = staticmethod(BasicSweeper.split_arguments)
    """From overrides to the jobs of each batch. Hydra's own sweeper cannot be inherited from: it is loaded twice."""

    full_errors = False
    """Whether jobs show a traceback for whatever fails, not only for our bugs (HYDRA_FULL_ERROR=1)."""


class VerbLoader(ConfigLoaderImpl):
    """Composes each config of a verb: of a run, of each job of a sweep, and what `--cfg` and `--help` show.

    Args:
        choose: the overrides that the data add. The record of the overrides does not have them.
    """

    def __init__(self, config_search_path: ConfigSearchPath, *, choose: Choose) -> None:
        super().__init__(config_search_path)
        self._choose = choose

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a config; see Hydra."""
        if not validate_sweep_overrides:  # Hydra only asks for the mode, and -m or its absence says it
            return OmegaConf.create({"hydra": {"mode": None}})
        for word in overrides:
            key = re.split("[=@]", word.lstrip("+~"))[0]
            if self.repository.group_exists(key):
                [given] = OverridesParser.create().parse_overrides([word])
                if given.is_delete() or not (given.is_sweep_override() or isinstance(given.value(), str | list)):
                    choices = ", ".join(self.repository.get_group_options(key))
                    raise InputError(f"{word}: a config group needs a value; name one of its choices: {choices}")
            elif word.startswith("~") and "." not in key:
                raise InputError(f"{word}: a config needs {key}; without this word it has its usual value")
        compose = partial(super().load_configuration, config_name, run_mode=run_mode, from_shell=from_shell)
        added = self._choose(overrides, compose)
        config = compose([*overrides, *added])
        for _ in added:
            config.hydra.overrides.task.pop()
        usage = config.hydra.help
        usage.app_name, usage.template = as_called(usage.app_name), as_called(usage.template)
        return config


def run(
    task: Callable[[DictConfig], Any], words: Sequence[str], *, conf: Path, config_name: str, choose: Choose
) -> None:
    """Do what `hydra.main` does, with words that are given, and not with those of the process.

    Args:
        choose: the overrides that the data add.
    """
    share_config_store()
    know_defaults()
    version.setbase("1.3")
    parser = get_args_parser()
    given = parser.parse_args(list(words))
    if any(word.lstrip("+").startswith("hydra.mode=") for word in given.overrides):
        raise InputError(_NO_MODE)
    if given.experimental_rerun:
        raise InputError("--experimental-rerun reads a pickle; resume=<run> continues a run")
    if given.multirun and (given.cfg or given.info):
        raise InputError("a multirun (-m) has many configs; leave out -m to print one")
    if given.cfg == "job":  # with the values that a run would use, in place of references to other values
        given.resolve = True
        given.overrides.append("hydra.runtime.output_dir=${hydra:run.dir}")  # otherwise it is known only to a run
    vars(parts)["ConfigLoaderImpl"] = partial(VerbLoader, choose=choose)
    try:
        # Hydra raises its errors instead of printing them
        with env_override((_without_secrets() if given.cfg == "job" else {}) | {"HYDRA_FULL_ERROR": "1"}):
            _run_hydra(given, parser, task, str(conf), config_name)
    finally:
        vars(parts)["ConfigLoaderImpl"] = ConfigLoaderImpl


def compose_again(words: Sequence[str]) -> DictConfig:
    """The config of the job that runs, with other words of the command line. What Hydra says of the job follows it.

    Args:
        words: overrides of the config; those of Hydra itself stay.
    """
    now = HydraConfig.get()
    made = compose(str(now.job.config_name), list(words), return_hydra_config=True)
    choices = made.hydra.runtime.choices
    with flag_override(made, ["readonly", "struct"], False):
        made.hydra = deepcopy(now)
        with flag_override(made.hydra, ["readonly", "struct"], False):
            made.hydra.runtime.choices, made.hydra.overrides.task = choices, list(words)
        HydraConfig.instance().set_config(made)
        config = made.copy()
        del config["hydra"]
    return config


@contextmanager
def beside_other_configs() -> Iterator[None]:
    """Leave the global config that a program has of Hydra as it is."""
    kept = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        Singleton.set_state(kept)


def _without_secrets() -> dict[str, str]:
    return {
        name: "***" if name.endswith(_SECRET) else _OF_AN_ADDRESS.sub("//***@", value)
        for name, value in os.environ.items()
    }


_SECRET = ("TOKEN", "PASSWORD", "SECRET")
_OF_AN_ADDRESS = re.compile(r"(?<=:)//[^/@\s]+@")  # user and password in an address such as redis://user:password@host


def register(sweepers: Sequence[type[VerbSweeper]], *, full_errors: bool) -> None:
    """Make sweepers known to Hydra as `hydra_plugins.segue.<name>`.

    `Plugins.register` would know them by the module that they lie in, which Hydra then refuses.
    """
    for sweeper in sweepers:
        sweeper.full_errors = full_errors
        Plugins.instance().class_name_to_class[f"{PLUGINS}.{sweeper.__name__}"] = sweeper


class FileConfigSource(HydrasSource):
    """Yaml files in which a `_target_` of ours has the settings that the file leaves out.

    It is called as the source of Hydra, which then leaves it in its place where a job begins in another process.
    """

    known: ClassVar[dict[tuple[object, ...], ConfigResult]] = {}
    """What was read from each file as it was then: a run composes several configs, and much of that is to read yaml."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        file = Path(self.path, self._normalize_file_name(config_path)).absolute()
        state = file.stat() if file.is_file() else None  # None: the error below
        key = (self.provider, self.path, file, state and (state.st_mtime_ns, state.st_size))
        if key not in self.known:
            result = super().load_config(config_path)
            result.config = OmegaConf.create(with_defaults(OmegaConf.to_container(result.config)))
            if OmegaConf.select(result.config, "hydra.mode"):
                raise InputError(f"{file}: {_NO_MODE}")
            self.known[key] = result
        return deepcopy(self.known[key])  # Hydra changes what it gets


def know_defaults() -> None:
    """Let Hydra take the defaults of settings from the code that has them, see `segue.settings`."""
    Plugins.instance()  # it registers its own sources first
    SourcesRegistry.instance().types["file"] = FileConfigSource
    vars(defaults_list)["_create_interpolation_map"] = _choices_of_interpolations


def _choices_of_interpolations(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig | None:
    """Save a third of each composition: Hydra copies all choices for every file, also where none is interpolated."""
    is_needed = any(one.is_interpolation() for one in defaults if not one.is_self())
    return _all_choices(overrides, defaults, self_added) if is_needed else None


_all_choices = defaults_list._create_interpolation_map


def share_config_store() -> None:
    """Save `--help` half of its time: Hydra copies all of its store for each config group that it lists.

    Nothing is lost, since loading a config copies it anyway.
    """
    store = ConfigStore.instance()
    vars(store)["__deepcopy__"] = lambda _: store
