"""From Python values to the words of a verb, and from what it wrote to an object."""

import base64
import html
import itertools
import json
import os
import random
import re
import shutil
import signal
import stat
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.reports.console import Printed, keeping
from segue.runs.hydra_text import quoted
from segue.runs.provenance import CONF
from segue.verbs.terminal.entry import Verb
from segue.verbs.terminal.quiet import silence_libraries

fcntl: Any = import_module("fcntl") if os.name == "posix" else None

_PLAIN = re.compile(r"[A-Za-z_/.][\w/.@+-]*", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][\w -]*", re.ASCII)
_VALUE = r"[\w/]+(?:[:.-]+[\w/<>]+)*"  # a value in a message: `auto`, `1e-3`, `run:<id>`
_WORDS = re.compile(r"(?i:null|true|false|nan|inf)")


class Folder:
    """A folder in which a verb writes: one that the caller names, or a temporary one, removed with its last user.

    Args:
        named: the folder that was named; None for a temporary one.
        content: what it has, for the name of a temporary one.

    Attributes:
        path: where it is.
    """

    def __init__(self, named: str | Path | None = None, content: str = "result") -> None:
        if named is not None:
            self.path = Path(named).expanduser().absolute()
            return
        self.path, lock = _temporary(content)
        weakref.finalize(self, _remove, self.path, lock, os.getpid())


def _remove(path: Path, lock: int | None, process: int) -> None:
    """Remove a temporary folder, unless this process is a fork of the one that has it."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _temporary(content: str) -> tuple[Path, int | None]:
    """A folder that only this user can read, with a name for people: `segue-convex`, `segue-convex-2`, …

    A process that is killed leaves its folders. They are no longer locked; the next folder of this name replaces them.

    Returns:
        The folder, and the descriptor that locks it; None where folders cannot be locked, as on Windows.
    """
    name = re.sub(r"\W+", "-", f"segue-{content}")
    for ending in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        path, is_new = Path(tempfile.gettempdir(), f"{name}{ending}"), False
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            is_new = True
        try:
            lock = _lock(path)
        except (BlockingIOError, FileNotFoundError):  # another process has it, or has removed it
            continue
        except OSError:
            if is_new:
                return path, None
            continue
        for left in path.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        return path, lock
    raise AssertionError("numbers do not end")


def _lock(folder: Path) -> int:
    """Lock a folder that only this user can read.

    Returns:
        The descriptor that locks it.

    Raises:
        BlockingIOError: another process has it.
        FileNotFoundError: another process has removed it.
        OSError: it is somebody else's, or it cannot be locked.
    """
    if fcntl is None:
        raise OSError("no locks")
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(lock)
        if not os.path.samestat(status, folder.stat(follow_symlinks=False)):
            raise FileNotFoundError(folder)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise PermissionError(folder)
    except OSError:
        os.close(lock)
        raise
    return lock


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as words of the command line.

    Args:
        options: values by name; `model__alpha` and `model.alpha` are the same name.
    """
    return [f"{name.replace('__', '.')}={value_of(value)}" for name, value in options.items()]


