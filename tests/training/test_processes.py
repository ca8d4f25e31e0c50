"""The processes of one run: what the first one decides, and the line about one that died."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]  # torch's stubs leave it out

from segue.errors import InputError
from segue.training.processes import Processes, processes_of
from tests.e2e.running import PATIENCE_S, wait_until

pytestmark = pytest.mark.timing


def processes(store: Any, index: int, **more: Any) -> Processes:
    return Processes(index=index, count=2, index_here=index, machine=0, store=store, **more)


def in_both(work: Any) -> list[Any]:
    store = HashStore()
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda index: work(processes(store, index)), range(2)))


def test_one_process_decides_for_all() -> None:
    decided = in_both(lambda one: one.decide("checkpoint", lambda: {"from": one.index}))
    assert decided == [{"from": 0}] * 2


def test_files_are_created_by_one_process_of_a_machine_before_the_others_look_for_them() -> None:
    order: list[int] = []
    in_both(lambda one: one.once_per_machine("files", lambda: order.append(one.index)))
    assert order == [0, 1]


def test_all_wait_for_the_last_one() -> None:
    store, is_here = HashStore(), threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def waits() -> bool:
            processes(store, 0).wait_for_all()
            return is_here.is_set()

        waiting = pool.submit(waits)
        is_here.set()
        processes(store, 1).wait_for_all()
        assert waiting.result(timeout=PATIENCE_S)


def test_processes_with_other_data_are_refused() -> None:
    def check(one: Processes) -> str:
        try:
            one.check_same("data", "ab"[one.index])
        except InputError as error:
            return str(error)
        return ""

    assert in_both(check) == [
        "",
        "process 1 has other data than process 0 (b and a); all processes of a run need the same files",
    ]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("kill -9 $$", "SIGKILL; a possible cause is too little memory"),
        ("kill -TERM $$", "SIGTERM"),
        ("echo reading; echo 'error: cannot read logs'; exit 2", "cannot read logs"),
        ("exit 3", "exit code 3"),
    ],
)
def test_a_process_that_died_is_named_with_the_reason(command: str, why: str, tmp_path: Path) -> None:
    with (tmp_path / "1.log").open("wb") as printed:
        child = subprocess.Popen(["sh", "-c", command], stdout=printed)
    child.wait()
    first = processes(HashStore(), 0, children=[child], folder=tmp_path)
    with pytest.raises(InputError) as raised:
        first.wait_for_all()
    assert str(raised.value) == (
        f"process 1 of 2 died ({why}), and the others were stopped; resume=<run folder> continues from its last "
        "checkpoint"
    )


def test_a_bug_in_a_process_is_printed_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "1.log").open("wb") as printed:
        child = subprocess.Popen(["sh", "-c", "echo Traceback; echo 'KeyError: 1'; exit 1"], stdout=printed)
    child.wait()
    with pytest.raises(InputError, match=r"process 1 of 2 died \(KeyError: 1\)"):
        processes(HashStore(), 0, children=[child], folder=tmp_path).wait_for_all()
    assert capsys.readouterr().err == "Traceback\nKeyError: 1\n"


ALONE: dict[str, Any] = {"devices": 1, "num_machines": 1, "is_shared": False, "again": []}


@pytest.mark.parametrize(
    ("environment", "settings", "line"),
    [
        (
            {},
            {"num_machines": 3, "is_shared": True},
            "trainer.num_nodes=3 needs torchrun on each machine: torchrun",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {}, "torchrun started 2 processes, and the trainer has 1; use trainer=ddp"),
        (
            {"RANK": "1", "WORLD_SIZE": "4"},
            {"devices": 3, "is_shared": True},
            "torchrun started 4 processes, and the trainer has 3; use trainer=ddp with trainer.devices=",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    environment: dict[str, str], settings: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as raised, processes_of(**{**ALONE, **settings}):
        pass
    assert str(raised.value).startswith(line)


def test_one_process_needs_nobody() -> None:
    with processes_of(**ALONE) as alone:
        assert alone.decide("checkpoint", lambda: 1) == 1
        alone.wait_for_all()
        alone.check_same("data", "a")
        alone.leave()


def test_the_others_are_stopped_and_the_process_is_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "other.py"
    script.write_text("import os, pathlib, time\npathlib.Path('rank').write_text(os.environ['RANK'])\ntime.sleep(60)\n")
    monkeypatch.chdir(tmp_path)
    again = [sys.executable, str(script), "resume=x", "trainer=ddp"]
    before, threads = dict(os.environ), torch.get_num_threads()
    with processes_of(**{**ALONE, "devices": 2, "is_shared": True, "again": again}) as first:
        [child] = first.children
        folder = first.folder
        assert isinstance(child.args, list)
        assert [word for word in child.args[2:] if not str(word).startswith("hydra.run.dir=")] == ["trainer=ddp"]
        wait_until(lambda: (tmp_path / "rank").read_text(), "the other process")
        assert os.environ["WORLD_SIZE"] == "2"
        first.leave()
        assert child.poll() == -signal.SIGKILL
    assert (tmp_path / "rank").read_text() == "1"
    assert folder is not None
    assert not folder.exists()
    assert (dict(os.environ), torch.get_num_threads()) == (before, threads)
