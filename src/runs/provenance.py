"""Where a result comes from: command, commit, versions, machine. Every result file carries it."""

import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE.parent
"""The folder that `segue` is imported from: the clone, or where the package is installed."""
CLONE = ROOT if _PACKAGE.name == "src" else None
"""The clone; None where the package is installed, whose folder is called `segue`."""
CONF = (_PACKAGE / "conf").resolve()
"""The configs of the verbs."""

_PACKAGES = ("torch", "pytorch-lightning", "mlflow", "hydra-core", "duckdb", "pandas", "numpy")


def git_state(root: Path | None = CLONE) -> dict[str, str]:
    """Which code this is.

    Args:
        root: the clone, if there is one.

    Returns:
        `git_commit`: `unknown` in a clone that is no checkout, `segue-<version>` where the package is installed.
        `git_dirty`: `true` where tracked files differ from the commit, `unknown` where there is none.
    """
    if root is None:
        return {"git_commit": f"segue-{segue_version(root)}", "git_dirty": "unknown"}
    commit = _git(root, "rev-parse", "HEAD")
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit or "unknown", "git_dirty": "unknown" if dirty is None else str(bool(dirty)).lower()}


def segue_version(root: Path | None = CLONE) -> str:
    """The version of the package; in a clone the one that a wheel built there would get, by the last tag.

    Args:
        root: the clone, if there is one. Without git or setuptools-scm it has the fallback version of pyproject.toml.
    """
    if root is None:
        return version("segue")
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools_scm"]
    try:
        from setuptools_scm import get_version
    except ImportError:
        return str(settings["fallback_version"])
    return str(get_version(root, **settings))


def changed_files(root: Path | None = CLONE) -> list[str] | None:
    """Files that differ from the commit, and files of code that it does not have; None outside a checkout."""
    changed = _git(root, "diff", "--name-only", "HEAD")
    added = _git(root, "ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml", "*.lua")
    return None if changed is None else [*changed.splitlines(), *(added or "").splitlines()]


def git_diff(root: Path | None = CLONE) -> str:
    """What tracked files have that the commit has not; empty where they are the same, or there is no checkout."""
    return _git(root, "diff", "HEAD") or ""


def _git(root: Path | None, *words: str) -> str | None:
    if root is None:  # a folder with packages may lie in a checkout of something else
        return None
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", *words]
        return (
            subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode(errors="replace").strip()
        )
    return None


_of_verbs: list[list[str]] = []


def command_line() -> list[str]:
    """Program and words of the command: of a verb as Hydra reads them, of any other program as they were typed.

    The program of a verb is as `program` names it.
    """
    return _of_verbs[-1] if _of_verbs else sys.argv


@contextmanager
def running(line: Sequence[str]) -> Iterator[list[str]]:
    """Let a verb run with a command line that may not be that of the process: `command_line` returns it meanwhile."""
    _of_verbs.append(list(line))
    try:
        yield _of_verbs[-1]
    finally:
        _of_verbs.pop()


def command() -> str:
    """The command, as a shell would take it."""
    called, *words = command_line()
    before = called.split() if called.startswith(_CONSOLE) else ["python", called]
    return shlex.join([*before, *words])


VERBS = ("describe", "prepare", "train", "compare", "simulate", "serve", "abtest")
"""The commands of Segue."""
_CONSOLE = "segue "
_IN_A_TEXT = re.compile(rf"(?<![\w./=-])(python )?({'|'.join(VERBS)})\.py\b")


def program(verb: str) -> str:
    """The program of a verb: `train.py` in a clone, `segue train` elsewhere and under the command `segue`."""
    is_console = CLONE is None or command_line()[0].startswith(_CONSOLE)
    return f"{_CONSOLE}{verb}" if is_console else f"{verb}.py"


def call_of(verb: str) -> str:
    """What a person types to call a verb here, before its words."""
    called = program(verb)
    return called if called.startswith(_CONSOLE) else f"python {called}"


def as_called(text: str) -> str:
    """A text that names verbs as in a clone, such as `python train.py -m` or `train.py`, with the names of here."""
    return _IN_A_TEXT.sub(lambda name: call_of(name[2]) if name[1] else program(name[2]), text)


def provenance(root: Path | None = CLONE) -> dict[str, str]:
    """Command, commit, versions of what decides numbers and is installed, machine."""
    state = {"command": command(), **git_state(root), "python": platform.python_version()}
    for package in _PACKAGES:  # a machine that only serves has few of them
        with suppress(PackageNotFoundError):
            state[package] = version(package)
    return state | {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
