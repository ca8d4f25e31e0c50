"""Pictures of a training run: learning curve, calibration, scores, popularity, and a map of the artists.

The numbers of a picture come from a separate function, which tests check. P pairs, Q queries, E epochs, A artists, V
width of a vector.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64, Shaped
from scipy.stats import mannwhitneyu, rankdata

from segue.reports.axes import tidy
from segue.reports.numbers import count
from segue.reports.palette import BLUE, FAINT, GREY, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110

NUM_ARTISTS = 2000
"""Number of artists that are drawn, the most played ones."""

NUM_NAMES = 30
"""Number of artists that are named, the most played ones, where there is room."""

FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei",
    "Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS",
)  # fmt: skip
"""Used, if installed, for letters that DejaVu Sans lacks. matplotlib ships DejaVu Sans."""

LONGEST = 28
"""Length of a drawn name, in letters."""

_PLACES = [("left", "center"), ("right", "center"), ("center", "bottom"), ("center", "top")]
_PLACES += [("left", "bottom"), ("right", "bottom"), ("left", "top"), ("right", "top")]
"""Where a name may be beside its dot, the best place first: how it is aligned across and up."""
_TOWARDS = {"left": 1, "bottom": 1, "center": 0, "right": -1, "top": -1}


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
    from matplotlib.ticker import MaxNLocator

    best, number = best_epoch(epochs, monitor=monitor, mode=mode), _column(epochs, "epoch") + 1
    subtitle = f"No epoch has a {monitor}."
    if best is not None:
        subtitle = f"{monitor} is best in epoch {number[best]:.0f} of {number[-1]:.0f}: {epochs[best][monitor]:.4g}."
    figure = blank("Learning curve", subtitle, height=5.5)
    panels = [["train/loss", "val/loss"]] + [[monitor]] * (monitor not in ("train/loss", "val/loss"))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    colours = {"train/loss": GREY, "val/loss": BLUE, monitor: ORANGE if len(panels) > 1 else BLUE}
    for axis, names in zip(axes, panels, strict=True):
        for name in names:
            axis.plot(
                number,
                _column(epochs, name),
                color=colours[name],
                lw=1.8,
                marker="o",
                ms=4 if len(number) <= 30 else 0,
                label=name,
            )
        if best is not None:
            axis.axvline(number[best], color=INK, lw=0.8, ls=":")
            if monitor in names:
                axis.plot(number[best], epochs[best][monitor], "o", ms=9, mfc="none", mec=INK, mew=1.4)
        tidy(axis, legend=len(names) > 1, ylabel="loss" if len(names) > 1 else monitor)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    axes[-1].set_xlim(number.min() - 0.3, number.max() + 0.3)
    axes[-1].set_xlabel("epoch", fontsize=9)
    return figure


def _column(epochs: Iterable[Mapping[str, float]], name: str) -> Float[np.ndarray, "E"]:
    return np.array([epoch.get(name, np.nan) for epoch in epochs], np.float64)


def calibration_deciles(predicted: Float[np.ndarray, "P"], real: Float[np.ndarray, "P"]) -> pd.DataFrame:
    """Ten groups of pairs by their prediction; fewer where predictions tie, because ties stay in one group.

    Returns:
        One row per group with the columns `num_pairs`, `predicted` (mean), `real` (mean) and `standard_error` of the
        mean of `real` (NaN for a single pair).
    """
    decile = (10 * (rankdata(predicted) - 0.5) / max(len(predicted), 1)).astype(np.int64)
    frame = pd.DataFrame({"predicted": predicted, "real": real}).astype(np.float64)
    groups = frame.groupby(decile)
    return pd.DataFrame(
        {
            "num_pairs": groups.size(),
            "predicted": groups["predicted"].mean(),
            "real": groups["real"].mean(),
            "standard_error": groups["real"].sem(),
        }
    ).reset_index(drop=True)


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
    figure = blank(
        "Calibration: predicted share against share played",
        f"{len(real):,} test pairs in deciles of the prediction (ties stay together). Mean absolute error of a decile: "
        f"{error:.3f}.\nBars: 95 % interval of the mean, if pairs were independent.",
        height=6.2,
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.tick_params(bottom=False)
    low, high = _with_room([*means, *np.quantile(predicted, [0.002, 0.998])])
    above.axline((0, 0), slope=1, color=INK, lw=0.9, ls=":", label="perfect calibration")
    above.errorbar(means, shares, bars, color=BLUE, marker="o", ms=6, lw=1.2, elinewidth=1.6, label="test pairs")
    above.set(xlim=(low, high), ylim=_with_room([*means, *(shares - bars), *(shares + bars)]))
    tidy(above, legend=True, ylabel="share played, mean")
    below.hist(predicted.clip(low, high), bins=np.linspace(low, high, 61).tolist(), color=BLUE, alpha=0.55)
    below.set_yticks([])
    tidy(below, hide=("top", "right", "left"), xlabel="predicted share", ylabel="pairs")
    return figure


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis around some shares, with a margin."""
    room = max(0.05 * (max(values) - min(values)), 0.01)
    return min(values) - room, max(values) + room


