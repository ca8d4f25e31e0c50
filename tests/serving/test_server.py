"""Workers take the first free name, and know who had it before."""

import multiprocessing
from pathlib import Path

from src.serving.server import _claim_name, _names


def test_who_follows_a_dead_worker_takes_its_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    worker = context.Process(target=lambda: sender.send(_claim_name(tmp_path)))
    worker.start()
    assert receiver.recv() == ("worker-1", [])
    worker.join()
    try:
        assert _claim_name(tmp_path) == ("worker-1", [worker.pid])
        assert _claim_name(tmp_path) == ("worker-2", []), "the first is taken"
        assert sorted(path.name for path in (tmp_path / "workers").iterdir()) == ["worker-1", "worker-2"]
    finally:
        while _names:
            _names.pop().close()
