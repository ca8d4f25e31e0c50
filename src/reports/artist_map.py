"""A map of the artists: PCA of their vectors, with the names of the most played ones.

A artists, V width of a vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64, Shaped

from segue.reports import labels
from segue.reports.axes import tidy
from segue.reports.palette import BLUE, GREY, INK
from segue.reports.training_pictures import blank, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_ARTISTS = 2000
"""Number of artists that are drawn, the most played ones."""

NUM_NAMES = 30
"""Number of artists that are named, the most played ones, where there is room."""


def pca(vectors: Float[np.ndarray, "A V"]) -> tuple[Float[np.ndarray, "A 2"], Float[np.ndarray, "2"]]:
    """The first two principal components of some vectors.

    The largest coordinate of each direction is positive. Vectors with fewer than two dimensions are padded with zeros.

    Args:
        vectors: one vector per artist.

    Returns:
        The coordinates, and the share of the variance along each component.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    directions = (
        directions[:2] * np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:2, None]
    )
    coordinates, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    coordinates[:, : len(directions)] = centred @ directions.T
    if (total := (lengths**2).sum()) > 0:
        shares[: len(directions)] = lengths[:2] ** 2 / total
    return coordinates, shares


def draw_artists(
    *,
    vectors: Float[np.ndarray, "A V"],
    plays: Int64[np.ndarray, "A"],
    names: Shaped[np.ndarray, "A"],
    what: str,
    path: Path,
) -> None:
    """Draw the artists as dots, near ones with similar vectors, and name the most played ones.

    Args:
        vectors: vector of each artist, as the scorer compares them; at least one artist.
        plays: plays of each artist in training.
        names: name of each artist; "" if it has none.
        what: what the vectors are, for the subtitle.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    most_played = np.argsort(-plays, kind="stable")[:NUM_ARTISTS]
    coordinates, shares = pca(vectors[most_played])
    known = labels.letters(fonts := labels.families())
    named = [labels.legible(str(names[artist]), known) for artist in most_played[: 2 * NUM_NAMES]]
    illegible = named[:NUM_NAMES].count(None)
    some = f"the {NUM_ARTISTS:,} most played of " if len(plays) > NUM_ARTISTS else "all "
    subtitle = f"{what} of {some}{len(plays):,} artists seen in training, projected by PCA. Area of a dot: plays."
    if illegible:
        subtitle += f"\nNames left out because no installed font has their letters: {illegible}."
    figure = blank("Artists: similar artists are near each other", subtitle, height=7.0)
    FigureCanvasAgg(figure)  # measures names; without it each name would create a canvas
    figure.subplots_adjust(left=0.05)
    axis = figure.subplots()
    area = 8 + 260 * plays[most_played] / max(plays.max(), 1)
    _set_equal_limits(axis, coordinates)
    is_named = np.zeros(len(area), bool)
    is_named[_draw_names(axis, coordinates, np.sqrt(area), named, fonts)] = True
    for chosen, colour in ((~is_named, GREY), (is_named, BLUE)):
        across, up = coordinates[chosen].T
        axis.scatter(across, up, s=area[chosen], color=colour, alpha=0.45, ec="white", lw=0.4)
    axis.set(xticks=[], yticks=[])
    xlabel, ylabel = (
        f"{name} principal component, {100 * share:.0f} % of the variance"
        for name, share in zip(("first", "second"), shares, strict=True)
    )
    tidy(axis, xlabel=xlabel, ylabel=ylabel)
    save(figure, path)


def _set_equal_limits(axis: "Axes", coordinates: Float[np.ndarray, "A 2"]) -> None:
    """Set limits around the points with the same scale on both axes."""
    low, high = coordinates.min(0), coordinates.max(0)
    box = axis.get_window_extent()
    unit = max(*((high - low) / (box.width, box.height)), 1e-9) * 1.12
    half = unit * np.array((box.width, box.height)) / 2
    (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _draw_names(
    axis: "Axes",
    coordinates: Float[np.ndarray, "A 2"],
    diameters: Float[np.ndarray, "A"],
    names: Sequence[str | None],
    fonts: list[str],
) -> list[int]:
    """Write the first names for which there is room.

    Returns:
        Indices of the named artists.
    """
    from matplotlib.patheffects import withStroke

    figure = axis.figure
    style: dict[str, Any] = {"fontsize": 8, "family": fonts, "parse_math": False, "color": INK}
    chosen, texts = [], []
    for nth, name in enumerate(names):
        if name:
            chosen.append(nth)
            texts.append(axis.text(0, 0, name, **style))
    if not chosen:
        return []
    gap = np.array([2.0, 0.0])  # pixels, on both sides of a name
    boxes = [text.get_window_extent() for text in texts]
    sizes = np.array([(box.width, box.height) for box in boxes]) + 2 * gap
    box = axis.get_window_extent()
    points, radii = axis.transData.transform(coordinates[chosen]), diameters[chosen] / 2 * figure.dpi / 72
    corners = labels.place(points=points, radii=radii, sizes=sizes, area=(box.x0, box.y0, box.x1, box.y1))
    placed = np.flatnonzero(np.isfinite(corners[:, 0]))[:NUM_NAMES].tolist()
    for nth, text in enumerate(texts):
        if nth not in placed:
            text.remove()
    to_data = axis.transData.inverted().transform
    for nth in placed:
        texts[nth].set(va="bottom", ha="left", position=to_data(corners[nth] + gap))
        texts[nth].set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        if (end := labels.leader(points[nth], radii[nth], corners[nth], sizes[nth])) is not None:
            axis.plot(*to_data([points[nth], end]).T, color=INK, lw=0.5)
    return [chosen[nth] for nth in placed]
