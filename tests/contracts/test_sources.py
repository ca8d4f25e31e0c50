"""What every source promises, whatever its files. A new one is tested by adding an example of its files."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from segue.datamodules.source_choice import sources_of
from segue.errors import InputError
from tests.datamodules.reading import opened, read, rejected_lines


@dataclass(frozen=True, kw_only=True)
class Example:
    """The smallest files of a format. The catalogue has the tracks 10 and 11 of one artist and 12 of another.

    Args:
        catalogue: file of the catalogue.
        tracks: its lines.
        events: file of the events.
        head: its lines before the first event.
        lines: valid lines.
        heard: what each listener heard, in order: row of the catalogue and share played.
        invalid: a line that is rejected.
        reason: why it is rejected.
        unknown: a line that would be valid if the catalogue had track 99.
    """

    catalogue: str
    tracks: list[str]
    events: str
    head: list[str]
    lines: list[str]
    heard: list[list[tuple[int, float | None]]]
    invalid: str
    reason: str
    unknown: str

    @property
    def num_events(self) -> int:
        return sum(map(len, self.heard))

    def write(self, folder: Path) -> Path:
        """Write both files; returns that of the events."""
        for name, lines in ((self.catalogue, self.tracks), (self.events, self.head + self.lines)):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return folder / self.events


EXAMPLES = {
    "botify": Example(
        catalogue="tracks.json",
        tracks=[
            '{"track": 10, "title": "One", "artist": "Ann"}',
            '{"track": 11, "title": "Two", "artist": "Ann"}',
            '{"track": 12, "title": "Three", "artist": "Bob"}',
        ],
        events="logs/replica-1/data.json",
        head=[],
        lines=[
            '{"message": "next", "timestamp": 1000, "user": 1, "track": 10, "time": 1.0}',
            '{"message": "last", "timestamp": 2000, "user": 1, "track": 11, "time": 0.5}',
            '{"message": "next", "timestamp": 3000, "user": 2, "track": 12, "time": 0.0}',
        ],
        heard=[[(0, 1.0), (1, 0.5)], [(2, 0.0)]],
        invalid="not json",
        reason="not a JSON object",
        unknown='{"message": "next", "timestamp": 4000, "user": 2, "track": 99, "time": 1.0}',
    ),
    "yes": Example(
        catalogue="song_hash.txt",
        tracks=['10\t"One\tAnn', "11\tTwo\tAnn", "12\tThree\tBob"],
        events="train.txt",
        head=["10 11 12", "1 1 1"],
        lines=["10 11 12", "12 10"],
        heard=[[(0, None), (1, None), (2, None)], [(2, None), (0, None)]],
        invalid="10 x",
        reason="song must be a whole number",
        unknown="10 99 11",
    ),
    "polimi": Example(
        catalogue="tracks.csv",
        tracks=["track_id,album_id,artist_id,duration_sec", "10,1,3,100", "11,1,3,100", "12,2,4,100"],
        events="train_sequential.csv",
        head=["playlist_id,track_id"],
        lines=["7,11", "7,10", "9,12"],
        heard=[[(1, None), (0, None)], [(2, None)]],
        invalid="9,x",
        reason="track_id must be a whole number",
        unknown="9,99",
    ),
    "situnes": Example(
        catalogue="tracks.csv",
        tracks=["item_id,duration_ms,title,artist", '10,200000.0,"One, two",Ann', "11,50000.0,Two,Ann", "12,1.0,3,Bob"],
        events="stage1.csv",
        head=["user_id,item_id,timestamp,duration"],
        lines=["1,10,1000,50", "1,11,1100,60.5", "2,10,1200,"],
        heard=[[(0, 0.25), (1, 1.0)], [(0, None)]],
        invalid="1,10,soon,50",
        reason="timestamp must be a number of seconds since 1970, from 1970 to 2099, got soon",
        unknown="1,99,1300,50",
    ),
}


@pytest.fixture(params=EXAMPLES)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def example(reader: str) -> Example:
    return EXAMPLES[reader]


def test_every_event_is_read(tmp_path: Path, reader: str, example: Example) -> None:
    example.write(tmp_path)
    source = read(reader, tmp_path, max_rejected=0.0)
    assert source.heard == example.heard
    assert source.catalog.track_ids.tolist() == [10, 11, 12]
    assert source.catalog.artist_of.tolist() == [0, 0, 1]
    assert (source.reading.num_events, source.reading.num_rows) == (example.num_events, len(example.lines))
    assert source.reading.num_rejected == 0
    assert not (tmp_path / "out").exists()


def test_the_events_have_the_columns_of_the_contract(tmp_path: Path, reader: str, example: Example) -> None:
    example.write(tmp_path)
    with opened(reader, tmp_path) as source:
        columns = source.database.execute("SELECT column_name, column_type FROM (DESCRIBE events)").fetchall()
    assert columns[7:] in ([], [("recommendation", "BIGINT")])
    assert columns[:7] == [
        ("user_id", "BIGINT"),
        ("timestamp", "BIGINT"),
        ("position", "BIGINT"),
        ("track", "BIGINT"),
        ("played_ratio", "FLOAT"),
        ("source_session", "BIGINT"),
        ("is_last", "BOOLEAN"),
    ]
    found = read(reader, tmp_path)
    assert all(None not in (user, track, is_last) for user, _, track, _, is_last in found.rows)
    assert len(set(found.positions)) == example.num_events
    for values in ([row[1] for row in found.rows], found.sessions):  # a source has times and sessions, or has not
        assert len({value is None for value in values}) == 1


def test_its_files_are_recognised(tmp_path: Path, reader: str, example: Example) -> None:
    assert sources_of(tmp_path) == []
    example.write(tmp_path)
    assert sources_of(tmp_path) == [reader]
    (tmp_path / example.events).unlink()
    assert sources_of(tmp_path) == []


@pytest.mark.parametrize("missing", ["catalogue", "events"])
def test_a_missing_file_is_named(tmp_path: Path, reader: str, example: Example, missing: str) -> None:
    example.write(tmp_path)
    path = tmp_path / (example.catalogue if missing == "catalogue" else example.events)
    path.unlink()
    with pytest.raises(InputError, match=rf"cannot read {re.escape(str(tmp_path))}: no \S*{path.name}\S* in it"):
        read(reader, tmp_path)


def test_of_an_id_twice_in_a_catalogue_the_first_entry_counts(tmp_path: Path, reader: str, example: Example) -> None:
    replace(example, tracks=[*example.tracks, example.tracks[-1]]).write(tmp_path)
    assert read(reader, tmp_path).catalog.track_ids.tolist() == [10, 11, 12]


def test_lines_that_do_not_fit_are_kept_aside_with_file_place_and_reason(
    tmp_path: Path, reader: str, example: Example
) -> None:
    lines = [example.lines[0], "", example.invalid, *example.lines[1:], example.unknown]
    path = replace(example, lines=lines).write(tmp_path)
    source = read(reader, tmp_path)
    assert source.heard == example.heard
    counts = source.reading
    assert (counts.num_events, counts.num_rows, counts.num_rejected) == (example.num_events, len(lines) - 1, 2)
    number, file = len(example.head), str(path)
    unknown = f"track 99 is not in {example.catalogue}"
    is_csv = path.suffix == ".csv"  # whose rows are counted, without names and blank lines
    places = [{"row": 2}, {"row": len(lines) - 1}] if is_csv else [{"line": number + 3}, {"line": number + len(lines)}]
    assert rejected_lines(tmp_path) == [
        {"file": file, **place, "reason": reason}
        for place, reason in zip(places, (example.reason, unknown), strict=True)
    ]
