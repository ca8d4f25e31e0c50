"""Workers are restarted with growing pauses while the others run; signals stop them."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.errors import InputError
from segue.serving.supervisor import START_ATTEMPTS, Supervisor, pause_s
from segue.serving.worker_table import WorkerTable
from tests.e2e.running import wait_until

pytestmark = pytest.mark.timing


def test_pauses_grow_to_the_largest_and_stay_there() -> None:
    assert [pause_s(number, max_pause_s=5) for number in range(1, 10)] == [0, 0.5, 1, 2, 4, 5, 5, 5, 5]
    assert [pause_s(number, max_pause_s=0.75) for number in range(1, 5)] == [0, 0.5, 0.75, 0.75]
    assert pause_s(10**9, max_pause_s=5) == 5


class Service:
    """A supervisor whose workers write their process ids into files and wait."""

    def __init__(self, folder: Path, num_workers: int, *, work: Callable[[int], None] | None = None) -> None:
        self.folder, self.dead = folder, list[int]()
        self.table = WorkerTable(num_workers, reset_after_s=30)
        self.supervisor = Supervisor(
            work or self._work, self.table, max_pause_s=0.2, stop_s=1, on_death=self.dead.append
        )

    def _work(self, worker: int) -> None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        with (self.folder / f"{worker}").open("a") as file:
            print(os.getpid(), file=file)
        self.table.set_ready(worker, time.monotonic())
        signal.pause()

    def pids(self, worker: int) -> list[int]:
        """Process ids that this worker has had, the present one last."""
        return [int(line) for line in (self.folder / f"{worker}").read_text().split()]

    def run(self, act: Callable[[], None]) -> None:
        """Run until `act`, which starts when all workers are ready, has ended; then stop by SIGTERM."""
        failed: list[BaseException] = []

        def act_and_stop() -> None:
            try:
                act()
            except BaseException as error:
                failed.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=act_and_stop)

        def announce() -> bool:
            thread.start()
            return True

        self.supervisor.run(announce)
        thread.join()
        if failed:
            raise failed[0]


def test_the_service_ends_where_no_worker_can_start(tmp_path: Path) -> None:
    def fail(worker: int) -> None:
        with (tmp_path / str(worker)).open("a") as file:
            file.write("x")
        os._exit(3)

    service = Service(tmp_path, 2, work=fail)
    with pytest.raises(InputError, match=r"no worker could start: each of 2 died \d times before any was ready"):
        service.run(lambda: None)
    num_starts = [len((tmp_path / name).read_text()) for name in ("0", "1")]
    assert min(num_starts) == START_ATTEMPTS, "the service ends as soon as both have died so often"


def test_a_worker_that_cannot_start_beside_one_that_runs_does_not_end_the_service(tmp_path: Path) -> None:
    service: Service

    def work(worker: int) -> None:
        if worker == 1:
            os._exit(3)
        service._work(worker)

    service = Service(tmp_path, 2, work=work)
    service.run(lambda: wait_until(lambda: service.table.rows[1].num_deaths > START_ATTEMPTS + 2, "many deaths"))
    assert len(service.pids(0)) == 1


def test_a_signal_stops_the_service_where_the_exception_of_its_handler_is_lost(tmp_path: Path) -> None:
    service = Service(tmp_path, 1)

    def announce() -> bool:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return True

    service.supervisor.run(announce, each_second=lambda: pytest.fail("it did not stop"))
    assert not Path(f"/proc/{service.pids(0)[0]}").exists()


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def work(worker: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (tmp_path / "0").write_text(str(os.getpid()))
        service.table.set_ready(worker, time.monotonic())
        while True:
            signal.pause()

    service = Service(tmp_path, 1, work=work)
    started_s = time.monotonic()
    service.run(lambda: None)
    assert time.monotonic() - started_s >= 1
    assert not Path(f"/proc/{service.pids(0)[0]}").exists()
    assert "worker-1 did not stop within 1 s and is killed" in caplog.text
