"""From an exception to the one line that a person reads, where it is an error of theirs."""

import difflib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from rich.markup import escape

from segue.errors import InputError
from segue.reports.console import errors
from segue.runs.folder import as_dict, flatten, is_resumable
from segue.runs.libraries import line_of_import, line_of_missing
from segue.runs.provenance import CONF, as_called, command_line

# The disk is full, or must not be written to: an error of the user's, for every file.
_OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
_FULL = {errno.ENOSPC, errno.EDQUOT}
# An error of the user's where they chose the path.
_OF_A_PATH = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT}


def show_error(line: str) -> None:
    """Print the one line of an error."""
    errors.print(f"[bold red]error:[/] {escape(as_called(line))}")


def is_interrupt(stopped: BaseException) -> bool:
    """Whether it is Ctrl-C, or the exception that Lightning or DuckDB raise for it."""
    return (
        isinstance(stopped, KeyboardInterrupt)
        or (isinstance(stopped, SystemExit) and isinstance(stopped.__context__, KeyboardInterrupt))
        or (isinstance(stopped, RuntimeError) and str(stopped) == "Query interrupted")
    )


def message(error: BaseException) -> str | None:
    """The line for an error that the user can correct; None for a bug."""
    if isinstance(error, InputError):
        return _one_line(str(error))
    if missing := line_of_import(error):
        return missing
    if isinstance(error, InstantiationException):
        cause = error.__cause__ or error
        where = re.search(r"full_key: (\S+)", str(error))
        if isinstance(cause, InputError) or where is None:
            return _one_line(str(cause))
        remedy = "; use trainer.accelerator=cpu" if "No supported gpu backend" in str(cause) else ""
        return _one_line(f"{where[1]}: {cause}{remedy}")
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override}; write name=value without spaces, and quote an option with braces, such as "
            "'arms={C: random}'; a value with spaces or other signs needs two pairs of quotes: name='\"value\"'"
        )
    if isinstance(error, ConfigCompositionException):
        return _line_of_the_config(error)
    if isinstance(error, MissingMandatoryValue) and (key := error.full_key):
        return f"{key} has no value, and there is no usual one; give {key}=<value>"
    if isinstance(error, OSError):
        return _line_of_the_disk(error)
    return _one_line(str(error)) if isinstance(error, HydraException | OmegaConfBaseException) else None


def _line_of_the_disk(error: OSError) -> str | None:
    """The line for a path that the user chose, or a disk that cannot be written to; None for a file of ours."""
    if error.errno not in _OF_THE_DISK and not (error.errno in _OF_A_PATH and _is_chosen(error)):
        return None
    path = "this disk" if error.filename is None else os.fsdecode(error.filename)
    remedy = "choose another folder with hydra.run.dir=<folder>"
    if error.errno in _FULL:
        stopped = next(filter(is_resumable, Path(path).absolute().parents), None)
        again = "type the command again" if stopped is None else f"resume={stopped} continues the run"
        remedy = f"make space there, then {again}; or {remedy}"
    return f"cannot use {path}: {error.strerror}; {remedy}"


def _is_chosen(error: OSError) -> bool:
    """Whether the path of an error is one that the user chose: in the command line, or below the run folder.

    A file that is missing in an existing folder below the run folder does not count: we should have written it.
    """
    if not isinstance(error.filename, str | bytes):
        return False
    path = Path(os.path.abspath(os.fsdecode(error.filename)))  # noqa: PTH100  links stay as they were typed
    if any(path.is_relative_to(place) for place in _named()):
        return True
    ours = error.errno == errno.ENOENT and path.parent.is_dir()
    return not ours and any(path.is_relative_to(place) for place in run_folders())


def _named() -> Iterator[Path]:
    """Every value of the command line, as if it were a path."""
    for word in command_line()[1:]:
        key, _, value = word.partition("=")
        if value and not key.startswith("hydra."):
            yield _path_in(value)
            if "/" in value:  # a file is written beside its place first
                yield _path_in(value).parent


def _path_in(value: str) -> Path:
    """A path as the command line has it, in Hydra's quotes or without."""
    return Path(os.path.abspath(re.sub(r"\\([\\'\"])", r"\1", value.strip("'\""))))  # noqa: PTH100


def run_folders() -> Iterator[Path]:
    """The folders of the command line, and the usual one, in which a verb writes."""
    yield Path.cwd() / "outputs"
    for word in command_line()[1:]:
        key, _, value = word.partition("=")
        if key in ("hydra.run.dir", "hydra.sweep.dir"):
            yield _path_in(value)


_OPEN = ("datamodule.attributes.", "datamodule.sql.")  # beginnings of the keys to which users add keys of their own


