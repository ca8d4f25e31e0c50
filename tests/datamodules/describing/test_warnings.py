from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.catalog import Catalog
from segue.datamodules.describing import warnings
from segue.datamodules.describing.measures import Facts, Material
from segue.datamodules.reading.swallowed_rows import SwallowedRows
from segue.errors import InputError
from tests.datamodules.describing.building import (
    DAY,
    MINUTE,
    START,
    Play,
    facts_of,
    material_of_plays,
    nameless,
    reading_of,
    thresholds,
    usual_plays,
    warnings_of,
)

USUAL = usual_plays()


def shifted(plays: list[Play], change: Any) -> list[Play]:
    return [play._replace(time=round(change(play.time))) for play in plays]


def read_with(num_rows: int = len(USUAL), dropped: dict[str, int] | None = None, **changes: Any) -> Material:
    return material_of_plays(USUAL, reading=reading_of(num_rows, **changes), dropped=dropped or {})


def test_a_log_that_nothing_is_wrong_with_has_no_warning() -> None:
    assert warnings_of(material_of_plays(USUAL)) == []


def alike_catalog() -> Catalog:
    catalog = material_of_plays(USUAL).catalog
    ids = ["a1", "A1", "é", "e\u0301", *(f"x{n}" for n in range(4, len(catalog)))]
    return replace(catalog, track_ids=np.array(ids, object))


