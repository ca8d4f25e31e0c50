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
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segue.errors import InputError
from segue.terminal.console import Printed, keeping
from segue.terminal.entry import Verb
from segue.terminal.quiet import silence_libraries

_PLAIN = re.compile(r"[A-Za-z_/.][\w/.@+-]*", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][\w -]*", re.ASCII)
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
        self.path = _temporary(content) if named is None else Path(named).expanduser().absolute()
        if named is None:
            weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: Path, process: int) -> None:
    """Remove a temporary folder, unless this process is a fork of the one that has it."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


def _temporary(content: str) -> Path:
    """A new folder that only this user can read, with a name for people: `segue-convex`, `segue-convex-2`, …"""
    name = re.sub(r"\W+", "-", f"segue-{content}")
    for ending in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        path = Path(tempfile.gettempdir(), f"{name}{ending}")
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path
    raise AssertionError("numbers do not end")


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
        return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"
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


def call(verb: Verb, words: Iterable[str], folder: Folder | None = None) -> tuple[Any, Printed]:
    """Call a verb.

    Args:
        verb: the verb.
        words: of the command line.
        folder: its run folder.

    Returns:
        What the verb returned, and what it would have printed.

    Raises:
        InputError: with the line that the command prints.
    """
    place = folder or Folder()
    with _one_at_a_time, _undisturbed(), keeping() as printed:
        silence_libraries()
        return verb.call([*words, f"hydra.run.dir={value_of(place.path)}"]), printed


_one_at_a_time = threading.RLock()
"""A verb has the command line, Hydra and the console of the whole process: calls of several threads wait."""


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

    Args:
        folder: its path.

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
