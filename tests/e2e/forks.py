"""Verbs as forks of a process that has already imported torch, Lightning and MLflow.

A new interpreter spends most of a small training on imports. A fork of a process that waits has its own memory,
arguments, folder, environment and streams like any process, and starts at once. `fork_command` is the command of a
small process that represents the fork: it passes signals on to the fork and ends with its exit code. When it is
killed, the fork is killed too, and all processes of the fork. Tests of imports, of the number of threads, and at least
one test of each verb use a new interpreter.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sqlalchemy.orm import configure_mappers

import segue
from segue.verbs import abtest, compare, describe, simulate, train

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("fork_client.py")


CHILDREN_TOO = {"FORKS_FORK_CHILDREN": "1"}
"""In the environment of a fork: the interpreters that it starts are forks too. They have the threads of the server."""


def fork_command(*words: str) -> list[str]:
    """For `subprocess`, in place of `[sys.executable, *words]`; the words begin with a file, `-m` or `-c`."""
    return [sys.executable, "-I", "-S", str(CLIENT), str(_server()), *words]


_HELD = """
import runpy, sys, time
from pathlib import Path
write = sys.stdout.write
def held(text):
    write(text)
    for line, go in {stops!r}.items():
        if text.startswith(line):
            sys.stdout.flush()
            while not Path(go).exists():
                time.sleep(0.01)
sys.stdout.write = held
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def held_command(stops: Mapping[str, Path], verb: str, *words: str) -> list[str]:
    """A verb that stands still once it has printed a line that begins so, until the file of that line exists.

    Its environment needs `PYTHONPATH`.
    """
    files = {line: str(file) for line, file in stops.items()}
    return fork_command("-c", _HELD.format(stops=files), str(ROOT / verb), *words)


