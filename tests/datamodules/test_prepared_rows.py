"""Shards of parts of the listeners, then of ranges of sessions, have what a source has as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shards.engines import DuckDBEngine
from segue.errors import InputError
from tests.conftest import build_datamodule
from tests.datamodules.preparing import SETTINGS, write_quirks
from tests.datamodules.sharding import check_shards, shards_of

Make = Callable[..., PairDataModule]


class ManyParts(DuckDBEngine):
    """More parts than some sources have listeners."""

    def num_parts(self, num_events: int) -> int:
        assert num_events > 0
        return 11


@pytest.fixture(scope="module")
def quirks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with every quirk."""
    return write_quirks(tmp_path_factory.mktemp("quirks"))


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_the_rows_of_a_log_with_every_quirk_are_those_of_the_whole(
    datamodule_of: Make, quirks: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    datamodule = datamodule_of(quirks, **changes)
    check_shards(datamodule, tmp_path / "shards", ManyParts())
    assert datamodule.sessions.num_interleaved > 0


def test_a_part_has_at_most_as_many_events_as_memory_is_meant_for() -> None:
    assert [DuckDBEngine().num_parts(num) for num in (1, 4_000_000, 4_000_001)] == [1, 1, 2]


def table(columns: str, row: Callable[[int, int], str], users: int, plays: Callable[[int], int]) -> str:
    return columns + "\n" + "".join(row(user, play) + "\n" for user in range(users) for play in range(plays(user)))


TABLES = {
    "sessions of the source": table(
        "user,time,track,session", lambda u, n: f"{u},{10**9 + n},{u * n % 7},{(n // 3 + u) % 4}", 9, lambda _: 40
    ),
    "time played": table(
        "user,time,track,played",
        lambda u, n: f"{u},{10**9 + u + n * 100 + n // 7 * 4000},{(u + n) % 9},{n * 37 % 90}",
        6,
        lambda _: 49,
    ),
    "gaps": table(
        "user,time,track,duration", lambda u, n: f"{u},{n * n * 4},track:{u % 9},{n * 37 % 90 + 10}", 20, lambda _: 12
    ),
    "playlists": table("playlist,track", lambda u, n: f"list {u},{u * n % 11}", 40, lambda u: 2 + u % 5),
}
UNITS = {"time played": {"timestamp": "s", "played": "s"}, "gaps": {"timestamp": "s", "duration": "s"}}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("changes", [{}, {"split": "session"}, {"split": "pair"}], ids=["auto", "session", "pair"])
def test_the_rows_of_tables_are_those_of_the_whole(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text(TABLES[name])
    head = TABLES[name].partition("\n")[0].split(",")
    columns: dict[str, Any] = dict.fromkeys(("user", "timestamp", "session", "played", "duration"))
    columns |= {{"time": "timestamp", "playlist": "session"}.get(column, column): column for column in head}
    given: dict[str, Any] = {"split": "auto", "units": UNITS.get(name, {}), "columns": columns, **changes}
    datamodule = build_datamodule(path, tmp_path, source="table", share="gap" if name == "gaps" else "auto", **given)
    check_shards(datamodule, tmp_path / "shards", ManyParts())
    assert datamodule.reading.share == {"time played": "longest", "gaps": "gap"}.get(name, "none")


def test_a_split_by_time_needs_times(tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text(TABLES["playlists"])
    columns = {"session": "playlist", "user": None, "timestamp": None}
    datamodule = build_datamodule(path, tmp_path, source="table", columns=columns, split="time")
    with pytest.raises(InputError, match="split=time needs timestamps, and this source has none"):
        shards_of(datamodule, tmp_path / "shards")
