"""Twenty generated exports are read right, or refused with the line that has the remedy; so are damaged ones."""

import random
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.reading.rejected_rows import in_words
from segue.errors import InputError
from tests.conftest import read_datamodule
from tests.datamodules.generated_exports import Export, generated_export
from tests.datamodules.reading import read

Listen = tuple[str, int, str, str | None, float | None]
"""Listener, time in seconds, title, artist, share; None for what is unknown."""


def open_export(export: Export) -> PairDataModule:
    return read_datamodule(export.path, export.path.parent / "out", source="table", split="auto")


def listens_of(datamodule: PairDataModule) -> set[Listen]:
    """What was read."""
    sessions, catalog, columns = datamodule.sessions, datamodule.catalog, datamodule.reading.columns
    listens = sessions.listens
    has_share = datamodule.reading.share == "played"
    shares = [round(float(share), 4) if has_share else None for share in listens.played_ratio]
    users = [str(sessions.user[session]) if "user" in columns else "" for session in listens.session]
    titles, artists = catalog.titles[listens.track], catalog.artists[catalog.artist_of[listens.track]]
    seconds = [round(time / 1000) for time in sessions.timestamp] if "timestamp" in columns else [0] * len(titles)
    known = [artist if "artist" in columns else None for artist in artists]
    return set(zip(users, seconds, titles, known, shares, strict=True))


def right_listens(export: Export, columns: Mapping[str, str], *, has_share: bool) -> set[Listen]:
    """What is right, as far as the columns have it."""
    return {
        (
            play.user if "user" in columns else "",
            int(play.at.timestamp()) if "timestamp" in columns else 0,
            play.title,
            play.artist if "artist" in columns else None,
            round(play.played / play.length, 4) if has_share else None,
        )
        for play in export.plays
        if play.is_read
    }


def check(export: Export) -> None:
    """Check that an export is read right, or refused with the right line."""
    if export.refused:
        with pytest.raises(InputError, match=export.refused) as refusal:
            open_export(export)
        assert "\n" not in str(refusal.value)
        return
    datamodule = open_export(export)
    reading = datamodule.reading
    lines = [*datamodule.remarks(), *map(in_words, reading.examples)]
    for pattern in export.says:
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)
    names = export.names
    for role, column in reading.columns.items():  # a column has its own role, or none
        assert column == names.get(role), (role, column, lines)
    for role, name in names.items():
        if name and role not in reading.columns:
            assert name.rpartition(".")[2].startswith("q"), (role, lines)
            assert name in reading.unused, (role, lines)
    read, right = listens_of(datamodule), right_listens(export, reading.columns, has_share=reading.share == "played")
    assert read == right, lines
    assert len(datamodule.sessions.timestamp) == len(right)


@pytest.mark.parametrize("seed", range(20))
def test_an_export_is_read_right_or_refused_with_the_right_line(tmp_path: Path, seed: int) -> None:
    check(generated_export(seed, tmp_path))


DAMAGES = (b'"', b"\r", b"\n", b"\0", b",", b'""', b"\xff", b"\xc3", b"'", b"\\", b"\xef\xbb\xbf", b"{", b"[")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_export_is_read_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    """Any other exception is a fault."""
    rng, path, refusal = random.Random(seed), generated_export(seed, tmp_path).path, ""
    file = path / "2025.csv" if path.is_dir() else path
    content = file.read_bytes()
    for _ in range(rng.randint(0, 3)):
        place = rng.randrange(len(content))
        content = content[:place] + rng.choice(DAMAGES) + content[place + rng.randint(0, 2) :]
    file.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.2 else content)
    try:
        read("table", path, max_rejected=1.0)
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert "DuckDB fails" not in refusal
