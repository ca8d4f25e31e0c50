"""Simulated logs for training: written once, reused, and never mixed with logs of the user."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segue.errors import InputError
from segue.simulation.mixed_logs import MixedLogs
from segue.simulation.policies import Popular, Random, StickyArtist
from segue.simulation.world import World
from tests.test_control_2026 import POLICY


@contextmanager
def no_bar(_label: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def logs_of(world: World, **changes: Any) -> MixedLogs:
    settings: dict[str, Any] = {
        "arms": {"C": "random", "T1": "random", "T2": "sticky_artist", "T3": "popular"},
        "templates": {
            "random": partial(Random),
            "sticky_artist": partial(StickyArtist),
            "popular": partial(Popular, num_tracks=10),
        },
        "sessions": 100,
        "first_day": "2026-01-05",
        "track_seconds": 200.0,
        "progress": no_bar,
    }
    return MixedLogs(world=world, **{**settings, **changes})


def test_logs_are_written_once_and_reused(world: World, tmp_path: Path) -> None:
    folder = logs_of(world)(tmp_path)
    log = folder / "logs" / "day-1" / "data.json"
    before = log.stat().st_mtime_ns
    assert logs_of(world)(tmp_path) == folder
    assert log.stat().st_mtime_ns == before
    assert (folder / "tracks.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"sessions": 101},
        {"arms": {"C": "random"}},
        {"templates": {"popular": partial(Popular, num_tracks=11)}, "arms": {"C": "popular"}},
    ],
)
def test_other_traffic_has_another_folder(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert logs_of(world, **changes)(tmp_path) != logs_of(world)(tmp_path)


def test_logs_of_a_killed_process_are_simulated_again(world: World, tmp_path: Path) -> None:
    digest = logs_of(world)(tmp_path).name
    (tmp_path / digest).rename(tmp_path / f".{digest}.making")
    (tmp_path / f".{digest}.making" / "simulation.json").unlink()
    folder = logs_of(world)(tmp_path)
    assert (folder / "simulation.json").exists()
    assert not list(tmp_path.glob("*.making"))


def test_the_settings_of_a_run_import_no_class_of_an_arm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be a stranger's."""
    monkeypatch.delitem(sys.modules, POLICY.partition(":")[0], raising=False)
    with pytest.raises(InputError, match=r"prepare\.arms\.T1: policy= names code, which settings of a run may not"):
        logs_of(world, arms={"C": "random", "T1": {"policy": POLICY}})
    assert POLICY.partition(":")[0] not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://127.0.0.1:5001", "is not a recommender; choose one of popular, random, sticky_artist, the path of a"),
        ("run:abc", "simulated logs for training can use the recommenders of the world only; name one of conf/arm"),
    ],
)
def test_a_recommender_that_is_not_of_the_world_is_rejected(world: World, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        logs_of(world, arms={"C": name})
