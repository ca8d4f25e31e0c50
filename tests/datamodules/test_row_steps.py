"""The SQL of shards gives the sessions, the pairs and the splits that `train.py` computes with arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.engines import DuckDBEngine
from segue.datamodules.pairs.interleaved import POLICIES
from segue.datamodules.pairs.pairs import PAIRINGS
from segue.errors import InputError
from tests.conftest import build_datamodule, event, write_lines, write_tracks
from tests.datamodules.preparing import SETTINGS, check_equal, rows_of, write_quirks

Make = Callable[..., PairDataModule]


@pytest.fixture(scope="module")
def quirks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with every quirk."""
    return write_quirks(tmp_path_factory.mktemp("quirks"))


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_the_rows_of_a_log_with_every_quirk_are_those_of_arrays(
    datamodule_of: Make, quirks: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    datamodule = datamodule_of(quirks, **changes)
    datamodule.setup()
    assert datamodule.sessions.num_interleaved > 0
    check_equal(datamodule, *rows_of(datamodule, DuckDBEngine(), tmp_path))


@pytest.mark.parametrize(
    ("source", "name", "changes"),
    [
        ("botify", "botify-2023", {"pairing": "first"}),
        ("botify", "botify-2023", {"pairing": "window"}),
        ("situnes", "situnes", {}),
        ("situnes", "situnes", {"split": "pair"}),
        ("yes", "yes-small", {"split": "auto"}),
        ("polimi", "polimi-2018", {"split": "auto", "pairing": "window"}),
    ],
)
def test_the_rows_of_the_real_sets_are_those_of_arrays(
    real_data: Path, tmp_path: Path, source: str, name: str, changes: dict[str, Any]
) -> None:
    datamodule = build_datamodule(real_data / name, tmp_path, source=source, **changes)
    datamodule.setup()
    check_equal(datamodule, *rows_of(datamodule, DuckDBEngine(), tmp_path))


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
        "user,time,track,duration", lambda u, n: f"{u},{n * n * 4},{u % 9},{n * 37 % 90 + 10}", 20, lambda _: 12
    ),
    "playlists": table("playlist,track", lambda u, n: f"list {u},{u * n % 11}", 40, lambda u: 2 + u % 5),
}
UNITS = {"time played": {"timestamp": "s", "played": "s"}, "gaps": {"timestamp": "s", "duration": "s"}}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("changes", [{}, {"split": "session"}, {"split": "pair"}], ids=["auto", "session", "pair"])
def test_the_rows_of_tables_are_those_of_arrays(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text(TABLES[name])
    has_users = name != "playlists"
    columns: dict[str, Any] = {
        "timestamp": "time" if has_users else None,
        "user": "user" if has_users else None,
        "session": {"sessions of the source": "session", "playlists": "playlist"}.get(name),
        "played": "played" if name == "time played" else None,
        "duration": "duration" if name == "gaps" else None,
    }
    given: dict[str, Any] = {"split": "auto", "units": UNITS.get(name, {}), "columns": columns, **changes}
    datamodule = build_datamodule(path, tmp_path, source="table", share="gap" if name == "gaps" else "auto", **given)
    datamodule.setup()
    assert datamodule.reading.share == {"time played": "longest", "gaps": "gap"}.get(name, "none")
    check_equal(datamodule, *rows_of(datamodule, DuckDBEngine(), tmp_path))


@st.composite
def crowded_logs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Few users, times and tracks, so that everything collides. The last sessions make all splits possible."""
    one = st.tuples(
        st.integers(1, 3), st.integers(0, 12), st.integers(0, 4), st.sampled_from([0.0, 1.0]), st.integers(-2, 4)
    )
    lines = [
        {
            **event(user, minute * 60_000, 100 + track, time, "last" if asked == -2 else "next"),
            "recommendation": 100 + asked if asked >= 0 else None,
        }
        for user, minute, track, time, asked in draw(st.lists(one, max_size=30))
    ]
    ends = [event(9, 10**8 + n * 10**7 + step, 100 + (n + step) % 5) for n in range(12) for step in range(3)]
    return lines + [{**line, "recommendation": None} for line in ends]


@settings(max_examples=8)
@given(
    lines=crowded_logs(),
    pairing=st.sampled_from(PAIRINGS),
    split=st.sampled_from(["time", "session", "pair"]),
    gap=st.integers(1, 6),
    interleaved=st.sampled_from(POLICIES),
    duplicates=st.sampled_from(["keep", "drop"]),
)
def test_the_rows_of_any_log_are_those_of_arrays(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[dict[str, Any]],
    pairing: str,
    split: str,
    gap: int,
    interleaved: str,
    duplicates: str,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    write_tracks(folder, range(5))
    write_lines(folder / "logs" / "data.json", lines)
    policies = {"interleaved": interleaved, "duplicates": duplicates}
    datamodule = build_datamodule(
        folder, folder, pairing=pairing, split=split, session_gap_minutes=float(gap), policies=policies
    )
    datamodule.setup()
    check_equal(datamodule, *rows_of(datamodule, DuckDBEngine(), folder))


def test_a_split_by_time_needs_times(tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text(TABLES["playlists"])
    columns = {"session": "playlist", "user": None, "timestamp": None}
    datamodule = build_datamodule(path, tmp_path, source="table", columns=columns, split="time")
    with pytest.raises(InputError, match="split=time needs timestamps, and this source has none"):
        rows_of(datamodule, DuckDBEngine(), tmp_path)
