"""The report of a description: what is printed and written, and that the picture can always be drawn."""

import io
import json
import shlex
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from rich.console import Console

from segue.attributes import Values, Vectors
from segue.datamodules.describing.measures import Material, material_of, measure, profile_of
from segue.datamodules.describing.report import next_command, printed, write_report
from segue.datamodules.describing.warnings import DataWarning
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from tests.contracts.building import CONF, composed
from tests.datamodules.describing.building import (
    START,
    Play,
    facts_of,
    material_of_plays,
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
)
DROPPED = {"duplicates": 3, "min_count": 0}


def shown(material: Material, title: str = "plays.csv") -> str:
    out = Console(file=io.StringIO(), width=120)
    out.print(printed(facts_of(material), warnings_of(material), material, title))
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())


def written(material: Material, folder: Path, title: str = "plays.csv") -> dict[str, Any]:
    facts = facts_of(material)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(
            facts,
            warnings_of(material),
            material,
            gap_minutes=30.0,
            folder=folder,
            title=title,
            data_digest=None,
            provenance={"commit": "abc"},
        )
    record: dict[str, Any] = json.loads((folder / "describe.json").read_text(encoding="utf-8"))
    return record


def test_the_numbers_are_printed_with_what_they_are() -> None:
    text = shown(material_of_plays(USUAL))
    lines = [line.split() for line in text.splitlines()]
    assert ["plays", "that", "were", "read", "100"] in lines
    assert ["time", "first", "play,", "UTC", "2023-11-14", "22:13:20"] in lines
    assert ["plays", "of", "a", "user", "20", "20", "20", "20", "20"] in lines
    assert "session 1 as it was read: listener 1, 5 plays" in text
    assert "and 1 more" in text
    assert "warnings     none: nothing reaches its threshold" in text


def test_attributes_are_reported_with_their_coverage() -> None:
    material = material_of_plays(USUAL)
    num = len(material.catalog)
    tags = Values.from_lists([["rock", "old"], ["rock"], *[[]] * (num - 2)])
    year = Vectors.from_numbers([None, *[1990.0] * (num - 1)])
    catalog = replace(material.catalog, attributes={"tags": tags, "year": year})
    lines = [line.split() for line in shown(replace(material, catalog=catalog)).splitlines()]
    [of_tags], [of_year] = ([line for line in lines if line[:1] == [name]] for name in ("tags", "year"))
    share = f"{200 / num:.2g}"
    assert of_tags[:3] == ["tags", "values", share]
    assert of_tags[-5:] == ["2", "1.5", "rock", share, "%"]
    assert of_year[:2] == ["year", "number"]
    assert of_year[-1] == "1"


def test_rejected_and_dropped_rows_and_the_mapping_are_printed() -> None:
    text = shown(material_of_plays(USUAL, reading=GUESSED, dropped=DROPPED))
    rows = [line.split() for line in text.splitlines()]
    assert ["user", "uid", "by", "its", "name"] in rows
    assert ["played", "a.b", "ms", "as", "given"] in rows
    assert "min_count" not in text
    assert "7   the track is empty" in text
    assert "for example plays.csv line 12: the track is empty [sic]" in text
    assert "3   duplicates" in text


def test_a_warning_is_printed_with_its_threshold_and_its_remedy() -> None:
    text = shown(material_of_plays([play._replace(share=1.0) for play in USUAL]))
    assert "warning      100 % of the known shares played are 1" in text
    assert "(warnings.same_share=0.99)" in " ".join(text.split())
    assert "→ datamodule.share=none recipe=playlists" in text


def test_both_files_are_written_and_the_json_has_every_number(tmp_path: Path) -> None:
    material = material_of_plays(USUAL, reading=GUESSED, dropped=DROPPED)
    record = written(material, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"describe.json", "describe.png"}
    assert record["num_events"] == len(USUAL)
    assert record["session_length"]["median"] == 5
    assert record["reading"]["rejected"]["the track is empty"] == 7
    assert record["reading"]["dropped"] == DROPPED
    assert [warning["name"] for warning in record["warnings"]] == ["rejected_share", "duplicate_share"]
    assert record["provenance"] == {"commit": "abc"}
    assert len(record["first_sessions"]) == 3


def test_no_user_id_is_printed_or_written(tmp_path: Path) -> None:
    """The ids of these users are 1000, 1001, …; the titles and numbers of the log have no such digits."""
    material = material_of_plays([*USUAL, *(Play(2, START + n, n % 40, n / 20_000) for n in range(10_000))])
    ids = [str(user) for user in set(material.sessions.user.tolist())]
    text = shown(material) + json.dumps(written(material, tmp_path)["first_sessions"])
    assert not [user for user in ids if user in text.replace(",", "").split()]
    assert "listener 3" in text


def test_the_profile_for_mlflow_has_no_play_of_anybody(ring_logs: Path) -> None:
    datamodule = datamodule_of(ring_logs)
    datamodule.setup()
    facts = profile_of(datamodule)["description"]
    assert "first_sessions" not in facts
    facts["popularity"]["top_track"] = ""
    assert "Title" not in json.dumps(facts)


