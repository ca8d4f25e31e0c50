"""Where the time of a run goes."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.runs.phases import PhaseClock
from segue.runs.provenance import ROOT

LAPS = st.lists(st.tuples(st.sampled_from(["training", "validation", "test"]), st.floats(0, 1e4)), min_size=1)


@given(laps=LAPS)
def test_phases_add_up_to_all_of_the_time(laps: list[tuple[str, float]]) -> None:
    now = 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now)
        clock = PhaseClock()
        for phase, duration in laps:
            now += duration
            clock.end(phase)
    assert sum(clock.seconds.values()) == pytest.approx(now - 1000)
    assert list(clock.seconds) == list(dict.fromkeys(phase for phase, _ in laps)), "in the order of their first end"
    for phase, seconds in clock.seconds.items():
        assert seconds == pytest.approx(sum(duration for name, duration in laps if name == phase), abs=1e-6)


@pytest.mark.timing
def test_a_run_that_is_no_job_starts_with_its_process() -> None:
    code = (
        "import time; deadline = time.process_time() + 0.3\n"
        "while time.process_time() < deadline: pass\n"
        "from segue.runs.phases import PhaseClock\n"
        "clock = PhaseClock(of_process=True); clock.end('start'); print(clock.seconds['start'])"
    )
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 0.3 < float(done.stdout) < time.perf_counter() - before
