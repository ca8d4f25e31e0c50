"""Simulated logs for training: written once, reused, and never mixed with logs of the user."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.simulation import mixed_logs
from segue.simulation import world as world_module
from segue.simulation.mixed_logs import MixedLogs, keep_interest_neighbours
from segue.simulation.policies import Popular, Random, StickyArtist
from segue.simulation.world import World
from tests.conftest import ROOT


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
        "log": {"with_propensity": True},
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
        {"track_seconds": 100.0},
        {"log": {"with_propensity": False}},
        {"arms": {"C": "random"}},
        {"templates": {"random": partial(Random)}, "arms": {"C": "random"}},
    ],
)
def test_other_traffic_has_another_folder(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert logs_of(world, **changes)(tmp_path) != logs_of(world)(tmp_path)


@pytest.mark.parametrize("name", ["http://127.0.0.1:5001", "service", "recommendations"])
def test_a_recommender_that_is_not_of_the_world_is_rejected(world: World, name: str) -> None:
    words = "choose one of popular, random, sticky_artist, the path of a recommendations.jsonl"
    with pytest.raises(InputError, match=f"arms.C: '{name}' is not a recommender; {words}"):
        logs_of(world, arms={"C": name})


def test_the_digest_of_the_code_covers_what_the_simulation_imports() -> None:
    covered = {path for pattern in mixed_logs._DECISIVE for path in (ROOT / "src").glob(pattern)}
    program = "import sys, segue.simulation.mixed_logs, segue.simulation.listening; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = [name.split(".")[1:] for name in done.stdout.split() if name.startswith("segue.")]
    imported = {ROOT.joinpath("src", *parts).with_suffix(".py") for parts in modules}
    assert {path for path in imported if path.is_file()} <= covered
    assert len({path.parent.name for path in covered}) == 5, "no other room: its changes simulate nothing again"


def test_logs_of_a_killed_process_are_simulated_again(world: World, tmp_path: Path) -> None:
    digest = logs_of(world)(tmp_path).name
    (tmp_path / digest).rename(tmp_path / f".{digest}.making")
    (tmp_path / f".{digest}.making" / "simulation.json").unlink()
    folder = logs_of(world)(tmp_path)
    assert (folder / "simulation.json").exists()
    assert not list(tmp_path.glob("*.making"))


def test_a_folder_with_other_logs_is_rejected(world: World, tmp_path: Path) -> None:
    (tmp_path / "tracks.json").write_text("")
    with pytest.raises(InputError, match=r"already has logs; read them with datamodule=botify, or choose another"):
        logs_of(world)(tmp_path)


def test_a_stored_model_is_rejected_as_a_recommender(world: World) -> None:
    with pytest.raises(
        InputError,
        match="run:abc: simulated logs for training can use the recommenders of the world only; name one of conf/arm",
    ):
        logs_of(world, arms={"C": "run:abc"})


def test_the_neighbours_of_interests_are_computed_once_for_all_runs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number_of, neighbours = dataclasses.replace(world).interest_neighbours
    logs_of(dataclasses.replace(world))(tmp_path / "logs")
    [path] = (tmp_path / "logs").glob("interest_neighbours-*.npz")
    before = path.read_bytes()
    monkeypatch.setattr(world_module, "nearest", lambda *_: pytest.fail("computed again"))
    kept = dataclasses.replace(world)
    keep_interest_neighbours(kept, tmp_path / "logs")
    assert (kept.interest_neighbours[0] == number_of).all()
    assert (kept.interest_neighbours[1] == neighbours).all()
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "cut off", "objects"])
def test_damaged_neighbours_are_computed_again(world: World, tmp_path: Path, damage: str) -> None:
    fresh = dataclasses.replace(world)
    keep_interest_neighbours(fresh, tmp_path)
    [path] = tmp_path.iterdir()
    right, (number_of, neighbours) = path.read_bytes(), fresh.interest_neighbours
    if damage == "objects":
        np.savez(path, number_of=number_of.astype(object), neighbours=neighbours)
    else:
        path.write_bytes(right[: len(right) // 2] if damage == "cut off" else b"")
    again = dataclasses.replace(world)
    keep_interest_neighbours(again, tmp_path)
    assert (again.interest_neighbours[1] == neighbours).all()
    with np.load(path, allow_pickle=False) as kept:
        assert (kept["neighbours"] == neighbours).all()
    assert list(tmp_path.iterdir()) == [path]
