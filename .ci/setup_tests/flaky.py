"""`make flaky`: repeats the tests that wait for something, idle and beside busy processes; pytest names what failed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUM_BUSY = 4
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""The program of a busy process; it ends with the one that started it."""


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


def main(num_repeats: int) -> None:
    """Run the tests both ways; the exit code is 1 if one failed."""
    marked = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.timing" in path.read_text()]
    codes = []
    for num_busy in (0, NUM_BUSY):
        print(f"beside {num_busy} busy processes", flush=True)
        workers = (os.cpu_count() or 1) + num_busy  # with fewer, the tests would only get few turns
        words = ["-q", "-m", "timing", f"--count={num_repeats}", f"--numprocesses={workers}"]
        with busy_processes(num_busy):
            command = [sys.executable, "-m", "pytest", *words, *marked]
            codes.append(subprocess.run(command, cwd=ROOT, check=False).returncode)
    sys.exit(max(codes))


if __name__ == "__main__":
    main(int(sys.argv[1]))
