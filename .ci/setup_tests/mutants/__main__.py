"""Puts faults into the code, one at a time, and looks whether a test fails.

    make mutants                                            300 mutants
    make mutants ARGS="--seed 2 --count 50 src/statistics"  others, of one room

`mutants.toml` says which code gets faults, which tests must catch them, and which faults change nothing. A mutant is
tested in a copy of the repository, by a process that is forked from one that has imported the libraries: their import
takes longer than most tests. Quick tests run first, and the first one that fails ends the run.
"""

import argparse
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from setup_tests.mutants.faults import ROOT, Mutant, find_mutants

SETTINGS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text(encoding="utf-8"))
GOAL_PERCENT = 90
MEMORY = 8 << 30
"""Bytes that the tests of a mutant may allocate, so that it cannot take those of others."""
LIMITS = (signal.SIGKILL, signal.SIGALRM)
"""How a process ends that takes too long."""


def main() -> None:
    """Test a sample of mutants, and print the results."""
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", help="only mutants of these files or folders")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--count", type=int, default=300, help="size of the sample (default: 300)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    words = parser.parse_args()
    mutants = sample(words.paths, words.seed, words.count)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        outcomes = run_all(mutants, copy_tree(Path(folder) / "0"), min(words.jobs, len(mutants)))
    sys.exit(report(outcomes))


def sample(paths: Sequence[str], seed: int, count: int) -> list[Mutant]:
    """A random sample of the mutants, in random order; those that equal another or are no Python are left out."""
    files = [file for file in files_of(SETTINGS["tests"]) if not paths or file.startswith(tuple(paths))]
    mutants = [mutant for file in files for mutant in find_mutants(file)]
    random.Random(seed).shuffle(mutants)
    chosen: dict[tuple[str, str], Mutant] = {}
    for mutant in mutants:
        if len(chosen) < count and is_python(mutant.source()):
            chosen.setdefault((mutant.file, mutant.source()), mutant)
    return list(chosen.values())


def is_python(source: str) -> bool:
    """Whether it can be compiled."""
    with suppress(SyntaxError):
        compile(source, "mutant", "exec")
        return True
    return False


def tests_of(mutant: Mutant) -> list[str]:
    """The tests that must catch a mutant."""
    rooms = [name for name in SETTINGS["tests"] if mutant.file == name or mutant.file.startswith(f"{name}/")]
    tests: list[str] = SETTINGS["tests"][max(rooms, key=len)]
    return tests


def files_of(names: Iterable[str]) -> list[str]:
    """The Python files of files and folders, from the root of the repository."""
    paths = [path for name in names for path in (sorted((ROOT / name).rglob("*.py")) or [ROOT / name])]
    return [str(path.relative_to(ROOT)) for path in paths]


