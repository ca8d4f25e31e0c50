"""Which catalogues fit a run, and what of it stays the same."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segue.catalog import Catalog, derived_id
from segue.errors import InputError
from segue.runs.extended_catalogue import extended_catalogue

OLD = Catalog.from_columns([7, 3, 5], ["A", None, "C"], ["Ann", None, "Bob"], source="run")
Line = tuple[int | str | None, str | None, str | None]
LINES: list[Line] = [(3, None, None), (9, "New", "Bob"), (5, "C", "Bob"), (7, "A", "Ann"), (1, None, "Eve")]


def written(folder: Path, lines: Sequence[Line]) -> Path:
    path = folder / "new.json"
    texts = [json.dumps({"track": track, "title": title, "artist": artist}) for track, title, artist in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def test_tracks_and_artists_of_the_run_keep_their_rows_and_new_ones_follow(tmp_path: Path) -> None:
    lines: list[Line] = [*LINES, (2, "X", "Eve"), (8, "Y", None), (10, "Z", None)]
    catalog = extended_catalogue(OLD, written(tmp_path, lines))
    assert catalog.track_ids.tolist() == [7, 3, 5, 9, 1, 2, 8, 10]
    assert catalog.titles.tolist() == ["A", "", "C", "New", "", "X", "Y", "Z"]
    assert catalog.artist_of[:3].tolist() == OLD.artist_of.tolist() == [0, 2, 1]
    assert catalog.artist_of[3:].tolist() == [1, 3, 3, 4, 5]
    assert catalog.artists.tolist() == ["Ann", "Bob", "", "Eve", "", ""]


def test_ids_of_the_source_may_be_texts(tmp_path: Path) -> None:
    old = replace(OLD, track_ids=np.array(["x", "y", "z"], object))
    lines: list[Line] = [("z", "C", "Bob"), ("w", "New", "Bob"), ("y", None, None), ("x", "A", "Ann")]
    catalog = extended_catalogue(old, written(tmp_path, lines))
    assert catalog.track_ids.tolist() == ["x", "y", "z", "w"]
    with pytest.raises(InputError, match=r"lacks track x of the run"):
        extended_catalogue(old, written(tmp_path, LINES))


def test_a_line_without_an_id_has_the_derived_one_if_those_of_the_run_are(tmp_path: Path) -> None:
    old = replace(OLD, track_ids=np.array([derived_id(*of) for of in [("A", "Ann"), ("", None), ("C", "Bob")]], object))
    lines: list[Line] = [(None, "C", "Bob"), (None, "New", "Bob"), (old.track_ids[1], None, None), (None, "A", "Ann")]
    catalog = extended_catalogue(old, written(tmp_path, lines))
    assert catalog.track_ids.tolist() == [*old.track_ids.tolist(), derived_id("New", "Bob")]
    with pytest.raises(InputError, match=r'line 1: expected .*; "track" must be a whole number or a text, got None'):
        extended_catalogue(OLD, written(tmp_path, lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[1:], r"lacks track 3 of the run"),
        ([*LINES, (5, "C", "Bob")], r"line 6: track 5 occurs twice; every id must be unique"),
        ([*LINES[:3], (7, "A", "Bob")], r"track 7 is 'A' by 'Bob', not 'A' by 'Ann'"),
        ([(3, None, "Eve"), *LINES[1:]], r"track 3 is '' by 'Eve', not '' by ''"),
        ([*LINES[:3], (7, "Other", "Ann")], r"track 7 is 'Other' by 'Ann', not 'A' by 'Ann'"),
        ([LINES[0], *LINES[2:4]], r"has the 3 tracks of the run and no new one; add new tracks to it"),
    ],
    ids=["lacks", "twice", "artist", "artist of nobody", "title", "nothing new"],
)
def test_a_catalogue_that_does_not_fit_is_one_line(tmp_path: Path, lines: list[Line], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extended_catalogue(OLD, written(tmp_path, lines))
