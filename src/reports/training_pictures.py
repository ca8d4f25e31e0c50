"""Pictures of a training run: learning curve, calibration, and a map of the artists.

P pairs, E epochs, A artists, V width of a vector.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64, Shaped
from scipy.stats import rankdata

from segue.reports.axes import tidy
from segue.reports.palette import BLUE, GREY, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_ARTISTS, NUM_NAMES = 2000, 30
"""Number of artists that are drawn, the most played ones, and of those that are named."""

FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Yu Gothic",
    "Microsoft YaHei", "Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS",
)  # fmt: skip
"""Those that are installed are searched for a letter in this order. matplotlib ships the first."""

LONGEST = 24
"""Length of a drawn name, in letters."""


def best_epoch(epochs: Sequence[Mapping[str, float]], *, monitor: str, mode: str) -> int | None:
    """Index of the first epoch with the best finite value of `monitor`: the largest with `mode="max"`, or `min`.

    Returns:
        Index into `epochs`; None if no epoch has a finite value.
    """
    values = _column(epochs, monitor)
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        return None
    return int(np.nanargmin(values) if mode == "min" else np.nanargmax(values))


def draw_learning_curve(epochs: Sequence[Mapping[str, float]], *, monitor: str, mode: str) -> "Figure":
    """Draw training loss, validation loss and the metric that chose the best epoch; epochs are counted from 1.

    Args:
        epochs: metrics of each epoch by name, and its number `epoch`, counted from 0; at least one epoch.
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
    """
    best, number = best_epoch(epochs, monitor=monitor, mode=mode), _column(epochs, "epoch") + 1
    says = f"No epoch has a {monitor}."
    if best is not None:
        says = f"{monitor} is best in epoch {number[best]:.0f} of {number[-1]:.0f}: {epochs[best][monitor]:.4g}."
    figure = _blank("Learning curve", says, height=5.5)
    panels = [
        {"train/loss": GREY, "val/loss": BLUE},
        *[{monitor: ORANGE}] * (monitor not in ("train/loss", "val/loss")),
    ]
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, colours in zip(axes, panels, strict=True):
        for name, colour in colours.items():
            axis.plot(number, _column(epochs, name), color=colour, lw=1.8, marker="o", ms=3, label=name)
        if best is not None:
            axis.axvline(number[best], color=INK, lw=0.8, ls=":")
        if best is not None and monitor in colours:
            axis.plot(number[best], epochs[best][monitor], "o", ms=9, mfc="none", mec=INK, mew=1.4)
        tidy(axis, legend=len(colours) > 1, ylabel="loss" if len(colours) > 1 else monitor)
    axes[-1].locator_params(axis="x", integer=True, nbins=12, min_n_ticks=1)
    axes[-1].set_xlim(number.min() - 0.3, number.max() + 0.3)
    axes[-1].set_xlabel("epoch", fontsize=9)
    return figure


def _column(epochs: Sequence[Mapping[str, float]], name: str) -> Float[np.ndarray, "E"]:
    return np.array([epoch.get(name, np.nan) for epoch in epochs], np.float64)


def calibration_deciles(predicted: Float[np.ndarray, "P"], real: Float[np.ndarray, "P"]) -> pd.DataFrame:
    """Ten groups of pairs by their prediction; fewer where predictions tie, because ties stay in one group.

    Returns:
        One row per group with the columns `num_pairs`, `predicted` (mean), `real` (mean) and `standard_error` of the
        mean of `real` (NaN for a single pair).
    """
    decile = (10 * (rankdata(predicted) - 0.5) / max(len(predicted), 1)).astype(np.int64)
    groups = pd.DataFrame({"predicted": predicted, "real": real}).astype(np.float64).groupby(decile)
    columns = {"num_pairs": groups.size(), **{name: groups[name].mean() for name in ("predicted", "real")}}
    return pd.DataFrame({**columns, "standard_error": groups["real"].sem()}).reset_index(drop=True)


def draw_calibration(predicted: Float[np.ndarray, "P"], real: Float[np.ndarray, "P"]) -> "Figure":
    """Draw the predicted share against the share played, and below it a histogram of predictions.

    Args:
        predicted: predicted share of each pair.
        real: share played of each pair, in [0, 1]; at least one pair.
    """
    deciles = calibration_deciles(predicted, real)
    means, shares = deciles["predicted"].to_numpy(), deciles["real"].to_numpy()
    bars = 1.96 * deciles["standard_error"].fillna(0).to_numpy()
    error = np.average(np.abs(means - shares), weights=deciles["num_pairs"])
    figure = _blank(
        "Calibration: predicted share against share played",
        f"{len(real):,} test pairs in deciles of the prediction (ties stay together). Mean absolute error of a decile: "
        f"{error:.3f}.\nBars: 95 % interval of the mean, if pairs were independent.",
        height=6.2,
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    low, high = _with_room([*means, *np.quantile(predicted, [0.002, 0.998])])
    above.axline((0, 0), slope=1, color=INK, lw=0.9, ls=":", label="perfect calibration")
    above.errorbar(means, shares, bars, color=BLUE, marker="o", ms=6, lw=1.2, elinewidth=1.6, label="test pairs")
    above.set(xlim=(low, high), ylim=_with_room([*means, *(shares - bars), *(shares + bars)]))
    tidy(above, legend=True, ylabel="share played, mean")
    below.hist(predicted.clip(low, high), bins=np.linspace(low, high, 61).tolist(), color=BLUE, alpha=0.55)
    tidy(below, xlabel="predicted share", ylabel="pairs")
    return figure


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis around some shares, with a margin."""
    room = max(0.05 * (max(values) - min(values)), 0.01)
    return min(values) - room, max(values) + room


