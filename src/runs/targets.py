"""Which classes and functions a config may build that was read back from a file.

Building a config calls what its `_target_`s name, and `pandas.read_pickle` is such a name too. What is typed now is the
user's own; the files of a run may be anybody's.
"""

import pkgutil
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from segue.errors import InputError
from segue.runs.provenance import CONF

_TARGET = "_target_"
# Functions that return what their argument names.
_BY_NAME = tuple(f"hydra.utils.{name}" for name in ("get_class", "get_method", "get_object", "get_static_method"))


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run in plain dicts, lists and values, without following references.

    Raises:
        InputError: it is damaged.
    """
    import yaml

    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(config, dict):
            raise ValueError("it has no settings")
        return {str(name): value for name, value in config.items()}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())[:300]}; train the run again") from None


def check_targets(config: Any, *, trust: Any, of: str, group: str = "") -> None:
    """Refuse a config that builds anything but what `conf/` names, or what is defined in a package that is trusted.

    Args:
        config: plain dicts, lists and values.
        trust: the setting `trust`: a package, several, or None.
        of: the word of the command line that named the run.
        group: the folder of `conf/` that counts; all of it by default.

    Raises:
        InputError: it does, a value refers to something else, or `trust` names no packages.
    """
    packages = [trust] if isinstance(trust, str) else list(trust or ())
    if not all(isinstance(one, str) and all(map(str.isidentifier, one.split("."))) for one in packages):
        raise InputError(f"trust={trust} must name packages, such as trust=mypackage or trust=[one,another]")
    if reference := re.search(r"\$\{[^'\"]*", str(config)):
        raise InputError(
            f"{of}: its settings have {reference[0]}, which refers to something else; a run writes values alone, so "
            "write the value there"
        )
    for target in map(str, _targets(config)):
        if target not in _named_in(group) and not _is_defined_in(packages, target):
            raise InputError(
                f"{of}: its settings build {target}, which is not in conf/{group}; such a name can run any program, "
                f"therefore its package must be trusted, as in trust={target.partition('.')[0]}"
            )


def _targets(node: Any) -> Iterator[Any]:
    """Everything that building a config calls, or returns because it is named."""
    if isinstance(node, dict):
        if str(node.get(_TARGET)) in _BY_NAME:
            args = node.get("_args_", [])
            yield from [node["path"]] if "path" in node else []
            yield from args if isinstance(args, list) else [args]
        elif _TARGET in node:
            yield node[_TARGET]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


@cache
def _named_in(group: str) -> frozenset[str]:
    """What the files of `conf/` build: exact names, since `torch.load` is in the package of `torch.optim.Adam`."""
    texts = (file.read_text(encoding="utf-8") for file in (CONF / group).rglob("*.yaml"))
    return frozenset(name for text in texts for name in _IN_A_FILE.findall(text))


_IN_A_FILE = re.compile(r"_target_: (?:hydra\.utils\.get_method, path: )?([\w.]+)")


def _is_defined_in(packages: Sequence[str], target: str) -> bool:
    """Whether a package defines it, not only imports it: `mypackage.files.os.system` is of another package."""
    if not any(target.startswith(f"{package}.") for package in packages):
        return False
    try:
        module = getattr(pkgutil.resolve_name(target), "__module__", None)
    except (ImportError, AttributeError, ValueError):
        return True  # building it says what is missing
    return any(f"{module}.".startswith(f"{package}.") for package in packages)