def probability_above(scores: Float[np.ndarray, "P"], others: Float[np.ndarray, "Q"]) -> float:
    """Probability that a score exceeds one of the others (area under the ROC curve); a tie counts as one half.

    Returns:
        A probability in [0, 1]; NaN if one of the groups is empty.

    >>> probability_above(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    0.625
    """
    if not len(scores) or not len(others):
        return float("nan")
    return float(mannwhitneyu(scores, others, method="asymptotic").statistic / (len(scores) * len(others)))


def draw_scores(
    *, liked: Float[np.ndarray, "L"], skipped: Float[np.ndarray, "S"], random: Float[np.ndarray, "R"]
) -> "Figure":
    """Draw histograms of the scores of liked, skipped and random pairs.

    Args:
        liked: scores of test pairs whose next track was liked; all test pairs if the source has no shares.
        skipped: scores of the other test pairs.
        random: scores of test queries with random candidates.
    """
    real = "liked" if len(skipped) else "real"
    named = [
        ("random pairs", random, GREY),
        ("skipped", skipped, ORANGE),
        ("liked" if len(skipped) else "real pairs", liked, BLUE),
    ]
    groups = [group for group in named if len(group[1])]
    low, high = np.quantile(np.concatenate([scores for _, scores, _ in groups]), [0.0005, 0.9995])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    comparisons = [
        f"{what} {100 * probability_above(liked, others):.0f} times"
        for what, others in (("a random one", random), ("a skipped one", skipped))
        if len(liked) and len(others)
    ]
    subtitle = f"Of 100 comparisons, a {real} pair outscores {', and '.join(comparisons)}." if comparisons else ""
    figure = blank("Scores of test pairs", subtitle, height=4.6)
    axis, edges = figure.subplots(), np.linspace(low, high, 61)
    heights = [100 * np.histogram(scores.clip(low, high), edges)[0] / len(scores) for _, scores, _ in groups]
    for (name, scores, colour), height in zip(groups, heights, strict=True):
        if colour != ORANGE:
            axis.stairs(height, edges, fill=True, color=colour, alpha=0.25)
        axis.stairs(height, edges, color=colour, lw=1.6, label=f"{name} ({len(scores):,})")
    axis.set_xlim(low, high)
    tidy(axis, legend=True, xlabel="score", ylabel="% of pairs")
    _cut_spikes(axis, np.max(heights, axis=0), edges)
    return figure


def _cut_spikes(axis: "Axes", heights: Float[np.ndarray, "bins"], edges: Float[np.ndarray, "edges"]) -> None:
    """Cut off at most three bars that are far higher than all others, and write their heights beside them."""
    usual = 1.5 * np.sort(heights)[-4]
    if heights.max() <= 2 * usual or usual == 0:
        return
    axis.set_ylim(0, usual)
    for nth in np.flatnonzero(heights > usual):
        axis.text(edges[nth + 1], 0.97 * usual, f" {heights[nth]:.0f} %", fontsize=8, va="top", color=INK)


def random_candidates(
    previous: Int64[np.ndarray, "P"], num_tracks: int, rng: np.random.Generator
) -> Int64[np.ndarray, "P"]:
    """A random candidate for each query, drawn uniformly from all tracks (at least 2) except the query."""
    drawn = rng.integers(num_tracks - 1, size=len(previous))
    return drawn + (drawn >= previous)


def popularity_bins(plays: Int64[np.ndarray, "Q"], ranks: Float[np.ndarray, "Q"]) -> pd.DataFrame:
    """Quartiles of the rank, by plays of the following track in training: 0, 1, 2 to 3, 4 to 7, and so on.

    Args:
        plays: training plays of the track that followed each query.
        ranks: its rank, 1 is best.

    Returns:
        One row per bin with the columns `least` and `most` plays, `num_queries`, and the quartiles `lower`, `median`
        and `upper` of the rank. Bins without queries are left out.
    """
    nth = np.frexp(plays.astype(np.float64))[1]  # 0 of 0, else 1 + ⌊log2⌋
    groups = pd.Series(ranks, dtype=np.float64).groupby(nth)
    bins = pd.DataFrame({"num_queries": groups.size()})
    for name, quantile in {"lower": 0.25, "median": 0.5, "upper": 0.75}.items():
        bins[name] = groups.quantile(quantile)
    power = bins.index.to_numpy(np.int64)
    bins["least"], bins["most"] = np.where(power > 0, 2 ** (power - 1).clip(0), 0), 2**power - 1
    return bins.reset_index(drop=True)


