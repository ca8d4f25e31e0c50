"""ONNX files: onnxruntime gives the vectors of torch, and the recommendations of the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segue.runs.catalog_files import read_catalog
from segue.verbs.api import onnx_files
from segue.verbs.api.onnx_files import ITEM, QUERY, TRACKS, write_onnx
from tests.conftest import make_catalog, make_vectors
from tests.exported import NUM, ExportedRun, assert_are_the_lists, exported_run, torch_queries

CASES = [(model, context) for model in ("convex", "artist", "contextual") for context in ("last", "session")]


@pytest.fixture(params=CASES, ids="-".join)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> ExportedRun:
    model, context = request.param
    made = exported_run(tmp_path, model=model, context=context)
    write_onnx(made.vectors, made.catalog, tmp_path / "onnx")
    return made


def session(folder: Path, name: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(folder / "onnx" / name, providers=["CPUExecutionProvider"])


def queries_of(folder: Path, rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    [vectors] = session(folder, QUERY).run(None, {"rows": rows, "shares": shares})
    return np.asarray(vectors)


def items_of(folder: Path) -> np.ndarray:
    [vectors] = session(folder, ITEM).run(None, {"rows": np.arange(NUM)})
    return np.asarray(vectors)


def test_the_scores_are_those_of_torch_for_any_session(run: ExportedRun, tmp_path: Path) -> None:
    rng, length = np.random.default_rng(0), run.vectors.max_length
    rows = rng.integers(0, NUM, (50, length))
    rows[np.arange(length) >= rng.integers(1, length + 1, 50)[:, None]] = -1  # sessions of any length
    shares = rng.choice(np.array([0, 0.3, 1, np.nan], np.float32), rows.shape)
    with torch.inference_mode():
        items = run.ranker.scorer.item_vectors().numpy()
    expected = torch_queries(run, rows, shares) @ items.T
    np.testing.assert_allclose(queries_of(tmp_path, rows, shares) @ items_of(tmp_path).T, expected, atol=1e-5)


def test_the_best_tracks_after_one_are_the_recommendations_of_the_run(run: ExportedRun, tmp_path: Path) -> None:
    rows = np.full((NUM, run.vectors.max_length), -1)
    rows[:, 0] = np.arange(NUM)
    shares = np.full(rows.shape, np.nan, np.float32)
    assert_are_the_lists(run, queries_of(tmp_path, rows, shares) @ items_of(tmp_path).T)


def test_the_query_and_rows_and_rules_are_in_the_files(tmp_path: Path) -> None:
    from segue.picking.session_query import SessionQuery

    vectors, catalog = make_vectors(9), make_catalog([0, 0, 1, 1, 2, 2, 3, 3, 3])
    write_onnx(vectors, catalog, tmp_path / "onnx")
    rows, shares = np.array([[3, 5, 1], [8, -1, -1]]), np.array([[0.2, np.nan, 1], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(queries_of(tmp_path, rows, shares), SessionQuery(vectors).of(rows, shares), atol=1e-5)
    assert read_catalog(tmp_path / "onnx" / TRACKS).track_ids.tolist() == catalog.track_ids.tolist()
    given = session(tmp_path, QUERY).get_modelmeta().custom_metadata_map
    assert given == {"context": "session", "heard_boosts": "1000:-inf", "artist_boosts": ""}


@pytest.mark.parametrize(
    ("boosts", "text"), [([], ""), ([-np.inf, -np.inf, 0.25], "2:-inf 3:0.25"), ([0.5, 0.0], "1:0.5 2:0")]
)
def test_boosts_are_written_with_the_last_age_of_each(boosts: list[float], text: str) -> None:
    assert onnx_files._as_text(np.array(boosts, np.float32)) == text