LONG = [Play(0, START + 1000 * n, n % 3, 0.5) for n in range(3000)]
DRAWN: dict[str, Material] = {
    "usual": material_of_plays(USUAL),
    "no clock": material_of_plays(USUAL, has_clock=False),
    "no shares, no artists": material_of_plays([p._replace(share=np.nan) for p in USUAL], catalog=nameless(40)),
    "one play": material_of_plays([Play(0, START, 0, 1.0)]),
    "one track": material_of_plays([Play(0, START + n, 0, 1.0) for n in range(5)]),
    "one time": material_of_plays([Play(0, START, n, 1.0) for n in range(5)]),
    "one play each": material_of_plays([Play(n, START + n, n, 0.0) for n in range(9)]),
    "a long session": material_of_plays(LONG),
    "no calendar": material_of_plays([p._replace(time=p.time * 10**6) for p in USUAL]),
    "many warnings": material_of_plays(
        [Play(n, START // 1000 + n % 2, 0, 1.0) for n in range(50)],
        reading=GUESSED,
        dropped=DROPPED,
        refusal="no $pairs_left$ " * 30,
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_can_be_drawn(name: str, tmp_path: Path) -> None:
    written(DRAWN[name], tmp_path, title="a/$path$_of^the/user")
    pixels = np.asarray(Image.open(tmp_path / "describe.png").convert("L"))
    assert min(pixels.shape) > 400
    assert (pixels < 200).mean() > 0.001
    assert shown(DRAWN[name])


def test_the_next_command_trains_with_the_words_that_chose_the_data() -> None:
    words = ["datamodule=yes", "datamodule.path=a b", "warnings.tie_share=0.2", "hydra.run.dir=x", "shown_plays=2"]
    usual = reading_of(1)
    assert next_command(words, usual, [], columns={}) == "python train.py datamodule=yes 'datamodule.path=a b'"
    assert next_command([], usual, [], columns={}) == "python train.py"


def test_data_that_cannot_be_used_as_they_are_are_described_again() -> None:
    words, usual = ["datamodule=table", "datamodule.units.timestamp=ms"], reading_of(1)
    refused = DataWarning(name="splits", says="too few", remedy="add data", threshold=None)
    assert next_command(words, usual, [refused], columns={}) == f"python describe.py {' '.join(words)}"
    unit = DataWarning(name="earliest_year", says="seconds", remedy="", threshold=1995, unit="s")
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


def datamodule_of(path: Path, *words: str) -> PairDataModule:
    """As `describe.py datamodule=botify` builds it."""
    config = composed("datamodule=botify", f"datamodule.path={path}", "datamodule.pairing=consecutive", *words)
    datamodule: PairDataModule = instantiate(config.datamodule, max_rejected=1.0, _convert_="all")
    return datamodule


def test_what_a_datamodule_reads_is_described(ring_logs: Path) -> None:
    datamodule = datamodule_of(ring_logs)
    datamodule.setup()
    material = material_of(datamodule)
    facts = measure(material, max_test_queries=50_000, num_sessions=3, num_plays=4)
    assert (facts.num_events, facts.num_sessions, facts.num_users) == (3200, 400, 50)
    assert facts.splits is not None
    assert {name: counts["pairs"] for name, counts in facts.splits.items()} == {
        name: len(pairs) for name, pairs in datamodule.pairs.items()
    }
    assert facts.test is not None
    assert facts.test["mean_mse"] == pytest.approx(0.17, abs=0.03)  # shares are 1 with probability 0.7, else 0.1
    assert facts.clock is not None
    assert facts.clock.median_gap_s == pytest.approx(1.0)


def test_data_that_are_too_few_for_a_split_are_described_nevertheless(ring_logs: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    (few / "logs").mkdir(parents=True)
    (few / "tracks.json").write_bytes((ring_logs / "tracks.json").read_bytes())
    lines = (ring_logs / "logs" / "a" / "data.json").read_text().splitlines(keepends=True)
    (few / "logs" / "data.json").write_text("".join(lines[:8]))
    datamodule = datamodule_of(few)
    with pytest.raises(InputError, match="no pairs left for val and test") as refused:
        datamodule.setup()
    material = material_of(datamodule, refusal=str(refused.value))
    assert facts_of(material).num_events == 8
    assert warnings_of(material)[0].says.startswith("no pairs left for val and test: 1 sessions")


def test_the_evidence_and_the_columns_that_are_not_used_are_printed() -> None:
    reading = reading_of(
        100,
        guessed=["user"],
        evidence={"user": "by its name"},
        unused=["x7", "End time", "mood"],
        holds={"x7": "100 of 100 are times"},
        alternatives={"x7": "timestamp", "End time": "timestamp"},
    )
    text = shown(material_of_plays(USUAL, reading=reading))
    rows = [line.split() for line in text.splitlines()]
    assert ["user", "user", "by", "its", "name"] in rows
    assert ["title", "title", "as", "given"] in rows
    assert ["x7", "100", "of", "100", "are", "times", "datamodule.columns.timestamp=x7"] in rows
    assert ["End", "time", "'datamodule.columns.timestamp=\"End", "time\"'"] in rows
    assert ["mood"] in rows
    one_line = " ".join(text.split())
    assert "the column x7 (100 of 100 are times): not used, and no column is the time of a play" in one_line