def _line_of_the_config(error: ConfigCompositionException) -> str:
    """The line for words of the command line that the config has no place for."""
    said = str(error)
    if unknown := re.search(r"Could not find '(.+)/(.*)'\s+Available options in '.+':((?:\n\t.+)*)", said):
        group, name, choices = unknown[1], unknown[2], unknown[3].split()
        if group == "hydra/sweeper":  # which is typed as search=
            group, choices = "search", [choice for choice in choices if choice not in ("basic", "jobs")]
        if group == "hydra/launcher" and (line := line_of_missing(f"hydra_{name.partition('_')[0]}_launcher")):
            return line
        return f"there is no {group}={name};{_close(name, choices)} choose one of {', '.join(choices)}"
    if useless := re.search(r"(In '.+': )?Could not override '(\S+)'. No match in the defaults list", said):
        group = useless[2]
        return f"{useless[1] or ''}{_typed(group)} cannot be chosen{_beside(group)}, which has no {group}; leave it out"
    if present := re.search(r"Could not append to config. An item is already at '(.+?)'", said):
        return f"{_typed(present[1])}: the config has {present[1]} already; leave out the +"
    missing, node = re.search(r"Could not override '([\w.]+)'", said), getattr(error.__cause__, "parent_node", None)
    if missing is None or node is None:
        return _one_line(said)
    key = getattr(error.__cause__, "full_key", None) or missing[1]  # inside of the mapping that was typed
    parent, _, name = key.rpartition(".")
    where = (_typed(parent) if parent and _typed(parent) != f"{parent}=" else parent) or "the config"
    settings = sorted(str(key) for key in node if not str(key).startswith("_"))
    if not settings and parent and ((CONF / parent).is_dir() or where.endswith("=null")):
        return f"{_typed(missing[1])}: {where} has no settings here; leave it out"
    if not settings:  # a mapping whose keys the user chooses
        return f"{_typed(missing[1])}: {missing[1]} has no keys yet; write +{missing[1]}=… to add some"
    if f"{parent}.".startswith(_OPEN):
        sign = "+" if key == missing[1] else "++"
        has = f"{parent} has {', '.join(settings)}"
        return f"{_typed(missing[1])}: {has}, and no {name}; write {sign}{missing[1]}=… to add it"
    close = _close(name, settings, prefix=f"{parent}." if parent else "")
    if not close and not parent:
        close = _deeper(name, _typed(name).partition("=")[2], node)
    others = close or (f" it has {', '.join(settings)}" if parent else " --help lists all")
    return f"{_typed(missing[1])}: {where} has no {name};{others}"


def _close(name: str, choices: Sequence[str], prefix: str = "") -> str:
    """A hint at the name that was probably meant."""
    close = difflib.get_close_matches(name, choices, n=1)
    return f" did you mean {prefix}{close[0]}?" if close else ""


def _deeper(name: str, value: str, config: DictConfig) -> str:
    """A hint at the settings deeper in the config that were probably meant: `trainer.max_epochs=2` for `epochs=2`."""
    keys = [
        key
        for key, given in flatten(as_dict(config, resolve=False)).items()
        if not key.startswith(("hydra.", "recipe.")) and not _OF_ANOTHER.fullmatch(str(given))
    ]
    leaves = {key: key.rpartition(".")[2] for key in keys}
    close = difflib.get_close_matches(name, leaves.values(), n=1, cutoff=0.8)
    for is_meant in (
        name.__eq__,
        lambda leaf: leaf.rpartition("_")[2].removesuffix("s") == name.removesuffix("s"),
        lambda leaf: name in leaf.split("_"),
        close.__contains__,
    ):
        if meant := [key for key in keys if is_meant(leaves[key])]:
            depth = min(key.count(".") for key in meant)
            return f" did you mean {' or '.join([f'{key}={value}' for key in meant if key.count('.') == depth][:3])}?"
    return ""


# The value of a setting that another one decides.
_OF_ANOTHER = re.compile(r"\$\{(?!recipe\.|oc\.env:|oc\.select:recipe\.)[^}]*\}")


def _typed(key: str) -> str:
    """The word of the command line that sets a key; the key alone where there is none."""
    words = [word.lstrip("+~") for word in command_line()[1:]]
    return next((word for word in words if word.startswith(f"{key}=")), f"{key}=")


def _beside(group: str) -> str:
    """The choice of the command line that a choice of `group` does not go with."""
    others = [word for word in command_line()[1:] if word.startswith(("model=", "recipe=")) and word != _typed(group)]
    return f" with {others[0]}" if others else " here"


def _one_line(message: str) -> str:
    message = re.sub(r"\s*\n\s*full_key: .*", "", message)
    message = re.sub(r"\nSet the environment variable HYDRA_FULL_ERROR.*", "", message)
    return re.sub(r"\s+", " ", message).strip()
