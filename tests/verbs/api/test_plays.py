"""Plays from Python: any table is read as its file would be, and is left unchanged."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import segue
from tests.conftest import ROOT

CSV = ROOT / "examples" / "plays.csv"


def test_it_is_printed_as_train_prints_its_data(plays: segue.Plays) -> None:
    assert "7,330" in repr(plays)
    assert "user=listener timestamp=played_at" in repr(plays)
    assert plays._repr_html_().startswith("<pre")
    assert (len(plays), len(plays.tracks)) == (7330, 200)


def of_polars(frame: pd.DataFrame) -> Any:
    return pytest.importorskip("polars").from_pandas(frame)


@pytest.mark.parametrize(
    "kind", [lambda frame: frame, pa.Table.from_pandas, of_polars], ids=["pandas", "arrow", "polars"]
)
def test_a_table_is_read_as_its_file_and_left_unchanged(plays: segue.Plays, kind: Any) -> None:
    frame = pd.read_csv(CSV)
    frame.index = frame.index[::-1]
    before = frame.copy()
    assert segue.read_plays(kind(frame)).datamodule.digest() == plays.datamodule.digest()
    pd.testing.assert_frame_equal(frame, before)


def test_a_mapping_names_the_roles(plays: segue.Plays) -> None:
    frame = pd.read_csv(CSV)
    columns = {"user": "listener", "timestamp": "played_at", "title": "song", "artist": "artist"}
    columns |= {"played": "seconds_played", "duration": "length"}
    given: dict[str, Any] = {role: frame[column].to_numpy() for role, column in columns.items()}
    given["timestamp"] = pd.to_datetime(frame["played_at"])
    read = segue.read_plays(given, units={"timestamp": "iso", "played": "s", "duration": "s"})
    assert read.datamodule.digest() == plays.datamodule.digest()


def test_a_source_is_recognised_by_its_files(ring_logs: Path) -> None:
    assert segue.read_plays(ring_logs).words[0] == "datamodule=botify"


@pytest.mark.parametrize(
    ("data", "options", "line"),
    [
        ("missing.csv", {}, "cannot read missing.csv: no such file or folder"),
        ({"usr": [1]}, {}, "'usr' is not a role of a column; use user, timestamp"),
        (7, {}, "plays cannot be a int; give a path, a DataFrame"),
        ({"user": [1, 2], "track": [1]}, {}, "the plays cannot be written as a table"),
        ({"user": [1]}, {"source": "yes"}, "source=yes names files, and the plays are a table in memory"),
        (CSV, {"nothing": 1}, 'nothing=1: source="table" has no nothing'),
        (CSV, {"columns": {"user": "nobody"}}, "nobody"),
        (pd.DataFrame({"a": [1]}), {}, "the table has the columns a; give columns__track= or columns__title= the name"),
    ],
)
def test_what_cannot_be_read_is_one_line(data: Any, options: dict[str, Any], line: str, capfd: Any) -> None:
    with pytest.raises(segue.InputError) as error:
        segue.read_plays(data, **options)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_description_has_the_files_of_the_verb(plays: segue.Plays, tmp_path: Path) -> None:
    found = plays.describe(tmp_path / "out")
    assert sorted(path.name for path in found.folder.iterdir()) == ["describe.json", "describe.png"]
    assert found.record["num_plays" if "num_plays" in found.record else "source"]
    assert "warnings" in repr(found)
    assert "data:image/png;base64," in found._repr_html_()
    assert found.warnings.empty