def copy_tree(folder: Path) -> Path:
    """Copy what git does not ignore."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        if name and os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


class Order:
    """A plugin of pytest: quick tests first. It notes how long each takes."""

    def __init__(self, durations: dict[str, float]) -> None:
        self.durations = durations

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Sort the tests."""
        items.sort(key=lambda item: self.durations.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add the time of a phase of a test."""
        self.durations[report.nodeid] = self.durations.get(report.nodeid, 0.0) + report.duration


def run_tests(tree: Path, tests: Sequence[str], durations: dict[str, float], cpu_s: int | None) -> None:
    """Run tests in a tree, in a process of its own, and leave there what they printed and what became of them."""
    os.chdir(tree)
    with (tree / "output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if cpu_s is not None:  # for a mutant: it must end, and not leave its bytecode to the next one
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        signal.alarm(20 * cpu_s)  # it may never end, too
    import pytest

    order = Order(durations)
    # without the options of pyproject.toml: the checks of jaxtyping take longer than the tests, which must do without
    words = ["-o", "addopts=", "-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = int(pytest.main([*words, *tests], plugins=[order]))
    modules = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    left = {
        "code": code,
        "seconds": round(time.process_time(), 2),
        "durations": order.durations,
        "libraries": [name for name, file in modules if file and not file.startswith(str(tree))],
    }
    (tree / "left.json").write_text(json.dumps(left), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def start(*words: Any) -> BaseProcess:
    """Start `run_tests` with these arguments."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=words)
    process.start()
    return process


def run_all(mutants: Sequence[Mutant], tree: Path, jobs: int) -> dict[Mutant, str]:
    """Test mutants, several at a time, each in a copy of a tree; what became of each."""
    sys.path[:] = [place for place in sys.path if place not in ("", str(ROOT))]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # a process of a mutant imports those of its tree
    rooms: dict[str, dict[str, Any]] = {}
    for tests in {tuple(tests_of(mutant)): None for mutant in mutants}:
        start(tree, tests, {}, None).join()
        left = json.loads((tree / "left.json").read_text(encoding="utf-8"))
        if left["code"]:
            sys.exit(f"{' '.join(tests)} must pass before mutants are tested:\n{(tree / 'output.txt').read_text()}")
        rooms[" ".join(tests)] = left
        for name in left["libraries"]:
            with suppress(Exception):
                import_module(name)
    gc.collect()
    gc.freeze()  # the tests search for garbage too, and only among their own
    trees = [
        tree,
        *(Path(shutil.copytree(tree, tree.with_name(str(number)), symlinks=True)) for number in range(1, jobs)),
    ]
    free, running = list(trees), dict[int, tuple[BaseProcess, Mutant, Path]]()
    outcomes, todo = dict[Mutant, str](), list(mutants)
    while todo or running:
        while todo and free:
            mutant, tree = todo.pop(0), free.pop()
            (tree / "left.json").unlink(missing_ok=True)
            shutil.copy2(tree / mutant.file, tree / "original")
            (tree / mutant.file).write_text(mutant.source(), encoding="utf-8")
            os.utime(tree / mutant.file, (1, 1))  # or Python would use the bytecode of the file without the fault
            room = rooms[" ".join(tests_of(mutant))]
            process = start(tree, tests_of(mutant), room["durations"], 20 + int(5 * room["seconds"]))
            running[process.sentinel] = process, mutant, tree
        for sentinel in wait(list(running)):
            process, mutant, tree = running.pop(int(str(sentinel)))
            process.join()
            left = tree / "left.json"  # of tests that ended by themselves
            code = json.loads(left.read_text(encoding="utf-8"))["code"] if left.exists() else process.exitcode or 0
            outcomes[mutant] = "timeout" if -code in LIMITS else "caught" if code else "survived"
            shutil.copy2(tree / "original", tree / mutant.file)
            free.append(tree)
            if len(outcomes) % 10 == 0:
                print(f"  {len(outcomes)} of {len(mutants)}: {dict(Counter(outcomes.values()))}", flush=True)
    return outcomes


def report(found: dict[Mutant, str]) -> int:
    """Print the outcomes and the survivors; returns the exit code, 1 below the goal."""
    outcomes, equal = Counter(found.values()), 0
    for mutant, outcome in found.items():
        if outcome == "survived":
            before, after = mutant.diff()
            reason = reason_of(mutant.file, before, after)
            equal += reason is not None
            print(f"\n{mutant.file}\n- {before}\n+ {after}\n{reason or 'SURVIVED: write a test that fails'}")
    caught = outcomes["caught"] + outcomes["timeout"]
    percent = 100 * caught / max(1, len(found) - equal)
    print(
        f"\n{len(found)} mutants: {outcomes['caught']} caught, {outcomes['timeout']} ended by a time limit, "
        f"{outcomes['survived']} survived, of which {equal} change nothing (mutants.toml). "
        f"Caught: {100 * caught / max(1, len(found)):.1f} %, of those that change something {percent:.1f} %"
    )
    return int(percent < GOAL_PERCENT)


def reason_of(file: str, before: str, after: str) -> str | None:
    """Why a fault changes nothing, if it does."""
    for one in SETTINGS.get("equivalent", []):
        if (one["file"], one["before"], one["after"]) == (file, before, after):
            return f"changes nothing: {one['reason']}"
    return None


if __name__ == "__main__":
    main()
