"""The processes of one run: who starts them, what the first one decides, and what happens when one dies."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override

from segue.errors import InputError
from segue.terminal.console import console, errors
from segue.terminal.messages import show_error

_PATIENCE_S = 10.0  # how long the first process has to notice by itself that another one has died
_POLL_S = 0.2
_FOREVER = timedelta(days=30)
_OF_THE_FIRST = ("resume=", "hydra.run.dir=")  # words of the command line that only the first process gets


@dataclass(eq=False, kw_only=True)
class Processes:
    """The processes that train a run together, seen from one of them.

    The first one decides and writes: run folder, checkpoints, MLflow. The others have a temporary folder, print nothing
    and follow its decisions, which go through a store: torch's `TCPStore`, in the first process or in `torchrun`.

    Args:
        index: number of this process, from 0.
        index_here: number of this process among those of this machine.
        store: what the first process shares; None for one process.
        children: the other processes, if this one started them.
        folder: where these write what they print.
    """

    index: int = 0
    count: int = 1
    index_here: int = 0
    machine: int = 0
    store: Any = None
    children: Sequence["subprocess.Popen[bytes]"] = ()
    folder: Path | None = None
    _set_up: ExitStack = field(default_factory=ExitStack)
    _is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_first(self) -> bool:
        """Whether this process decides and writes."""
        return self.index == 0

    def new_folder(self) -> str:
        """A folder in place of the run folder, for a process that is not the first; removed when it ends."""
        return self._set_up.enter_context(tempfile.TemporaryDirectory(prefix="segue-process-"))

    def decide(self, what: str, decision: Callable[[], Any]) -> Any:
        """Make a decision in the first process; the others wait for it.

        Args:
            decision: returns what JSON can hold. It is called in the first process only.

        Returns:
            The same value in all processes.

        Raises:
            InputError: another process has died.
        """
        if self.count == 1:
            return decision()
        if self.is_first:
            value = decision()
            self._check_children()
            self.store.set(what, json.dumps(value))
            return value
        return json.loads(self.store.get(what))

    def once_per_machine(self, what: str, action: Callable[[], None]) -> None:
        """Call `action` in one process of each machine before it is called in the others.

        Args:
            action: creates files, or finds that they exist.
        """
        key = f"{what}/{self.machine}"
        if self.count > 1 and self.index_here > 0:
            self.store.wait([key])
        action()
        if self.count > 1 and self.index_here == 0:
            self.store.set(key, "")

    def wait_for_all(self) -> None:
        """Wait until every process has come here.

        Raises:
            InputError: another process has died.
        """
        if self.count == 1:
            return
        self.store.set(f"here/{self.index}", "")
        if not self.is_first:
            return
        while not self.store.check([f"here/{index}" for index in range(self.count)]):
            self._check_children()
            time.sleep(_POLL_S)

    def check_same(self, what: str, value: str) -> None:
        """Refuse to train together where processes differ.

        Raises:
            InputError: it is not that of the first process.
        """
        first = self.decide(what, lambda: value)
        if first != value:
            raise InputError(
                f"process {self.index} has other {what} than process 0 ({value} and {first}); all processes of a run "
                "need the same files"
            )

    def leave(self) -> None:
        """After training: the first process goes on alone, with all cores; the others end."""
        self._is_over.set()
        if self.count == 1:
            return
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
        self._set_up.close()

    def _watch(self) -> None:
        """End this process where it waits for a dead one in a call that cannot be interrupted."""
        while not any(child.poll() for child in self.children):
            if self._is_over.wait(_POLL_S):
                return
        if not self._is_over.wait(_PATIENCE_S):
            show_error(self._line_of_dead(wait_s=0.0))
            _end(self.children)
            os._exit(2)

    def _check_children(self) -> None:
        if any(child.poll() for child in self.children):
            raise InputError(self._line_of_dead(wait_s=0.0))

    def _line_of_dead(self, *, wait_s: float) -> str:
        """Which process died, and why."""
        deadline = time.monotonic() + wait_s
        while not (dead := [n for n, child in enumerate(self.children, 1) if child.poll()]) and self.children:
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        remedy = "resume=<run folder> continues from its last checkpoint"
        if not dead:
            return (
                f"process {self.index} of {self.count} lost the connection to another one, which died or cannot be "
                f"reached; what that one printed says why; {remedy}"
            )
        code = self.children[dead[0] - 1].returncode
        why = f"exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            why = f"{name}; a possible cause is too little memory" if name == "SIGKILL" else name
        elif lines := self._printed_by(dead[0]):
            if not (said := [line for line in lines if line.startswith("error: ")]):  # a bug of ours
                errors.print("\n".join(lines), markup=False)
            why = [*lines[-1:], *said][-1].removeprefix("error: ")
        return f"process {dead[0]} of {self.count} died ({why}), and the others were stopped; {remedy}"

    def _printed_by(self, index: int) -> list[str]:
        assert self.folder is not None
        return _log(self.folder, index).read_text(encoding="utf-8", errors="replace").strip().splitlines()


@contextmanager
def processes_of(*, devices: int, num_machines: int, is_shared: bool, again: Sequence[str]) -> Iterator[Processes]:
    """Take part in a run: alone, as one of the processes of torchrun, or as the first one, which starts the others.

    At the end processes that were started here are stopped.

    Args:
        devices: processes on each machine.
        is_shared: whether the trainer can share a run.
        again: the command that starts another process of the run, which finds the modules of this one.

    Raises:
        InputError: the settings do not fit how this process was started.
    """
    count, external = devices * num_machines, "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if external and (not is_shared or int(os.environ["WORLD_SIZE"]) != count):
        raise InputError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, and the trainer has {count}; use trainer=ddp with "
            "trainer.devices=<processes on each machine> and trainer.num_nodes=<machines>"
        )
    if not external and num_machines > 1:
        raise InputError(
            f"trainer.num_nodes={num_machines} needs torchrun on each machine: torchrun --nnodes={num_machines} "
            f"--nproc-per-node={devices} --rdzv-backend=c10d --rdzv-endpoint=<first machine>:29500 -m segue train …"
        )
    if count == 1:
        yield Processes()
        return
    processes = _started_by_others(count) if external else _started_here(count, again)
    with processes._set_up:
        try:
            yield processes
        except Exception as error:
            if not _is_broken_connection(error):
                raise
            raise InputError(processes._line_of_dead(wait_s=_PATIENCE_S / 2)) from None
        finally:
            processes._is_over.set()


def _started_by_others(count: int) -> Processes:
    index = int(os.environ["RANK"])
    is_server = index == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = _store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=is_server, multi_tenant=True)
    console.quiet = index > 0
    machine = int(os.environ.get("GROUP_RANK", 0))
    return Processes(index=index, count=count, index_here=int(os.environ["LOCAL_RANK"]), machine=machine, store=store)


def _store(host: str, port: int, **how: bool) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's stubs leave it out

    return TCPStore(host, port, wait_for_workers=False, timeout=_FOREVER, **how)


def _started_here(count: int, again: Sequence[str]) -> Processes:
    """Start the other processes with the environment that torchrun would give them."""
    import torch

    store = _store("127.0.0.1", 0, is_master=True)
    num_threads = os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "segue",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": num_threads,
    }
    children: list[subprocess.Popen[bytes]] = []
    with ExitStack() as set_up:
        folder = Path(set_up.enter_context(tempfile.TemporaryDirectory(prefix="segue-processes-")))
        set_up.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(int(num_threads))
        set_up.enter_context(env_override({**environment, "RANK": "0", "LOCAL_RANK": "0"}))
        set_up.callback(_end, children)
        for index in range(1, count):
            children.append(_start(again, index, folder))
        processes = Processes(count=count, store=store, children=children, folder=folder, _set_up=set_up.pop_all())
    threading.Thread(target=processes._watch, daemon=True).start()
    return processes


def _start(again: Sequence[str], index: int, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own: a Ctrl-C reaches the first process alone, which stops the others."""
    words = [word for word in again if not word.startswith(_OF_THE_FIRST)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1", "TMPDIR": str(folder)}
    with _log(folder, index).open("wb") as printed:
        return subprocess.Popen(
            [*words, f"hydra.run.dir='{folder / str(index)}'"],
            env={**os.environ, **environment, "RANK": str(index), "LOCAL_RANK": str(index)},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _log(folder: Path, index: int) -> Path:
    return folder / f"{index}.log"


def _end(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        child.kill()
    for child in children:
        child.wait()


def _is_broken_connection(error: Exception) -> bool:
    """Whether a collective call failed because another process is gone."""
    from torch.distributed import DistError

    text = str(error)
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text))
