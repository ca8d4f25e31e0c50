import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA  # type: ignore[import-untyped]

from segue.reports import training_pictures as plots

rng = np.random.default_rng(0)
shares = st.integers(0, 4).map(lambda n: n / 4)  # few, so that many tie
pairs_of_shares = st.lists(st.tuples(shares, shares), min_size=1, max_size=40).map(np.array)


def check(figure: Figure) -> bytes:
    """The file of a picture; fails where nothing is drawn."""
    figure.savefig(file := io.BytesIO(), format="png")
    pixels = np.asarray(Image.open(file).convert("L"))
    assert min(pixels.shape) > 400
    assert (pixels < 200).mean() > 0.001
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_warning() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_deciles_are_ten_equal_groups_where_nothing_ties() -> None:
    predicted = rng.permutation(np.arange(200) / 200)
    real = rng.random(200)
    deciles = plots.calibration_deciles(predicted, real)
    order = np.argsort(predicted)
    for nth in range(10):
        group = order[20 * nth : 20 * nth + 20]
        row = deciles.iloc[nth]
        assert row["num_pairs"] == 20
        assert row["predicted"] == pytest.approx(predicted[group].mean())
        assert row["real"] == pytest.approx(real[group].mean())
        spread = sum((value - real[group].mean()) ** 2 for value in real[group]) / 19
        assert row["standard_error"] == pytest.approx((spread / 20) ** 0.5)


@given(pairs=pairs_of_shares)
def test_deciles_hold_every_pair_once_and_keep_ties_together(pairs: np.ndarray) -> None:
    predicted, real = pairs.T
    deciles = plots.calibration_deciles(predicted, real)
    assert deciles["num_pairs"].sum() == len(pairs)
    assert len(deciles) <= min(10, len(np.unique(predicted)))
    assert deciles["predicted"].is_monotonic_increasing
    assert deciles["predicted"].is_unique
    for name, values in (("predicted", predicted), ("real", real)):
        assert np.average(deciles[name], weights=deciles["num_pairs"]) == pytest.approx(values.mean())
    # a group is a run of whole sets of equals
    of_equals = np.cumsum(np.unique(predicted, return_counts=True)[1])
    assert set(np.cumsum(deciles["num_pairs"])) <= set(of_equals)


def test_two_different_predictions_are_two_groups() -> None:
    predicted, real = np.array([0.2] * 90 + [0.7] * 10), np.array([0.0] * 90 + [1.0] * 10)
    deciles = plots.calibration_deciles(predicted, real)
    assert deciles["num_pairs"].tolist() == [90, 10]
    assert deciles["real"].tolist() == [0, 1]
    assert np.isnan(plots.calibration_deciles(predicted[:1], real[:1])["standard_error"]).all(), "of a single pair"


@pytest.mark.parametrize(
    "predicted",
    [np.full(1, 0.3), rng.normal(0, 9, 500), np.r_[np.zeros(499), 1e3]],
    ids=["one pair", "beyond 0 and 1", "outlier"],
)
def test_calibration_is_drawn(predicted: np.ndarray) -> None:
    real = rng.random(len(predicted)).astype(np.float32)
    check(plots.draw_calibration(predicted.astype(np.float32), real))


@given(size=st.tuples(st.integers(3, 30), st.integers(2, 8)), seed=st.integers(0, 1000))
def test_pca_is_that_of_scikit_learn(size: tuple[int, int], seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    coordinates, shares = plots.pca(vectors)
    theirs = PCA(2, svd_solver="full").fit(vectors.astype(np.float64))
    np.testing.assert_allclose(shares, theirs.explained_variance_ratio_, atol=1e-6)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(theirs.transform(vectors.astype(np.float64))), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 5), (2, 5), (6, 1), (1, 1)])
def test_pca_pads_vectors_with_fewer_than_two_dimensions(size: tuple[int, int]) -> None:
    coordinates, shares = plots.pca(rng.normal(size=size))
    assert coordinates.shape == (size[0], 2)
    assert np.isfinite(coordinates).all()
    assert coordinates[:, 1] == pytest.approx(0)
    assert shares.tolist() == pytest.approx([0 if size[0] == 1 else 1, 0])


AWKWARD = [
    "Ke$ha", "A$AP $ky", r"$\nosuch$", r"back\slash {\frac", "", "   ", "美空ひばり", "שלום", "a\nb\tc",
    "x" * 300, "\ud800", "🎵", "Sigur Rós", "Кино", "Ολυμπία",
    "e\u0301\u0302", "\x00", "^_", "%", "#", "50 % & more", "ﷺ", "\u200bzero",
]  # fmt: skip


@pytest.mark.parametrize("num_artists", [1, 22])
def test_artists_are_drawn_whatever_their_names(num_artists: int) -> None:
    names = np.array((AWKWARD * (num_artists // len(AWKWARD) + 1))[:num_artists], object)
    vectors = rng.normal(size=(num_artists, 6)).astype(np.float32)
    check(plots.draw_artists(vectors=vectors, plays=rng.integers(0, 99, num_artists), names=names, what="Vectors"))


def test_artists_with_equal_vectors_that_nobody_plays_are_drawn() -> None:
    names = np.array([f"Artist {nth}" for nth in range(40)], object)
    check(plots.draw_artists(vectors=np.ones((40, 3)), plays=np.zeros(40, int), names=names, what="Vectors"))


def epochs(*values: float, monitor: str = "val/mrr") -> list[dict[str, float]]:
    return [
        {"epoch": float(nth), "train/loss": 1 / (1 + nth), "val/loss": 1.0, monitor: value}
        for nth, value in enumerate(values)
    ]


def test_the_first_of_the_best_epochs_is_marked() -> None:
    nan = float("nan")
    values = epochs(nan, 0.1, 0.3, 0.3, 0.05, float("inf"))
    assert plots.best_epoch(values, monitor="val/mrr", mode="max") == 2
    assert plots.best_epoch(values, monitor="val/mrr", mode="min") == 4
    assert plots.best_epoch(values, monitor="val/other", mode="min") is None
    assert plots.best_epoch(epochs(nan), monitor="val/mrr", mode="max") is None


@pytest.mark.parametrize(
    "curve",
    [
        epochs(*np.linspace(0, 1, 200)),
        epochs(0.1, float("nan"), 0.3),
        [{"epoch": 0.0}],
        [{"epoch": 7.0, "train/loss": 1.0}, {"epoch": 9.0, "val/mrr": 1.0}],
    ],
    ids=["many", "a gap", "nothing known", "parts"],
)
def test_the_learning_curve_is_drawn(curve: list[dict[str, float]]) -> None:
    check(plots.draw_learning_curve(curve, monitor="val/mrr", mode="max"))


def test_the_same_numbers_give_the_same_file() -> None:
    first, second = (plots.draw_learning_curve(epochs(0.1, 0.2), monitor="val/mrr", mode="max") for _ in range(2))
    assert check(first) == check(second)
