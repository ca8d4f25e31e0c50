"""A map of the artists: PCA of their vectors, with the names of the most played ones.

A artists, V width of a vector.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64, Shaped

from segue.reports.axes import tidy
from segue.reports.palette import BLUE, GREY, INK
from segue.reports.training_pictures import blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    """All letters that at least one of the fonts has.

    Args:
        fonts: names of font families.
    """
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    files = [findfont(FontProperties(family=[font])) for font in fonts]
    return frozenset(chr(code) for file in files for code in FT2Font(file).get_charmap())


def legible(name: str, known: frozenset[str]) -> str | None:
    """A name as it is drawn: on one line, and shortened if it is long.

    Args:
        name: the name.
        known: letters that can be drawn.

    Returns:
        The drawn name; None if it has a letter that cannot be drawn.

    >>> legible("  Sigur\\n Rós ", frozenset("Sigur Rós"))
    'Sigur Rós'
    """
    name = "".join(letter for letter in " ".join(name.split()) if letter.isprintable())
    name = name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "…"
    return name if set(name) <= known else None


def draw_artists(
    *,
    vectors: Float[np.ndarray, "A V"],
    plays: Int64[np.ndarray, "A"],
    names: Shaped[np.ndarray, "A"],
    what: str,
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
    dots = axis.scatter(*coordinates.T, s=area, alpha=0.45, ec="white", lw=0.4)
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
        axis: the axes, with their limits.
        coordinates: of the dots.
        radii: of the dots, in points.
        names: of the first dots; None or "" for no name.
        fonts: in which they are written.

    Returns:
        Indices of the named artists.
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
                names[dot], coordinates[dot], offset, textcoords="offset points", ha=across, va=up, **style
            )
            box = text.get_window_extent()
            is_inside = axis.bbox.count_contains([box.min, box.max]) == 2
            if is_inside and not box.count_overlaps(taken):
                taken.append(box)
                named.append(dot)
                break
            text.remove()
    return named
