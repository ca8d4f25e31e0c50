"""Names beside the dots of a picture: which letters can be drawn, and where a name covers nothing.

L labels, the most important first. Boxes and points are in pixels.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
)
"""Used, if installed, for letters that DejaVu Sans lacks. matplotlib ships DejaVu Sans."""

LONGEST = 28
"""Length of a drawn name, in letters."""

_NEAR, _STEP, _RINGS = 3.0, 13.0, 4
_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)])

_Box = tuple[float, float, float, float]
"""Left, bottom, right and top edge."""


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


def place(
    *,
    points: Float[np.ndarray, "L 2"],
    radii: Float[np.ndarray, "L"],
    sizes: Float[np.ndarray, "L 2"],
    area: tuple[float, float, float, float],
) -> Float[np.ndarray, "L 2"]:
    """Place labels so that they cover no dot, no other label and no leader line.

    Each label takes the first free place of 8 around its dot, then of 8 places farther away, and so on.

    Args:
        points: the labelled points.
        radii: radii of the dots at these points.
        sizes: width and height of each label.
        area: left, bottom, right and top edge of the area for labels.

    Returns:
        Lower left corner of each label; NaN if there is no place for it.
    """
    corners = np.full(points.shape, np.nan)
    written: list[_Box] = []
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(points, radii, strict=True)]
    for nth, (point, radius, size) in enumerate(zip(points, radii, sizes, strict=True)):
        for corner in _corners(point, radius, size):
            box = (*corner, *(corner + size))
            inside = box[0] >= area[0] and box[1] >= area[1] and box[2] <= area[2] and box[3] <= area[3]
            if not inside or any(_overlap(box, other) for other in taken):
                continue
            line = _along(point, leader(point, radius, corner, size))
            if not any(_overlap(spot, label) for spot in line for label in written):
                corners[nth] = corner
                written.append(box)
                taken += [box, *line]
                break
    return corners


def leader(
    point: Float[np.ndarray, "2"], radius: float, corner: Float[np.ndarray, "2"], size: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "2"] | None:
    """The end of the line from a dot to its label.

    Args:
        point: centre of the dot.
        radius: radius of the dot.
        corner: lower left corner of the label.
        size: width and height of the label.

    Returns:
        The point of the label that is nearest to the dot; None if the label is beside the dot and needs no line.
    """
    end = point.clip(corner, corner + size)
    return end if np.hypot(*(end - point)) > radius + _NEAR + 1 else None


def _corners(
    point: Float[np.ndarray, "2"], radius: float, size: Float[np.ndarray, "2"]
) -> Iterator[Float[np.ndarray, "2"]]:
    """Possible corners of a label, the best ones first."""
    for ring in range(_RINGS):
        for direction in _DIRECTIONS:
            away = (radius + _NEAR + ring * _STEP) * (0.75 if direction.all() else 1)
            yield point + direction * away - size * (1 - direction) / 2


def _along(start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"] | None) -> list[_Box]:
    """Small boxes along a line."""
    spots = () if end is None else start + np.linspace(0, 1, 9)[:, None] * (end - start)
    return [(x - 1, y - 1, x + 1, y + 1) for x, y in spots]


def _overlap(one: _Box, other: _Box) -> bool:
    return bool(one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])
