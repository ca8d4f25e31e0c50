"""The harness of `make bench`: the order of contenders, the rows, the table."""

import time
from pathlib import Path

import pytest

from experiments.throughput import bench
from experiments.throughput.race import Contender, Stage, Timing, Work, race, rows_of
from experiments.throughput.report import line


def slow(_folder: Path, _small: bool) -> Work:
    def nap() -> float:
        time.sleep(0.02)
        return 1.0

    return nap


def fast(folder: Path, _small: bool) -> Work:
    return lambda: float((folder / "units").read_text())


def write_units(folder: Path, _small: bool) -> None:
    (folder / "units").write_text("7e6")


def stage(*, target_rival: float | None = 2, target_limit: float | None = 0.5, seconds: float | None = None) -> Stage:
    return Stage(
        name="sleeping",
        unit="naps",
        make=write_units,
        ours=Contender(name="ours", prepare=fast),
        rivals=[Contender(name="rival", prepare=slow, at_least=target_rival)],
        limits=[Contender(name="limit", prepare=fast, at_least=target_limit)],
        seconds_at_most=seconds,
    )


def timings(ours: list[float], rival: list[float], limit: list[float]) -> dict[str, Timing]:
    rates = {"ours": ours, "rival": rival, "limit": limit}
    return {name: Timing(rates=values, peak_mb=100.0) for name, values in rates.items()}


@pytest.mark.timing
def test_contenders_take_turns_in_processes_of_their_own(tmp_path: Path) -> None:
    reported: list[str] = []
    timed = race(stage(), tmp_path, small=True, rounds=2, report=reported.append)
    assert {name: len(timing.rates) for name, timing in timed.items()} == {"ours": 2, "rival": 2, "limit": 2}
    assert timed["rival"].rates[0] < 50 < timed["ours"].rates[0]  # which does millions of units at once
    rounds = [word for word in reported if word.startswith("round")]
    assert [word.split(": ")[1] for word in rounds[3:6]] == ["rival", "limit", "ours"]  # the order rotates


def test_a_row_has_the_medians_of_ratios_within_rounds() -> None:
    [row] = rows_of(stage(), timings([10, 20, 30], [5, 4, 10], [20, 20, 60]))
    assert (row["ours"], row["rival"], row["limit"]) == (20, 5, 20)
    assert (row["ratio_to_rival"], row["spread_to_rival"]) == (3, [2, 5])  # of 2, 5 and 3
    assert (row["ratio_to_limit"], row["wanted_rival"], row["wanted_limit"]) == (0.5, 2, 0.5)
    assert row["holds"] is True
    assert line(row) == "sleeping: 20 naps/s; 3 (2–5), target 2 × rival; 0.5 (0.5–1), target 0.5 of limit; target met"


@pytest.mark.parametrize(
    ("targets", "holds"),
    [
        ({"target_rival": 4}, False),
        ({"target_limit": 0.6}, False),
        ({"target_rival": None, "target_limit": None}, None),
        ({"target_rival": None, "target_limit": None, "seconds": 0.06}, True),
        ({"target_rival": None, "target_limit": None, "seconds": 0.04}, False),
    ],
)
def test_a_row_holds_if_all_its_targets_are_met(targets: dict[str, float], holds: bool | None) -> None:
    [row] = rows_of(stage(**targets), timings([20.0], [7.0], [40.0]))
    assert row["holds"] is holds


@pytest.mark.parametrize("module", bench.MODULES)
def test_every_stage_has_a_limit_or_seconds_and_names_that_differ(module: str) -> None:
    for one in bench.stages_of(module):
        names = [contender.name for contender in one.contenders]
        assert len(set(names)) == len(names)
        assert one.limits or one.seconds_at_most
