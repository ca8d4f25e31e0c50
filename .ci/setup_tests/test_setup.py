"""`make setup` without a network: whose `.venv` it changes, when it installs, and what it gives to pip."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e.running import PATIENCE_S, started, wait_until

PIP_OF_TEST = """#!/bin/sh
# Python, but pip only writes down what it is called with.
test "$1 $2" = "-m pip" || exec {python} "$@"
shift 2
echo "$@" >> "{tree}/calls.txt"
for last; do true; done
case "$1" in
install)
    cat "$last" > "{tree}/installed-$(wc -l < "{tree}/calls.txt").txt"
    case "$*" in *"--report .venv/report.json"*) cp "{tree}/report.json" .venv/ 2> /dev/null;; esac
    test ! -e "{tree}/slow.txt" || exec {python} -c 'import time; open("asleep.txt", "x"); time.sleep(300)';;
freeze) echo "numpy==2.4.6";;
esac
test ! -e "{tree}/failure.txt" || {{ cat "{tree}/failure.txt" >&2; exit 1; }}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What `make setup` needs of a clone."""
    return make_tree(tmp_path / "a tree")


def make_tree(folder: Path) -> Path:
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
        set_age(folder / name, 100)
    return folder


def make(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *words], cwd=tree, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
    )


def environment() -> dict[str, str]:
    """Without what a `make test` around this test says to the make within it, and without a store of MLflow."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "MLFLOW", "PYTHON"))
    }