def run_forked(
    verb: Path, *words: str, cwd: Path, env: dict[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    command = fork_command(str(verb), *words)
    return subprocess.run(command, cwd=cwd, env=env, timeout=timeout_s, capture_output=True, text=True, check=False)


@cache
def _server() -> Path:
    """The socket of the process that waits: one for all processes of a call of pytest, which ends after the last."""
    folder = Path(tempfile.gettempdir(), f"forks-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}")
    with _one_at_a_time():
        if not folder.exists():
            _start(folder)
        os.open(folder / "needed", os.O_WRONLY | os.O_NONBLOCK)  # until this process ends
    while not (folder / "ready").exists():  # outside of the time that a test gives to its verb
        os.close(os.open(folder / "needed", os.O_WRONLY | os.O_NONBLOCK))  # fails where the other process has ended
        time.sleep(0.05)
    return folder / "socket"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    with Path(__file__).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _start(folder: Path) -> None:
    folder.mkdir()
    path, python, needed = (folder / name for name in ("socket", "python", "needed"))
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {CLIENT} {path} "$@"\n')  # as seen by a fork
    python.chmod(0o755)
    os.mkfifo(needed)
    reading = os.open(needed, os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(100)
        command = [sys.executable, "-m", "tests.e2e.forks", str(listening.fileno()), str(python)]
        env = {"GOMP_SPINCOUNT": "0", **os.environ}  # libgomp reads it once: forks of two trainings share the cores
        server = subprocess.Popen(command, cwd=ROOT, env=env, stdin=reading, pass_fds=[listening.fileno()])
    os.close(reading)
    server.returncode = 0  # it is not waited for: others may need it longer


_IMPORTED = (
    "segue.runs.tracking.store",
    "duckdb",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "segue.callbacks.pictures",
    "segue.runs.tracking.logger",
    *("mlflow.store.tracking.sqlalchemy_store", "git", "pyarrow.parquet", "matplotlib.backends.backend_agg", "optuna"),
    *("pytest", "hypothesis", "alembic.config", "mlflow.system_metrics.system_metrics_monitor"),
    *("IPython.display", "mlflow.models.display_utils", "mlflow.pyfunc.scoring_server", "sqlalchemy.dialects.sqlite"),
    *("mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.tracing.processor.otel", "pyarrow.pandas_compat"),
    *("matplotlib.patheffects", "fsspec.implementations.chained", "pandas.core.arrays.arrow.extension_types"),
    *("torch.utils.serialization.config", "rich.status", "rich._emoji_codes", "pydantic._internal._serializers"),
    *(
        "segue.callbacks.assembly",
        "segue.verdicts.comparison.report",
        "segue.verdicts.abtest.report",
        "segue.simulation.policies",
    ),
)
"""In this order: the first says how MLflow is to behave. MLflow imports its store of sqlite at the first call, which
takes longer than the rest of a small training."""


def _modules_of_verbs() -> list[str]:
    """Modules that verbs import in their functions; not those of the service, which is never a fork."""
    modules = (module.name for module in pkgutil.walk_packages(segue.__path__, "segue."))
    return [name for name in modules if not name.startswith(("segue.serving", "segue.serving.room"))]


def _warm_up() -> None:
    """Do once what libraries remember: parsers of configs, tables of MLflow, fonts. Nothing of it starts a thread."""
    with contextlib.redirect_stdout(io.StringIO()):
        for words in (["datamodule=botify"], ["model=rules", "logger=none"]):
            train.train([*words, "--cfg", "job"])
        for verb in (compare.compare, simulate.simulate, abtest.abtest, describe.describe):
            verb(["--cfg", "job"])
    configure_mappers()
    figure = Figure()
    figure.subplots().set_title("α", weight="bold")
    figure.savefig(io.BytesIO())


def _serve(listening: socket.socket) -> None:
    for name in (*_IMPORTED, *_modules_of_verbs()):
        importlib.import_module(name)
    _warm_up()
    # A fork that ends does not take down what this process has; torch has hundreds of finalizers, and no other list.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # private, see above
        finalizer.atexit = False
    gc.collect()
    gc.freeze()  # a fork shares what is never looked at again
    Path(sys.argv[2]).with_name("ready").touch()
    children: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor of the process, and of its connection
    waiting = select.poll()
    for descriptor in (0, listening.fileno()):
        waiting.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in waiting.poll():
            if descriptor == 0:  # nobody needs it
                with _one_at_a_time():
                    if select.select([0], [], [], 0)[0]:
                        shutil.rmtree(Path(sys.argv[2]).parent)
                        return
                continue
            if descriptor == listening.fileno():
                connection, _ = listening.accept()
                if (child := _fork(connection)) is None:
                    connection.close()
                    continue
                with contextlib.suppress(BrokenPipeError):  # of a client that has gone, which is noticed below
                    connection.sendall(f"{child}\n".encode())
                for one in (os.pidfd_open(child), connection.fileno()):
                    children[one] = child, connection
                    waiting.register(one, select.POLLIN)
            elif descriptor in children:
                child, connection = children[descriptor]
                if descriptor == connection.fileno():  # whoever asked for it has been killed
                    os.killpg(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                for one in [one for one, (of, _) in children.items() if of == child]:
                    waiting.unregister(one)
                    del children[one]
                    if one != connection.fileno():
                        os.close(one)
                _answer(connection, os.waitstatus_to_exitcode(status))


def _answer(connection: socket.socket, code: int) -> None:
    with connection, contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{code}\n".encode())


def _fork(connection: socket.socket) -> int | None:
    """The number of the new process; None where the client has gone before it said what it wants."""
    length, descriptors, *_ = socket.recv_fds(connection, 4, 100)
    with connection.makefile("rb") as file:
        text = file.read(int.from_bytes(length))
    is_whole = bool(length) and len(text) == int.from_bytes(length)
    if is_whole and (child := os.fork()) == 0:
        _become(json.loads(text), descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return child if is_whole else None


def _become(asked: dict[str, Any], descriptors: list[int]) -> None:
    """Be the process that was asked for, to its end."""
    code: object = 0
    os.setsid()
    above = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 500) for descriptor in descriptors]
    os.closerange(0, 500)  # also those of other forks
    for descriptor, number in zip(above, asked["descriptors"], strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    of_tracking = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    os.environ.clear()
    os.environ.update({**of_tracking, **asked["env"]})  # an import that has been made says nothing again
    tempfile.tempdir = None  # TMPDIR may name another folder
    os.chdir(asked["cwd"])
    first, *others = asked["argv"]
    root = Path.cwd() if first in ("-m", "-c") else Path(first).parent
    sys.path[:1] = [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    if "FORKS_FORK_CHILDREN" in os.environ:
        sys.executable = sys.argv[2]
    if root != ROOT and (root / "src").is_dir():  # a copy of the project has modules of its own
        for name in [name for name in sys.modules if name.split(".")[0] in _OURS]:
            del sys.modules[name]
    try:
        _run(first, others)
    except SystemExit as stopped:
        code = stopped.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what an interpreter does at its end, but for its memory
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


_OURS = ("segue", "tests")


def _run(first: str, others: list[str]) -> None:
    if first == "-m":
        sys.argv[:] = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[:] = [first, *others[1:]]
        exec(others[0], {"__name__": "__main__"})
    else:
        sys.argv[:] = [first, *others]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
