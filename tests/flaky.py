"""`make flaky`: repeats the tests that wait for something, idle and beside busy processes, and says which failed.

The repetitions are done in pieces of a few. A piece that has ended leaves a file, so that a `make flaky` that was
stopped goes on with the piece it was at; after a change of the code all begins anew.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
NUM_BUSY = 4
IN_A_PIECE = 10
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""The program of a busy process; it ends with the one that started it."""


class Piece(NamedTuple):
    """Some repetitions of all tests."""

    is_busy: bool
    first: int
    last: int

    def __str__(self) -> str:
        return f"{'busy' if self.is_busy else 'idle'}-{self.first}-{self.last}"


def pieces(num_repeats: int) -> list[Piece]:
    """All that is to be done, in order."""
    starts = range(1, num_repeats + 1, IN_A_PIECE)
    return [
        Piece(is_busy, first, min(first + IN_A_PIECE - 1, num_repeats)) for is_busy in (False, True) for first in starts
    ]


def digest() -> str:
    """Of all that the tests depend on."""
    folders = (path for name in ("src", "tests", "conf", "docs") for path in (ROOT / name).rglob("*"))
    files = [
        *ROOT.glob("*.py"),
        *ROOT.glob("*.toml"),
        *ROOT.glob("*.lock"),
        *(path for path in folders if path.is_file()),
    ]
    hashed = hashlib.sha256()
    for path in sorted(path for path in files if "__pycache__" not in path.parts):
        hashed.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:12]


@contextmanager
def busy_processes(num: int) -> Iterator[None]:
    """Processes that take all they can get."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(num)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(piece: Piece, folder: Path) -> None:
    """Run a piece; what it says and what it found are in files of its name."""
    marked = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.timing" in path.read_text()]
    unfinished = folder / "unfinished.xml"
    workers = (os.cpu_count() or 1) + NUM_BUSY * piece.is_busy  # with fewer, the tests would only get few turns
    words = ["-m", "timing", f"--count={piece.last - piece.first + 1}", f"--junitxml={unfinished}", "--durations=0"]
    words += [f"--numprocesses={workers}"]
    command = [sys.executable, "-m", "pytest", "-v", *words, *marked]  # names the failures of a piece that is stopped
    with (folder / f"{piece}.txt").open("w") as file, busy_processes(NUM_BUSY * piece.is_busy):
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code not in (0, 1):  # neither all passed nor some failed
        sys.exit(f"pytest ended with exit code {code}; {folder}/{piece}.txt says why")
    unfinished.rename(folder / f"{piece}.xml")


def outcomes(piece: Piece, folder: Path) -> Iterator[tuple[str, str]]:
    """Each test that ran, without the number of its repetition, and `passed`, `skipped` or `failed`."""
    for case in ElementTree.parse(folder / f"{piece}.xml").iter("testcase"):
        name = re.sub(r"-?\d+-\d+\]$", "]", case.get("name", "")).removesuffix("[]")
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        yield f"{case.get('classname', '').replace('.', '/')}.py::{name}", outcome


def report(done: list[Piece], folder: Path) -> int:
    """Print the table; the number of failures."""
    runs, failures, logs = Counter[str](), Counter[str](), dict[str, list[str]]()
    for piece in done:
        for test, outcome in outcomes(piece, folder):
            runs[test] += outcome != "skipped"
            if outcome == "failed":
                failures[test] += 1
                logs.setdefault(test, []).append(str(folder / f"{piece}.txt"))
    width = max(map(len, runs), default=0)
    print(f"{'test':{width}}  runs  failures  logs")
    for test in sorted(runs, key=lambda test: (failures[test], test)):
        print(
            f"{test:{width}}  {runs[test]:4}  {failures[test]:8}  {' '.join(sorted(set(logs.get(test, []))))}".rstrip()
        )
    print(f"{len(runs)} tests, {runs.total()} runs, {failures.total()} failures")
    return failures.total()


def main(num_repeats: int) -> None:
    """Do what is missing, then print the table of all."""
    folder = ROOT / ".flaky" / digest()
    folder.mkdir(parents=True, exist_ok=True)
    planned = pieces(num_repeats)
    for piece in planned:
        if (folder / f"{piece}.xml").exists():
            print(f"{piece}: done before", flush=True)
            continue
        started_s = time.monotonic()
        run(piece, folder)
        found = Counter(outcome for _, outcome in outcomes(piece, folder))
        counts = ", ".join(f"{num} {outcome}" for outcome, num in sorted(found.items()))
        print(f"{piece}: {counts} in {time.monotonic() - started_s:.0f} s", flush=True)
    sys.exit(report(planned, folder) > 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
