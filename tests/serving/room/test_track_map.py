"""The map: tracks lie near the tracks that follow them."""

import numpy as np

from segue.serving.room.track_map import layout


def test_tracks_lie_nearer_to_what_follows_them_than_to_others() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 40)
    lists = np.stack([rng.choice(np.flatnonzero(group == own), 8, replace=False) for own in group]).astype(np.int32)
    places = layout(lists)
    assert places.shape == (240, 2)
    assert np.abs(places).max() <= 1
    assert np.isfinite(places).all()
    near = np.linalg.norm(places[:, None] - places[lists], axis=2).mean()
    far = np.linalg.norm(places - places[rng.permutation(240)], axis=1).mean()
    assert near < far / 2
    assert np.array_equal(places, layout(lists))


def test_small_catalogues_have_a_map_too() -> None:
    assert layout(np.array([[1], [0], [-1]], np.int32)).shape == (3, 2)
    assert layout(np.array([[-1]], np.int32)).shape == (1, 2)