FOUND: dict[str, tuple[Material, str, str]] = {
    "rejected_share": (
        read_with(num_rows=200, rejected={"no time": 10, "no track": 90}),
        r"50 % of the rows were rejected: no track \(90\); no time \(10\)",
        "datamodule.max_rejected=0.53",
    ),
    "swallowed_lines": (
        read_with(swallowed=SwallowedRows(file="a.csv", line=7, column="title", num_lines=90, num_cells=3)),
        "90 ends of lines are inside cells, .*: column title of the row at a.csv line 7, and 2 other cells",
        "datamodule.files.quote=''",
    ),
    "dropped_share": (
        read_with(num_rows=200, dropped={"min_count": 50, "repeats": 2}),
        "the rule min_count left out 50 events, 25 % of the rows",
        "datamodule.policies.min_count",
    ),
    "earliest_year": (
        material_of_plays(shifted(USUAL, lambda time: time / 1000)),
        "the times look like seconds that were read as milliseconds: from 1970-01-20 16:13:20",
        "datamodule.units.timestamp=s",
    ),
    "silence_share": (
        material_of_plays([*USUAL, *(Play(0, START - 400 * DAY + n, n, 0.5) for n in range(3))]),
        "the clock jumps, or plays are missing: there is none for 400 days, from 2022-10-10 22:13:20 to 2023-11-14 "
        "22:13:20, which is 99.25 % of the whole time; 3 plays are before and 100 after",
        "a device with a wrong clock",
    ),
    "tie_share": (
        material_of_plays(shifted(USUAL, lambda time: time // (10 * MINUTE) * 10 * MINUTE)),
        r"6\d % of the plays have the same time as an earlier play of their listener",
        "in the order of listening",
    ),
    "duplicate_share": (
        material_of_plays([*USUAL, *USUAL[:10]]),
        "9.1 % of the plays have listener, time and track of another play",
        "datamodule.policies.duplicates=drop",
    ),
    "alike_ids": (
        material_of_plays(USUAL, catalog=alike_catalog()),
        "2 ids of tracks differ from another one by case or by the Unicode normalisation alone, such as 'a1' and 'A1'",
        "datamodule.aliases=<file of lines old,new>",
    ),
    "single_play_users": (
        material_of_plays([play._replace(listener=number) for number, play in enumerate(USUAL)]),
        "100 % of the 100 users have one play only: their ids look like numbers of rows",
        "datamodule.columns.user",
    ),
    "single_session_users": (
        material_of_plays([play for play in USUAL if (play.time - START) // DAY == play.listener % 4]),
        "100 % of the 5 users have one session only, although the plays span 3 days",
        "datamodule.session_gap_minutes",
    ),
    "track_share": (
        material_of_plays([play._replace(track=7) if play.time // MINUTE % 2 else play for play in USUAL]),
        "5[0-9] % of the plays are of one track, Title 7 by Artist 3",
        "a placeholder for unknown tracks",
    ),
    "same_share": (
        material_of_plays([play._replace(share=1.0) for play in USUAL]),
        "100 % of the known shares played are 1: they say nothing about what listeners like",
        "recipe=playlists",
    ),
    "nameless_share": (
        material_of_plays(USUAL, catalog=nameless(40)),
        "100 % of the tracks have no artist: each of them counts as an artist of its own, and the artist part of a "
        "model learns nothing from them",
        "datamodule.columns.artist",
    ),
}
"""For each threshold: data that reach it, what is said, and a part of the remedy."""


@pytest.mark.parametrize("name", FOUND)
def test_what_reaches_its_threshold_is_said_with_a_remedy(name: str) -> None:
    material, says, remedy = FOUND[name]
    [warning] = [warning for warning in warnings_of(material) if warning.name == name]
    with pytest.raises(ValueError, match=says):
        raise ValueError(warning.says)
    assert remedy in warning.remedy
    assert warning.threshold == getattr(thresholds(), name)


@pytest.mark.parametrize("name", FOUND)
def test_a_threshold_of_null_switches_its_warning_off(name: str) -> None:
    assert name not in {warning.name for warning in warnings_of(FOUND[name][0], **{name: None})}


def with_test(cold_pairs: float) -> Facts:
    return replace(facts_of(material_of_plays(USUAL)), test={"cold_pairs": cold_pairs})


@pytest.mark.parametrize(("cold_pairs", "num_warnings"), [(0.49, 0), (0.5, 1)])
def test_a_test_set_of_unknown_tracks_is_warned_of(cold_pairs: float, num_warnings: int) -> None:
    found = warnings.find_warnings(with_test(cold_pairs), material_of_plays(USUAL), thresholds())
    assert [warning.name for warning in found] == ["cold_share"] * num_warnings


@pytest.mark.parametrize(
    ("factor", "says"), [(1000, "microseconds that were read"), (10**6, "nanoseconds that were read")]
)
def test_finer_units_than_milliseconds_are_recognised(factor: int, says: str) -> None:
    found = warnings_of(material_of_plays(shifted(USUAL, lambda time: time * factor)))
    assert any(says in warning.says for warning in found)


def test_times_that_count_from_the_start_of_the_data_are_no_other_unit() -> None:
    relative = shifted(USUAL, lambda time: time - START)
    assert warnings_of(material_of_plays(relative)) == []


def test_duplicates_that_were_left_out_are_warned_of_too() -> None:
    [warning] = warnings_of(read_with(dropped={"duplicates": 5}))
    assert "5 % of the rows are duplicates of another row, and were left out" in warning.says
    assert "datamodule.policies.duplicates=keep" in warning.remedy


def test_that_listeners_said_no_is_no_fault_of_the_data() -> None:
    material = read_with(num_rows=200, dropped={"unremembered": 190})
    assert "dropped_share" not in {warning.name for warning in warnings_of(material)}


def test_a_rule_of_a_source_is_named_by_its_own_setting() -> None:
    [warning] = warnings_of(read_with(dropped={"podcasts": 50, "duplicates": 0}))
    assert warning.says == "the rule podcasts left out 50 events, 50 % of the rows"
    assert warning.remedy.startswith("change datamodule.sql.drop.podcasts")


def test_data_that_cannot_be_split_are_the_first_warning() -> None:
    material = material_of_plays([play._replace(share=1.0) for play in USUAL], refusal="no pairs left for test")
    first, second = warnings_of(material)
    assert (first.name, first.says) == ("splits", "no pairs left for test")
    assert second.name == "same_share"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "track_share",
            1.5,
            "warnings.track_share must be a number of at least 0 and at most 1 or null, got 1.5; null",
        ),
        ("machines", 0, "warnings.machines must be a whole number of at least 1 or null, got 0; null switches"),
    ],
)
def test_a_threshold_out_of_range_is_refused(name: str, value: int | float, line: str) -> None:
    with pytest.raises(InputError, match=line):
        thresholds(**{name: value})


def test_playlists_have_no_warnings_about_time_or_sessions() -> None:
    unknown = [play._replace(share=float("nan")) for play in USUAL]
    assert warnings_of(material_of_plays(unknown, has_clock=False)) == []