def make_venv(tree: Path) -> None:
    """An environment of the tree whose pip installs nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tree / ".venv"], check=True)
    python = tree / ".venv/bin/python"
    python.unlink()
    python.write_text(PIP_OF_TEST.format(python=sys.executable, tree=tree), encoding="utf-8")
    python.chmod(0o755)


def calls(tree: Path) -> list[str]:
    """What pip was called with."""
    path = tree / "calls.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [folder, *folder.rglob("*")]}


def set_age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@pytest.mark.parametrize(
    ("how", "target"),
    [
        *((how, "setup") for how in ("link", "copy", "move")),
        *(("link", target) for target in ("train", "test", "lint", "docs")),
    ],
)
def test_an_environment_of_another_tree_is_refused_and_left_alone(tree: Path, how: str, target: str) -> None:
    other = make_tree(tree.parent / "other")
    make_venv(other)
    (other / ".venv/.ready").touch()
    owner = other
    if how == "link":
        (tree / ".venv").symlink_to(other / ".venv")
    elif how == "copy":
        shutil.copytree(other / ".venv", tree / ".venv", symlinks=True)
    else:
        (other / ".venv").rename(tree / ".venv")
        owner = tree
    before = state(owner)
    done = make(tree, target)
    assert done.returncode == 2
    refused = f".venv belongs to {other}/.venv, not to this folder; remove it with rm -r .venv, then call make again"
    assert [line for line in done.stderr.splitlines() if not line.startswith("make: ***")] == [refused]
    assert done.stdout == ""
    assert state(owner) == before


def test_everything_is_installed_by_the_lock_and_pytorch_by_its_range(tree: Path) -> None:
    make_venv(tree)
    done = make(tree, "setup")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Installing \d+ packages and PyTorch .* into \.venv; this takes", done.stdout)
    assert done.stdout.endswith(".venv is ready\n")
    assert [call.split()[0] for call in calls(tree)] == [
        "--version",
        "install",
        "install",
        "freeze",
        "install",
        "check",
    ]
    _, build, locked, _, pytorch, _ = calls(tree)
    assert {"--require-hashes", "--no-deps"} <= set(build.split())
    assert {"--require-hashes", "--no-deps", "--no-build-isolation"} <= set(locked.split())
    assert locked.endswith("--requirement requirements.lock")
    assert "--constraint .venv/locked.txt" in pytorch
    assert (tree / ".venv/locked.txt").read_text(encoding="utf-8") == "numpy==2.4.6\n"
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    first, second, third = sorted(tree.glob("installed-*.txt"))
    assert re.fullmatch(r"setuptools==\S+ (\\\n +--hash=sha256:[0-9a-f]{64} ?)+\n", first.read_text(encoding="utf-8"))
    assert first.read_text(encoding="utf-8") in lock
    assert second.read_text(encoding="utf-8") == lock
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert third.read_text(encoding="utf-8").splitlines() == [need for need in needs if re.match(r"torch\b", need)]


def test_the_archive_of_pytorch_is_kept_until_another_one_is_installed(tree: Path) -> None:
    make_venv(tree)

    def install(report: dict[str, Any]) -> dict[str, str]:
        (tree / "report.json").write_text(json.dumps({"install": list(report.values())}))
        (tree / ".venv/.ready").unlink(missing_ok=True)
        assert (done := make(tree, "setup")).returncode == 0, done.stderr
        found: dict[str, str] = json.loads((tree / ".venv/torch.json").read_text(encoding="utf-8"))
        return found

    def item(name: str, version: str, archive_info: dict[str, Any]) -> dict[str, Any]:
        url = f"https://host.example/whl/{name}-{version.replace('+', '%2B')}.whl"
        return {
            "metadata": {"name": name, "version": version},
            "download_info": {"url": url, "archive_info": archive_info},
        }

    other = item("sympy", "1", {"hashes": {"sha256": "00"}})
    first = install({"a": other, "b": item("torch", "2.9+cpu", {"hashes": {"sha256": "ab"}})})
    assert first == {"version": "2.9+cpu", "archive": "torch-2.9+cpu.whl", "sha256": "ab"}  # and no host
    assert install({"a": other}) == first
    assert install({"b": item("torch", "2.10", {"hash": "sha256=cd"})})["sha256"] == "cd"  # of an older pip
    assert install({"b": item("torch", "2.11", {})})["sha256"] == "unknown"


def test_a_second_time_it_does_nothing(tree: Path) -> None:
    make_venv(tree)
    make(tree, "setup")
    before, called = state(tree / ".venv"), calls(tree)
    done = make(tree, "setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, ".venv is ready\n", "")
    assert state(tree / ".venv") == before
    assert calls(tree) == called


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock"])
def test_a_changed_file_installs_again(tree: Path, name: str) -> None:
    make_venv(tree)
    make(tree, "setup")
    called = len(calls(tree))
    set_age(tree / ".venv/.ready", 50)
    set_age(tree / name, 10)
    assert make(tree, "setup").returncode == 0
    assert len(calls(tree)) == 2 * called


def test_what_pip_says_when_it_fails_is_shown_and_the_next_call_tries_again(tree: Path) -> None:
    make_venv(tree)
    reason = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    (tree / "failure.txt").write_text(reason + "\n", encoding="utf-8")
    python = tree / ".venv/bin/python"  # pip itself works
    works = python.read_text(encoding="utf-8").replace("test ! -e", 'test "$1" != install || test ! -e')
    python.write_text(works, encoding="utf-8")
    done = make(tree, "setup")
    assert done.returncode == 2
    assert done.stderr.startswith(reason)
    assert not (tree / ".venv/.ready").exists()
    (tree / "failure.txt").unlink()
    assert make(tree, "setup").returncode == 0


@pytest.mark.timing
def test_an_interrupted_setup_is_completed_by_the_next(tree: Path) -> None:
    make_venv(tree)
    (tree / "slow.txt").touch()
    quiet: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    with started(["make", "setup"], cwd=tree, env=environment(), **quiet) as first:
        wait_until((tree / "asleep.txt").exists, "a pip that runs")
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(PATIENCE_S) != 0
    assert not (tree / ".venv/.ready").exists()
    (tree / "slow.txt").unlink()
    (tree / "calls.txt").unlink()
    packages = next((tree / ".venv/lib").glob("python*")) / "site-packages"
    half, whole = packages / "half-1.dist-info", packages / "whole-1.dist-info"
    for info in (half, whole):  # pip unpacks a package, then writes scripts and INSTALLER
        info.mkdir()
        (info / "METADATA").touch()
    (whole / "INSTALLER").touch()
    assert make(tree, "setup").returncode == 0
    assert (half.exists(), whole.exists()) == (False, True)


@pytest.mark.parametrize(("version", "suits"), [((3, 10, 9), False), ((3, 15, 0), False), ((3, 14, 1), True)])
def test_a_python_without_wheels_in_the_lock_is_refused(tree: Path, version: tuple[int, ...], suits: bool) -> None:
    python = tree / "some-python"
    name = ".".join(map(str, version))
    says = f"import sys\nsys.version_info = {version}\nsys.version = '{name}'\n"
    does = "exec(sys.argv[2]) if sys.argv[1] == '-c' else sys.exit(3)\n"
    python.write_text(f"#!{sys.executable}\n{says}{does}", encoding="utf-8")
    python.chmod(0o755)
    done = make(tree, "setup", "PYTHON=./some-python")
    assert done.returncode == 2
    refused = rf"Segue needs Python 3\.11 to 3\.14, \S+ is {re.escape(name)}; use make PYTHON=<path>"
    assert bool(re.search(refused, done.stderr)) != suits
    assert not (tree / ".venv").exists()


def test_the_supported_versions_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    minors = [int(name.rpartition(".")[2]) for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert project["requires-python"] == f">=3.{min(minors)},<3.{max(minors) + 1}"
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"(3, {min(minors)}) <= sys.version_info < (3, {max(minors) + 1})" in text
    assert f"--python-version 3.{min(minors)}" in text