def draw_popularity(*, plays: Int64[np.ndarray, "Q"], ranks: Float[np.ndarray, "Q"], num_tracks: int) -> "Figure":
    """Draw the rank of the track that followed, by how often it was played in training.

    Args:
        plays: training plays of the track that followed each query; at least one query.
        ranks: its rank among the `num_tracks - 1` candidates, 1 is best.
        num_tracks: size of the catalogue.
    """
    bins = popularity_bins(plays, ranks)
    places = np.arange(len(bins))
    figure = blank(
        "Popularity against rank of the track that followed",
        f"Test queries: {len(ranks):,}, tracks: {num_tracks:,}. Median rank: {np.median(ranks):,.0f}; of a random "
        f"ranking: {num_tracks / 2:,.0f}.",
        height=5.8,
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.tick_params(bottom=False)
    quarter = num_tracks / 4
    above.axhspan(quarter, 3 * quarter, color=FAINT, alpha=0.6, lw=0, label="random ranking, middle half")
    above.axhline(2 * quarter, color=GREY, lw=1.2, ls=":")
    seen = bins["most"].to_numpy() > 0
    for chosen, colour, label in ((seen, BLUE, "median and middle half"), (~seen, ORANGE, "unseen in training")):
        if chosen.any():
            some = bins[chosen]
            height = (some["upper"] - some["lower"]).to_numpy()
            above.bar(places[chosen], height, 0.62, some["lower"].to_numpy(), color=colour, alpha=0.3, lw=0)
            above.plot(places[chosen], some["median"], "o-", color=colour, lw=1.4, ms=6, label=label)
    above.set_yscale("log")
    above.set_ylim(1.2 * num_tracks, 0.8)
    above.minorticks_off()
    above.yaxis.set_major_formatter(lambda rank, _: count(round(rank)))
    tidy(above, legend=True, ylabel="rank, 1 is best")
    below.bar(places, 100 * bins["num_queries"] / len(ranks), 0.62, color=np.where(seen, BLUE, ORANGE), alpha=0.55)
    below.set_xticks(places, spans(bins["least"].tolist(), bins["most"].tolist()))
    below.set_xlim(-0.7, max(len(bins), 4) - 0.3)
    tidy(below, xlabel="plays in training of the track that followed", ylabel="% of queries")
    return figure


def spans(least: list[int], most: list[int]) -> list[str]:
    """A label for each bin, short where there are many bins.

    Returns:
        Labels such as `unseen`, `1`, `2–3`.
    """
    if len(least) > 11:
        return [f"{count(low, plain_below=1000)}+" if low else "unseen" for low in least]
    return [
        "unseen" if not high else count(low) + f"–{count(high)}" * (high > low)
        for low, high in zip(least, most, strict=True)
    ]


def blank(title: str, subtitle: str, *, height: float) -> "Figure":
    """An empty figure with a title and a subtitle.

    Args:
        subtitle: what the picture shows, on one or two lines.
        height: in inches.

    Returns:
        The figure, 8 inches wide.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=_DPI)
    top = 1 - 0.12 / height
    figure.text(0.02, top, title, fontsize=12, fontweight="bold", va="top", color=INK, parse_math=False)
    figure.text(0.02, top - 0.25 / height, subtitle, fontsize=9, va="top", color=GREY, parse_math=False)
    figure.subplots_adjust(
        left=0.095,
        right=0.98,
        bottom=0.55 / height,
        top=1 - (0.72 + 0.16 * subtitle.count("\n")) / height,
        hspace=0.12,
    )
    return figure


def pca(vectors: Float[np.ndarray, "A V"]) -> tuple[Float[np.ndarray, "A 2"], Float[np.ndarray, "2"]]:
    """The first two principal components of some vectors.

    The largest coordinate of each direction is positive. Vectors with fewer than two dimensions are padded with zeros.

    Returns:
        The coordinates, and the share of the variance along each component.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    directions = (directions * np.sign(largest))[:2]
    coordinates, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    coordinates[:, : len(directions)] = centred @ directions.T
    if (total := (lengths**2).sum()) > 0:
        shares[: len(directions)] = lengths[:2] ** 2 / total
    return coordinates, shares


def families() -> list[str]:
    """The installed fonts for names, in the order in which they are searched for a letter."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(font for font in FALLBACK_FONTS if font in installed)]


def letters(fonts: list[str]) -> frozenset[str]:
    """All letters that at least one of the fonts has."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    files = [findfont(FontProperties(family=[font])) for font in fonts]
    return frozenset(chr(code) for file in files for code in FT2Font(file).get_charmap())


def legible(name: str, known: frozenset[str]) -> str | None:
    """A name as it is drawn: on one line, and shortened if it is long.

    Returns:
        The drawn name; None if it has a letter that cannot be drawn.

    >>> legible("  Sigur\\n Rós ", frozenset("Sigur Rós"))
    'Sigur Rós'
    """
    name = "".join(letter for letter in " ".join(name.split()) if letter.isprintable())
    name = name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "…"
    return name if set(name) <= known else None


def draw_artists(
    *, vectors: Float[np.ndarray, "A V"], plays: Int64[np.ndarray, "A"], names: Shaped[np.ndarray, "A"], what: str
) -> "Figure":
    """Draw the artists as dots, near ones with similar vectors, and name the most played ones.

    Args:
        vectors: vector of each artist, as the scorer compares them; at least one artist.
        plays: plays of each artist in training.
        names: name of each artist; "" if it has none.
        what: what the vectors are, for the subtitle.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    most_played = np.argsort(-plays, kind="stable")[:NUM_ARTISTS]
    coordinates, shares = pca(vectors[most_played])
    known = letters(fonts := families())
    drawn_names = [legible(str(names[artist]), known) for artist in most_played[: 2 * NUM_NAMES]]
    some = f"the {NUM_ARTISTS:,} most played of " if len(plays) > NUM_ARTISTS else "all "
    subtitle = f"{what} of {some}{len(plays):,} artists seen in training, projected by PCA. Area of a dot: plays."
    if illegible := drawn_names[:NUM_NAMES].count(None):
        subtitle += f"\nNames left out because no installed font has their letters: {illegible}."
    figure = blank("Artists: similar artists are near each other", subtitle, height=7.0)
    FigureCanvasAgg(figure)  # measures names; without it each name would create a canvas
    figure.subplots_adjust(left=0.05)
    axis = figure.subplots()
    area = 8 + 260 * plays[most_played] / max(plays.max(), 1)
    dots = axis.scatter(coordinates[:, 0], coordinates[:, 1], s=area, alpha=0.45, ec="white", lw=0.4)
    axis.margins(0.06)
    axis.set_aspect("equal", adjustable="datalim")
    axis.apply_aspect()
    named = _draw_names(axis, coordinates, np.sqrt(area) / 2, drawn_names, fonts)
    dots.set_facecolor([BLUE if artist in named else GREY for artist in range(len(area))])
    axis.set(xticks=[], yticks=[])
    xlabel, ylabel = (
        f"{name} principal component, {100 * share:.0f} % of the variance"
        for name, share in zip(("first", "second"), shares, strict=True)
    )
    tidy(axis, xlabel=xlabel, ylabel=ylabel)
    return figure


def _draw_names(
    axis: "Axes",
    coordinates: Float[np.ndarray, "A 2"],
    radii: Float[np.ndarray, "A"],
    names: Sequence[str | None],
    fonts: list[str],
) -> list[int]:
    """Write the first names beside their dots, where they cover neither these dots nor each other.

    Args:
        radii: of the dots, in points.
        names: of the first dots; None or "" for no name.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    style: dict[str, Any] = {"fontsize": 8, "family": fonts, "parse_math": False, "color": INK}
    style["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
    dots = [nth for nth, name in enumerate(names) if name]
    pixels = radii[dots, None] * axis.get_figure().dpi / 72  # type: ignore[union-attr]  # it has a figure
    centres, named = axis.transData.transform(coordinates[dots]), list[int]()
    taken = [Bbox(corners) for corners in np.stack([centres - pixels, centres + pixels], axis=1)]
    for dot in dots:
        for across, up in _PLACES if len(named) < NUM_NAMES else ():
            away = (radii[dot] + 2) * (1 if "center" in (across, up) else 0.75)
            offset = away * _TOWARDS[across], away * _TOWARDS[up]
            text = axis.annotate(
                str(names[dot]), coordinates[dot], offset, textcoords="offset points", ha=across, va=up, **style
            )
            box = text.get_window_extent()
            is_inside = axis.bbox.count_contains([box.min, box.max]) == 2
            if is_inside and not box.count_overlaps(taken):
                taken.append(box)
                named.append(dot)
                break
            text.remove()
    return named
