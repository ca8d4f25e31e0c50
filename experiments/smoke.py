"""Run every living study at its smallest size: python experiments/smoke.py [part of a name …]

A study is living if its README does not say that it is finished; its scripts are those that the README calls. At most
two run at once. Prints a line for each script, and the whole output of those that fail.
"""

import argparse
import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.studying import run_script, warm_up
from segue.runs.provenance import ROOT

AT_ONCE = 2
CALLED = re.compile(r"python (experiments/\w+/\w+\.py)")


def is_living(study: Path) -> bool:
    """Whether the scripts of a study are here."""
    return "**Finished study.**" not in (study / "README.md").read_text(encoding="utf-8")


def scripts_of(study: Path) -> list[str]:
    """The calls of scripts in the README of a study, in its order, without those at another commit."""
    text = (study / "README.md").read_text(encoding="utf-8")
    return CALLED.findall(re.sub(r"```bash\ngit worktree add .*?```", "", text, flags=re.DOTALL))


def living_scripts() -> list[str]:
    """The scripts of all living studies, each once, also where several READMEs call it."""
    studies = [path.parent for path in sorted((ROOT / "experiments").glob("*/README.md"))]
    scripts = [script for study in studies if is_living(study) for script in scripts_of(study)]
    return [*dict.fromkeys(scripts)]


def run_all(scripts: Sequence[str], folder: Path) -> list[str]:
    """Run scripts, and report each when it has ended.

    Args:
        scripts: paths from the root of the repository.
        folder: of what they print.

    Returns:
        Those that failed.
    """
    todo, failed, running = list(scripts), list[str](), dict[int, tuple[BaseProcess, str, float]]()
    while todo or running:
        while todo and len(running) < AT_ONCE:
            script = todo.pop(0)
            started = multiprocessing.get_context("fork").Process(
                target=_smoke, args=(script, output_of(script, folder))
            )
            started.start()
            running[started.sentinel] = started, script, time.monotonic()
        for sentinel in wait([*running]):
            process, script, began = running.pop(_number(sentinel))
            before_s = _cpu_s()
            process.join()
            text = output_of(script, folder).read_text(encoding="utf-8", errors="replace")
            state = f"failed with code {process.exitcode}" if process.exitcode else "ok"
            seconds = f"{time.monotonic() - began:5.0f} s, {_cpu_s() - before_s:4.0f} s of CPU"
            print(f"{script:44} {seconds}  {state}", flush=True)
            shown = text.splitlines() if process.exitcode else re.findall(r"^skipped .*", text, flags=re.MULTILINE)
            print("".join(f"    {line}\n" for line in shown), end="", flush=True)
            failed += [script] if process.exitcode else []
    return failed


def output_of(script: str, folder: Path) -> Path:
    """The file with what a script printed."""
    return folder / f"{'-'.join(Path(script).with_suffix('').parts[1:])}.txt"


def _cpu_s() -> float:
    """Of all processes that have ended, with those that they had started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _number(sentinel: Any) -> int:
    return int(sentinel)


def _smoke(script: str, output: Path) -> None:
    with output.open("wb") as file:
        run_script([str(ROOT / script), "--smoke"], ROOT, {}, file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only scripts whose path has one of these parts")
    given = parser.parse_args()
    scripts = [one for one in living_scripts() if not given.names or any(name in one for name in given.names)]
    folder, began = ROOT / "outputs" / "smoke", time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    warm_up()
    failed = run_all(scripts, folder)
    seconds = f"{time.monotonic() - began:.0f} s, {_cpu_s():.0f} s of CPU"
    print(f"{len(scripts)} scripts in {seconds}, {len(failed)} failed; what they printed is in {folder}")
    sys.exit(1 if failed or not scripts else 0)


if __name__ == "__main__":
    main()
