"""Verbs as forks of a process that has imported torch, Lightning and MLflow already.

A new interpreter spends most of a small training on imports. A fork of one that waits has its own memory, arguments,
folder, environment and streams like any process, and begins at once. Tests that send signals, start other processes or
watch imports use a new interpreter all the same.
"""

import atexit
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]


def run_forked(
    verb: Path, *words: str, cwd: Path, env: dict[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end, as `subprocess.run(…, capture_output=True, text=True)` would."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        asked = {"argv": [str(verb), *words], "cwd": str(cwd), "env": env, "streams": streams, "timeout_s": timeout_s}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        stdout, stderr = (Path(stream).read_text(encoding="utf-8") for stream in streams)
    return subprocess.CompletedProcess([str(verb), *words], code, stdout, stderr)


@cache
def _server() -> subprocess.Popen[str]:
    """The process that waits, one for each process of tests."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.forks"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.kill)
    return server


_IMPORTED = (
    "src.tracking.store",
    "duckdb",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "src.callbacks.pictures",
    "src.tracking.logger",
)
"""In this order: the first says how MLflow is to behave."""


def _serve(requests: TextIO, answers: TextIO) -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in requests:
        asked = json.loads(line)
        if (child := os.fork()) == 0:
            _become(asked)
        answers.write(f"{_exit_code(child, asked['timeout_s'])}\n")
        answers.flush()


def _exit_code(child: int, timeout_s: float) -> int:
    import signal

    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(int(timeout_s))
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status)


def _become(asked: dict[str, Any]) -> None:
    """Be the process that was asked for, to its end."""
    code: object = 0
    for number, stream in enumerate([os.devnull, *asked["streams"]]):
        os.dup2(os.open(stream, os.O_RDWR | os.O_CREAT), number)
    of_tracking = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    os.environ.clear()
    os.environ.update({**of_tracking, **asked["env"]})  # an import that has been made says nothing again
    os.chdir(asked["cwd"])
    sys.argv[:] = asked["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
