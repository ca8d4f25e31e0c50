"""Which workers are up, and what is reported of those that died."""

from segue.serving.worker_table import WorkerTable


def test_deaths_in_a_row_are_counted_until_a_worker_was_healthy_long_enough() -> None:
    table = WorkerTable(2, reset_after_s=30)
    table.set_ready(0, 100)
    assert [table.add_death(0, -9, now_s) for now_s in (101, 102, 103)] == [1, 2, 3]
    table.set_ready(0, 200)
    assert table.add_death(0, -9, 229.9) == 4
    table.set_ready(0, 300)
    assert table.add_death(0, -9, 330) == 1
    deaths = [table.add_death(1, 1, now_s) for now_s in (330, 1000, 10000)]
    assert deaths == [1, 2, 3], "each worker on its own; one that was never ready was never healthy"


def test_problems_name_the_worker_the_cause_and_what_happens_next() -> None:
    table = WorkerTable(2, reset_after_s=30)
    assert table.problems(0) == [], "a worker that starts for the first time is no problem"
    table.set_ready(0, 0)
    table.set_ready(1, 0)
    assert table.problems(1) == []
    table.add_death(1, -9, 10)
    table.rows[1].restart_at_s = 10
    down = "worker-2 is down: it died by SIGKILL; it is being restarted"
    assert table.problems(10) == [down]
    table.set_ready(1, 11)
    assert table.problems(11) == [], "one death that is over is no problem"
    table.add_death(1, 3, 12)
    table.rows[1].restart_at_s = 14
    assert table.problems(12.5) == [
        "worker-2 is down: it died 2 times in a row, last by exit code 3; it restarts in 1.5 s"
    ]
    table.set_ready(1, 15)
    often = "worker-2 is restarted often: it died 2 times in a row, last by exit code 3"
    assert table.problems(44.9) == [often]
    assert table.problems(45) == []