def value_of(value: Any) -> str:
    """A value as the command line has it.

    Args:
        value: a number, a text, a path, None, a list or a mapping of such values, or an object with a `folder`, such as
            a fitted `Recommender`.

    Raises:
        InputError: it is of another type, or a key has other signs than letters, digits, spaces, _ and -.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        text = str(value)
        if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
            return text
        return quoted(text)
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not _KEY.fullmatch(str(key))]:
            raise InputError(f"{wrong[0]!r} cannot be a name here; use letters from A to Z, digits, spaces, _ and -")
        keys = (str(key).replace(" ", "\\ ") for key in value)
        return "{" + ", ".join(f"{key}: {value_of(one)}" for key, one in zip(keys, value.values(), strict=True)) + "}"
    if isinstance(value, Sequence | np.ndarray):
        return "[" + ", ".join(map(value_of, value)) + "]"
    if isinstance(folder := getattr(value, "folder", None), Path):
        return value_of(folder.absolute())
    raise InputError(f"{value!r} cannot be an option; give a number, a text, a path, None, a list or a dict of these")


def call(
    verb: Verb, words: Sequence[str], folder: Folder | None = None, names: Mapping[str, str] | None = None
) -> tuple[Any, Printed]:
    """Call a verb.

    Args:
        verb: the verb.
        words: of the command line.
        folder: its run folder.
        names: what a message calls otherwise: names of arguments, or of files that the user has not named.

    Returns:
        What the verb returned, and what it would have printed.

    Raises:
        InputError: with the line that the command prints, in the words of Python.
    """
    place = folder or Folder()
    with _one_at_a_time, _undisturbed(), keeping() as printed:
        silence_libraries()
        try:
            return verb.call([*words, f"hydra.run.dir={value_of(place.path)}"]), printed
        except InputError as error:
            line = _in_python(str(error), words)
            for name, other in (names or {}).items():
                line = line.replace(name, other)
            raise InputError(line) from error.__cause__


@cache
def options() -> frozenset[str]:
    """First parts of the names of options: the keys of `train.py`, and the groups of `conf/`."""
    keys = (str(key) for key in OmegaConf.load(CONF / "train.yaml"))
    return frozenset((*keys, *(path.name for path in CONF.iterdir() if path.is_dir()))) - {"defaults", "hydra"}


@cache
def _keys() -> frozenset[str]:
    """All names of settings in `conf/`."""
    return frozenset(key for path in CONF.rglob("*.yaml") for key in re.findall(r"(\w+):", path.read_text("utf-8")))


def _in_python(line: str, words: Sequence[str]) -> str:
    """A message with options as arguments: `model__alpha=None` for `model.alpha=null`; values that were given stay."""
    option = rf"(?<![\w./=-])({'|'.join(('hydra', *sorted(options())))})((?:\.\w+)*)(?:(=)({_VALUE})?)?(?![\w(/])"
    given = {word.partition("=")[2].strip("'") for word in words}

    def argument(found: re.Match[str]) -> str:
        name, deeper, sign, value = found.groups()
        is_a_file = not sign and not _keys() >= set(deeper.split(".")[1:2])
        if found[0] in given or not (deeper or sign) or is_a_file:
            return found[0]
        key = f"{name}{deeper}".replace(".", "__").replace("hydra__run__dir", "folder")
        if value and not re.fullmatch(r"[\d/.]+(e[+-]?\d+)?", value):
            value = {"null": "None", "true": "True", "false": "False"}.get(value, f'"{value}"')
        return f"{key}{sign or ''}{value or ''}"

    return re.sub(r"(?<![\w'=])null(?![\w'])", "None", re.sub(option, argument, line))


# A verb has the command line, Hydra and the console of the whole process: calls of several threads wait.
_one_at_a_time = threading.RLock()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave random numbers, settings of torch, the environment and the handler of Ctrl-C as the program has them."""
    of_python, environment, handler = random.getstate(), dict(os.environ), signal.getsignal(signal.SIGINT)
    import torch

    of_torch = torch.random.get_rng_state()
    of_numpy = np.random.get_state()  # noqa: NPY002  the state that programs share
    is_strict = torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.random.set_rng_state(of_torch)
        torch.use_deterministic_algorithms(is_strict)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGINT, handler)


class Result:
    """What a verb found out: printed as the verb prints it, in a notebook with its pictures.

    Args:
        printed: what the verb printed.
        folder: its files.

    Attributes:
        name: of its files, such as `abtest` for `abtest.json`.
    """

    name = ""

    def __init__(self, printed: Printed, folder: Folder) -> None:
        self._printed, self._place = printed, folder

    @property
    def folder(self) -> Path:
        """The files that were written; a temporary folder, where none was named, which exists as long as this."""
        return self._place.path

    @cached_property
    def record(self) -> dict[str, Any]:
        """The whole result in plain values, as in the JSON file of the folder."""
        record = json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8"))
        assert isinstance(record, dict)
        return record

    def __repr__(self) -> str:
        return self._printed.text()

    def _repr_html_(self) -> str:
        pictures = [base64.b64encode(path.read_bytes()).decode() for path in sorted(self.folder.glob("*.png"))]
        shown = [f'<img alt="{html.escape(self.name)}" src="data:image/png;base64,{one}"/>' for one in pictures]
        return "\n".join([self._printed.html(), *shown])


def refuse_used(folder: str | Path) -> Path:
    """A folder that does not exist, or is empty.

    Raises:
        InputError: it has files.
    """
    path = Path(folder).expanduser()
    with suppress(FileNotFoundError, NotADirectoryError):
        if next(path.iterdir(), None) is None:
            return path
    if path.exists():
        raise InputError(f"{path} has files already; name a folder that does not exist")
    return path
