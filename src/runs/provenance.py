"""Where a result comes from: command, commit, versions, machine. Every result file carries it."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import distribution, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The clone: `conf/` and the verbs lie here."""

_PACKAGES = ("torch", "pytorch-lightning", "mlflow", "hydra-core", "duckdb", "pandas", "numpy")


def git_state(root: Path = ROOT) -> dict[str, str]:
    """`git_commit` (`unknown` outside a checkout) and `git_dirty` (`true` where tracked files differ from it)."""
    commit = _git(root, "rev-parse", "HEAD")
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit or "unknown", "git_dirty": "unknown" if dirty is None else str(bool(dirty)).lower()}


def changed_files(root: Path = ROOT) -> list[str] | None:
    """Files that differ from the commit, and files of code that it does not have; None outside a checkout."""
    changed = _git(root, "diff", "--name-only", "HEAD")
    added = _git(root, "ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml", "*.lua")
    return None if changed is None else [*changed.splitlines(), *(added or "").splitlines()]


def git_diff(root: Path = ROOT) -> str:
    """What tracked files have that the commit has not; empty where they are the same, or there is no checkout."""
    return _git(root, "diff", "HEAD") or ""


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True, encoding="utf-8", errors="replace"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


_of_verbs: list[list[str]] = []


def command_line() -> list[str]:
    """Program and words of the command: of a verb as Hydra reads them, of any other program as they were typed."""
    return _of_verbs[-1] if _of_verbs else sys.argv


@contextmanager
def running(line: Sequence[str]) -> Iterator[list[str]]:
    """Let a verb run with a command line that may not be that of the process.

    Args:
        line: program and words.

    Yields:
        What `command_line` returns meanwhile.
    """
    _of_verbs.append(list(line))
    try:
        yield _of_verbs[-1]
    finally:
        _of_verbs.pop()


def command() -> str:
    """The command, as a shell would take it."""
    return shlex.join(["python", *command_line()])


def torch_build(environment: Path = Path(sys.prefix)) -> dict[str, str]:
    """Which build of torch is installed, since the lock leaves it open: version and commit, and its archive if known.

    Args:
        environment: the `.venv`, where `make setup` leaves `torch.json`; other installations have none.
    """
    installed = distribution("torch")
    text = Path(str(installed.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    build = dict(re.findall(r"^(__version__|git_version) = '(.+)'", text, re.MULTILINE))
    found = {"torch_build": f"{build.get('__version__')}, commit {build.get('git_version')}"}
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((environment / "torch.json").read_text(encoding="utf-8"))
        if record["version"] == installed.version:  # another one may have been installed since
            found["torch_archive"] = f"{record['archive']}, sha256 {record['sha256']}"
    return found


def provenance(root: Path = ROOT) -> dict[str, str]:
    """Command, commit, versions of what decides numbers, machine."""
    state = {"command": command(), **git_state(root), "python": platform.python_version()}
    state |= {package: version(package) for package in _PACKAGES} | torch_build()
    return state | {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
