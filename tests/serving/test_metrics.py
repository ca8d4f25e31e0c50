"""Metrics add up over the workers that are alive."""

import multiprocessing
import os

from src.serving.metrics import Metrics, exposition, forget_dead


def lines_of_the_log() -> float:
    (line,) = [line for line in exposition().decode().splitlines() if line.startswith("segue_log_lines ")]
    return float(line.split()[1])


def test_a_worker_that_was_killed_no_longer_counts() -> None:
    Metrics().observe(0, 5, 0)
    worker = multiprocessing.get_context("fork").Process(target=lambda: Metrics().observe(0, 7, 0))
    worker.start()
    worker.join()
    assert worker.pid is not None
    assert lines_of_the_log() == 12, "nobody has noticed yet"
    forget_dead([os.getpid(), 1, worker.pid])
    assert lines_of_the_log() == 5, "who is alive still counts"