def pca(vectors: Float[np.ndarray, "A V"]) -> tuple[Float[np.ndarray, "A 2"], Float[np.ndarray, "2"]]:
    """The first two principal components of some vectors; of those with fewer than two dimensions, the rest is 0.

    The largest coordinate of each direction is positive.

    Returns:
        The coordinates, and the share of the variance along each component.
    """
    centred = np.pad(vectors.astype(np.float64), ((0, 1), (0, 2)))[:-1]
    centred -= centred.mean(0)
    _, lengths, directions = np.linalg.svd(np.pad(centred, ((0, 2), (0, 0))), full_matrices=False)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    variances = lengths**2
    return centred @ (directions * np.sign(largest))[:2].T, variances[:2] / (variances.sum() or 1)


def draw_artists(
    *, vectors: Float[np.ndarray, "A V"], plays: Int64[np.ndarray, "A"], names: Shaped[np.ndarray, "A"], what: str
) -> "Figure":
    """Draw the artists as dots, near ones with similar vectors; the most played ones are numbered and named beside.

    Args:
        vectors: vector of each artist, as the scorer compares them; at least one artist.
        plays: plays of each artist in training.
        names: name of each artist; "" if it has none.
        what: what the vectors are, for the subtitle.
    """
    from matplotlib.font_manager import findfont, fontManager
    from matplotlib.ft2font import FT2Font

    chosen = np.argsort(-plays, kind="stable")[:NUM_ARTISTS]
    coordinates, shares = pca(vectors[chosen])
    some = f"the {NUM_ARTISTS:,} most played of " if len(plays) > NUM_ARTISTS else "all "
    says = f"{what} of {some}{len(plays):,} artists seen in training, projected by PCA. Area of a dot: plays."
    figure = _blank("Artists: similar artists are near each other", says, height=6.5)
    figure.subplots_adjust(left=0.05, right=0.76)
    axis, num = figure.subplots(), min(NUM_NAMES, len(chosen))
    colours = np.where(np.arange(len(chosen)) < num, BLUE, GREY)
    area = 8 + 260 * plays[chosen] / max(plays.max(), 1)
    axis.scatter(coordinates[:, 0], coordinates[:, 1], s=area, c=colours, alpha=0.45, ec="white", lw=0.4)
    for place, (x, y) in enumerate(coordinates[:num].tolist(), start=1):
        axis.text(x, y, str(place), fontsize=7, color=INK, ha="center", va="center")
    installed = set(fontManager.get_font_names())
    fonts = [font for font in FONTS if font in installed]
    letters = {chr(code) for font in fonts for code in FT2Font(findfont(font)).get_charmap()}
    shown = enumerate((" ".join(str(name).split())[:LONGEST] for name in names[chosen[:num]]), start=1)
    listed = (f"{place}  " + "".join(one if one in letters else "?" for one in name) for place, name in shown)
    figure.text(0.78, 0.88, "\n".join(listed), fontsize=7.5, va="top", linespacing=1.55, family=fonts, parse_math=False)
    axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axis.margins(0.06)
    first, second = (f"{100 * share:.0f} % of the variance" for share in shares)
    tidy(axis, xlabel=f"first principal component, {first}", ylabel=f"second principal component, {second}")
    return figure


def _blank(title: str, subtitle: str, *, height: float) -> "Figure":
    """An empty figure of 8 inches times `height`, with a title, and what it shows on one or two lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=110)
    top = 1 - 0.12 / height
    figure.text(0.02, top, title, fontsize=12, fontweight="bold", va="top", color=INK, parse_math=False)
    figure.text(0.02, top - 0.25 / height, subtitle, fontsize=9, va="top", color=GREY, parse_math=False)
    below_title = (0.72 + 0.16 * subtitle.count("\n")) / height
    figure.subplots_adjust(left=0.095, right=0.98, bottom=0.55 / height, top=1 - below_title, hspace=0.12)
    return figure
