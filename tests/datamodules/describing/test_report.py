"""The report of a description: what is printed, the command that follows, and that the picture can always be drawn."""

import io
import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from rich.console import Console

from segue.datamodules.describing.facts import profile_of
from segue.datamodules.describing.picture import draw
from segue.datamodules.describing.report import next_command, printed
from segue.datamodules.describing.warnings import DataWarning
from segue.datamodules.pair_datamodule import PairDataModule
from tests.contracts.building import CONF
from tests.datamodules.describing.building import (
    START,
    Play,
    data_of,
    facts_of,
    nameless,
    reading_of,
    usual_plays,
    warnings_of,
)

USUAL = usual_plays()
GUESSED = reading_of(
    100,
    rejected={"the time is no number": 1, "the track is empty": 7},
    examples=[{"file": "a/plays.csv", "line": 12, "reason": "the track is empty [sic]"}],
    columns={"user": "uid", "timestamp": "null", "title": "song name", "artist": "it's", "played": "a.b"},
    units={"timestamp": "%d.%m.%Y %H:%M", "played": "ms"},
    guessed=["user", "title"],
    unused=["x7", "End time", "mood"],
    holds={"x7": "100 of 100 are times"},
    alternatives={"x7": "timestamp", "End time": "timestamp"},
)


def shown(data: Any) -> str:
    out = Console(file=io.StringIO(), width=120)
    out.print(printed(facts_of(data), warnings_of(data), data.reading, ["left out     3 by repeats"], "plays.csv"))
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())


def test_the_numbers_are_printed_with_what_they_are() -> None:
    text = shown(data_of(USUAL))
    lines = [line.split() for line in text.splitlines()]
    assert ["plays", "that", "were", "read", "100"] in lines
    assert ["time", "of", "the", "first", "play,", "UTC", "2023-11-14", "22:13:20"] in lines
    assert ["plays", "of", "a", "user", "20", "20", "20", "20", "20"] in lines
    assert "session 1 as it was read: listener 1, 5 plays" in text
    assert "left out     3 by repeats" in text
    assert "warnings     none: nothing reaches its threshold" in text


def test_the_mapping_rejected_rows_and_columns_that_are_not_used_are_printed() -> None:
    text = shown(data_of(USUAL, reading=GUESSED))
    rows = [line.split() for line in text.splitlines()]
    assert ["user", "uid", "by", "its", "name"] in rows
    assert ["played", "a.b", "ms", "as", "given"] in rows
    assert "7   the track is empty" in text
    assert "for example plays.csv line 12: the track is empty [sic]" in text
    assert ["x7", "100", "of", "100", "are", "times", "datamodule.columns.timestamp=x7"] in rows
    assert ["End", "time", "'datamodule.columns.timestamp=\"End", "time\"'"] in rows
    assert ["mood"] in rows


def test_a_warning_is_printed_with_its_remedy() -> None:
    text = shown(data_of([play._replace(share=1.0) for play in USUAL]))
    assert "warning      100 % of the known shares played are 1" in text
    assert "→ datamodule.share=none recipe=playlists" in text


def test_no_user_id_is_printed() -> None:
    """The ids of these users are 1000, 1001, …; the titles and numbers of the log have no such digits."""
    data = data_of([*USUAL, *(Play(2, START + n, n % 40, n / 20_000) for n in range(800))])
    ids = [str(user) for user in set(data.sessions.user.tolist())]
    text = shown(data) + json.dumps(facts_of(data)["first_sessions"])
    assert not [user for user in ids if user in text.replace(",", "").split()]
    assert "listener 3" in text


DRAWN: dict[str, Any] = {
    "usual": data_of(USUAL),
    "no clock": data_of(USUAL, has_clock=False),
    "no shares, no artists": data_of([p._replace(share=np.nan) for p in USUAL], catalog=nameless(40)),
    "one play": data_of([Play(0, START, 0, 1.0)]),
    "one play each": data_of([Play(n, START + n, n, 0.0) for n in range(9)]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_can_be_drawn(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(facts_of(DRAWN[name]), 30.0, "a/$path$_of^the/user", tmp_path / "describe.png")
    pixels = np.asarray(Image.open(tmp_path / "describe.png").convert("L"))
    assert min(pixels.shape) > 400
    assert (pixels < 200).mean() > 0.001
    assert shown(DRAWN[name])


def test_data_that_cannot_be_used_as_they_are_are_described_again() -> None:
    words, usual = ["datamodule=table", "datamodule.units.timestamp=ms"], reading_of(1)
    refused = DataWarning(name="splits", says="too few", remedy="add data")
    assert next_command(words, usual, [refused], columns={}) == f"python describe.py {' '.join(words)}"
    unit = DataWarning(name="unit", says="seconds", remedy="", unit="s")
    command = "python describe.py datamodule=table datamodule.units.timestamp=s"
    assert next_command(words, usual, [unit], columns={}) == command
    guessed = next_command(words, GUESSED, [unit], columns={})
    assert "timestamp: s, played: ms" in guessed
    assert "timestamp=ms" not in guessed


def test_a_guessed_mapping_is_written_out_so_that_hydra_reads_it() -> None:
    given = {"user": "x", "duration": None, "last": None, "artist": "auto"}
    command = next_command(["datamodule=table", "datamodule.columns.user=x"], GUESSED, [], columns=given)
    verb, words = shlex.split(command)[1], shlex.split(command)[2:]
    assert verb == "train.py"
    assert words[0] == "datamodule=table"
    assert not any("columns.user=x" in word for word in words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["run_dir=x", "run_name=x", *words]).datamodule
    assert {role: config.columns[role] for role in GUESSED.columns} == GUESSED.columns
    assert config.columns.duration is None  # as the user said; without the word it would be guessed
    assert "last" not in command
    assert {role: config.units[role] for role in GUESSED.units} == GUESSED.units


def test_the_profile_for_mlflow_has_the_numbers_and_no_play_of_anybody(ring: PairDataModule) -> None:
    facts = profile_of(ring.data)["description"]
    assert (facts["num_events"], facts["num_sessions"], facts["num_users"]) == (3200, 400, 50)
    pairs = {name: len(pairs) for name, pairs in ring.pairs.items()}
    assert {name: counts["pairs"] for name, counts in facts["splits"].items()} == pairs
    assert facts["test"]["cold_tracks"] == 0
    assert facts["clock"]["median_gap_s"] == pytest.approx(1.0)
    assert "first_sessions" not in facts
    facts["popularity"]["top_track"] = ""
    assert "Title" not in json.dumps(facts)
