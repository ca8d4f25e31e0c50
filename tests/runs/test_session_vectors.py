"""The vectors of a run: their file, and every file that is not one."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.runs.session_vectors import FILE, SessionVectors, context_of
from tests.conftest import make_catalog, make_vectors, make_vocabulary

NUM = 9
TINY = 1e-6
"""Added to a squared length, so that the query of a session that was skipped throughout is defined."""
CATALOG = make_catalog([0, 0, 1, 1, 2, 2, 3, 3, 3])
VOCABULARY = make_vocabulary([0, 0, 1, 1, 2, 2, 3, 3, 3])


def made(seed: int = 0, **changes: Any) -> SessionVectors:
    return make_vectors(NUM, seed, **changes)


def test_the_context_is_that_of_the_run_unless_it_is_given(tmp_path: Path) -> None:
    lists = tmp_path / "recommendations.jsonl"
    assert context_of("arms.C", None, lists) == "last"
    with pytest.raises(InputError, match=r"context=session needs vectors.npz beside .*; train a run with context=ses"):
        context_of("arms.C", "session", lists)
    made().write(tmp_path / FILE, CATALOG)
    assert [context_of("arms.C", given, lists) for given in (None, "last", "session")] == ["session", "last", "session"]
    with pytest.raises(InputError, match=r"arms\.C: context must be one of last, session, listener"):
        context_of("arms.C", "all", lists)


def test_a_file_may_list_the_tracks_in_another_order(tmp_path: Path) -> None:
    vectors, order = made(), np.array([3, 1, 0, 2, 8, 7, 6, 5, 4])
    vectors.write(tmp_path / FILE, CATALOG)
    catalog = replace(CATALOG, track_ids=CATALOG.track_ids[order])
    assert (SessionVectors.read(tmp_path / FILE, catalog).items == vectors.items[order]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.zeros((NUM, 6))}, "queries must be float32 with 2 dimensions, and is float64 with 2"),
        ({"queries": None}, "queries must be float32 with 2 dimensions, and is missing"),
        ({"items": np.zeros((NUM, 5), np.float32)}, r"items must have the shape \(9, 6\), and has \(9, 5\)"),
        ({"part_ends": np.array([5, 5])}, "part_ends must increase up to at most 6"),
        ({"part_shares": np.array([0.5, 2], np.float32)}, r"part_shares must be in \[0, 1\], or NaN"),
        ({"heard_boosts": np.array([np.nan], np.float32)}, "heard_boosts must be at most 1000 numbers or -inf"),
        ({"artist_boosts": np.array([np.inf], np.float32)}, "artist_boosts must be at most 1000 finite"),
        ({"heard_boosts": np.zeros(1001, np.float32)}, "heard_boosts must be at most 1000 numbers or -inf"),
        ({"age_weights": np.full((2, 3), np.nan, np.float32)}, "age_weights must be finite and of 1 to 1000 ages"),
        ({"age_weights": np.zeros((2, 0), np.float32)}, "age_weights must be finite and of 1 to 1000 ages"),
        ({"skipped": np.array(np.nan, np.float32)}, r"skipped must be in \[-1, 1\]"),
        ({"context": np.array("all")}, "context must be one of last, session"),
        (
            {"context": np.array("listener"), "listener_weights": np.zeros(9, np.float32)},
            "listener_weights must be 10 finite float32 numbers where the context is listener",
        ),
        ({"items": np.full((NUM, 6), np.inf, np.float32)}, "items must be finite"),
        ({"track_ids": np.arange(NUM)}, "has vectors of other tracks than the catalogue of 9 tracks"),
        ({"track_ids": None}, "it has no ids of tracks"),
        ({"queries": np.zeros((NUM, 6), object)}, "Object arrays cannot be loaded"),
        ({"more": np.zeros(5 * 2**20)}, "it has .* bytes, more than the .* that 9 tracks need"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {"track_ids": CATALOG.track_ids, **made().arrays(), **change}
    np.savez(tmp_path / FILE, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=message) as refused:
        SessionVectors.read(tmp_path / FILE, CATALOG)
    assert "\n" not in str(refused.value)


def test_a_file_of_another_catalogue_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with pytest.raises(InputError, match=f"cannot read {re.escape(str(path))}: No such file"):
        SessionVectors.read(path, CATALOG)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="is damaged: File is not a zip file; train again"):
        SessionVectors.read(path, CATALOG)
    made().write(path, CATALOG)
    with pytest.raises(InputError, match="has vectors of 9 tracks, and the catalogue has 2; use the vectors and the"):
        SessionVectors.read(path, make_catalog([0, 1]))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        SessionVectors.read(path, CATALOG)
    path.write_bytes(whole.replace(b"\x93NUMPY", b"\x93NUMPX", 1))
    with pytest.raises(InputError, match="is damaged"):
        SessionVectors.read(path, CATALOG)
