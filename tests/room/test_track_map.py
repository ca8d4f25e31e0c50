"""The map: tracks lie near the tracks that follow them."""

import numpy as np
import pytest

from segue.room.track_map import layout, main_directions


@pytest.mark.parametrize("has_vectors", [True, False])
def test_tracks_lie_nearer_to_what_follows_them_than_to_others(has_vectors: bool) -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 40)
    lists = np.stack([rng.choice(np.flatnonzero(group == own), 8, replace=False) for own in group]).astype(np.int32)
    vectors = (rng.standard_normal((6, 16))[group] + 0.5 * rng.standard_normal((240, 16))).astype(np.float32)
    places = layout(lists, vectors if has_vectors else None)
    assert places.shape == (240, 2)
    assert np.abs(places).max() <= 1
    assert np.isfinite(places).all()
    near = np.linalg.norm(places[:, None] - places[lists], axis=2).mean()
    far = np.linalg.norm(places - places[rng.permutation(240)], axis=1).mean()
    assert near < far / 2
    assert np.array_equal(places, layout(lists, vectors if has_vectors else None))


def test_the_main_directions_are_those_of_a_singular_value_decomposition() -> None:
    vectors = (np.random.default_rng(0).standard_normal((50, 6)) * [9, 5, 1, 1, 1, 1]).astype(np.float32)
    centred = vectors - vectors.mean(0)
    expected = centred @ np.linalg.svd(centred)[2][:2].T
    found = main_directions(vectors)
    for axis in (0, 1):
        assert abs(np.corrcoef(found[:, axis], expected[:, axis])[0, 1]) == pytest.approx(1, abs=1e-4)


def test_small_catalogues_have_a_map_too() -> None:
    assert layout(np.array([[1], [0], [-1]], np.int32), None).shape == (3, 2)
    assert layout(np.array([[-1]], np.int32), np.ones((1, 3), np.float32)).shape == (1, 2)
