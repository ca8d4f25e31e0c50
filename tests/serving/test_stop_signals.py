"""A signal during the start interrupts the loading; one that arrives later stops the service as soon as it runs."""

import os
import signal
from contextlib import nullcontext, suppress
from multiprocessing import get_context

import pytest

from segue.serving import server
from segue.serving.settings import ServiceSettings
from segue.serving.supervisor import STOP_SIGNALS, Supervisor, interruptible, stop_signals_recorded
from segue.serving.worker_table import WorkerTable
from tests.e2e.running import PATIENCE_S

pytestmark = pytest.mark.timing


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_only_the_first_signal_interrupts(number: signal.Signals) -> None:
    reached: list[str] = []

    def clean_up_after_a_signal() -> None:
        with interruptible():
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(number)
                reached.append("the end of what cleans up")

    with stop_signals_recorded(), pytest.raises(KeyboardInterrupt):
        clean_up_after_a_signal()
    assert reached == ["the end of what cleans up"]


def test_a_recorded_signal_interrupts_what_can_be_interrupted_at_once() -> None:
    reached: list[str] = []
    with stop_signals_recorded():
        signal.raise_signal(signal.SIGTERM)
        reached.append("the end of what cannot be interrupted")
        with pytest.raises(KeyboardInterrupt), interruptible():
            reached.append("never")
    assert reached == ["the end of what cannot be interrupted"]


def never_loads(*_: object) -> None:
    with suppress(KeyboardInterrupt), interruptible():
        os.read(os.pipe()[0], 1)


def test_the_imports_of_a_service_are_complete_before_a_signal_interrupts_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached: list[str] = []

    def import_service() -> None:
        signal.raise_signal(signal.SIGTERM)
        reached.append("the end of the imports")

    monkeypatch.setattr(server, "import_service", import_service)
    monkeypatch.setattr(server, "_load_elsewhere", never_loads)
    with stop_signals_recorded(), pytest.raises(KeyboardInterrupt):
        server._load_and_import(None, object.__new__(ServiceSettings), warn=print, busy=nullcontext)
    assert reached == ["the end of the imports"]


def test_the_handlers_before_are_restored_and_nothing_stays_recorded() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    for _ in range(2):
        with stop_signals_recorded():
            with interruptible():
                pass  # nothing of the time before interrupts it
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_forked_process_records_as_well() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            with interruptible():
                os._exit(0)
        except KeyboardInterrupt:
            os._exit(1)

    with stop_signals_recorded():
        process = get_context("fork").Process(target=work)
        process.start()
        process.join(PATIENCE_S)
    assert process.exitcode == 1


def test_a_supervisor_stops_by_a_signal_that_arrived_before_it_ran() -> None:
    started: list[int] = []
    table = WorkerTable(1, reset_after_s=60)
    supervisor = Supervisor(started.append, table, max_pause_s=5, stop_s=4, on_death=lambda _: None)
    with stop_signals_recorded():
        signal.raise_signal(signal.SIGTERM)
        supervisor.run(lambda: pytest.fail("no worker starts"))
    assert table.num_ready == 0
    assert started == []
