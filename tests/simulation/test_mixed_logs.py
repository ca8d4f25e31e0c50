"""Logs for training: made once, found again, and never in the way of the user's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError
from src.simulation import mixed_logs
from src.simulation.mixed_logs import MixedLogs
from src.simulation.policies import Popular, Random, StickyArtist
from src.simulation.world import World


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
        "seed": 1,
        "first_day": "2026-01-05",
        "track_seconds": 200.0,
        "progress": no_bar,
    }
    return MixedLogs(world=world, **{**settings, **changes})


def test_logs_are_made_once_and_found_again(world: World, tmp_path: Path) -> None:
    made = logs_of(world)(tmp_path)
    log = made / "logs" / "day-1" / "data.json"
    before = log.stat().st_mtime_ns
    assert logs_of(world)(tmp_path) == made
    assert log.stat().st_mtime_ns == before
    assert (made / "tracks.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"sessions": 101},
        {"track_seconds": 100.0},
        {"arms": {"C": "random"}},
        {"templates": {"random": partial(Random)}, "arms": {"C": "random"}},
    ],
)
def test_other_traffic_has_another_folder(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert logs_of(world, **changes)(tmp_path) != logs_of(world)(tmp_path)


def test_other_code_has_another_folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logs_of(world)(tmp_path)
    monkeypatch.setattr(mixed_logs, "_code", lambda: "edited")
    assert logs_of(world)(tmp_path) != before


def test_what_a_killed_run_left_is_made_anew(world: World, tmp_path: Path) -> None:
    digest = logs_of(world)(tmp_path).name
    (tmp_path / digest).rename(tmp_path / f".{digest}.making")
    (tmp_path / f".{digest}.making" / "simulation.json").unlink()
    made = logs_of(world)(tmp_path)
    assert (made / "simulation.json").exists()
    assert not list(tmp_path.glob("*.making"))


def test_a_folder_with_the_users_own_logs_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "tracks.json").write_text("")
    with pytest.raises(InputError, match="holds logs already; datamodule=botify reads them"):
        logs_of(world)(tmp_path)


def test_training_logs_are_not_made_by_models(world: World) -> None:
    with pytest.raises(InputError, match="made by recommenders of the world alone"):
        logs_of(world, arms={"C": "run:abc"})
