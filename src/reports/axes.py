"""The look of the axes of every picture."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Grid = Literal["x", "y", "both"] | None


def tidy(axis: "Axes", *, grid: Grid = None, legend: bool = False, xlabel: str = "", ylabel: str = "") -> None:
    """Remove the frame above and on the right, and set font sizes, grid, legend and labels.

    Args:
        grid: the axis with grid lines, drawn behind the data; None for no grid.
        legend: whether a legend is drawn, without a frame.
    """
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    if grid:
        axis.grid(axis=grid, alpha=0.3)
        axis.set_axisbelow(True)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    if legend:
        axis.legend(frameon=False, fontsize=8.5)


def interval(
    axis: "Axes", place: int | float, value: float, bounds: tuple[float, float], colour: str, *, is_clear: bool
) -> None:
    """Draw an interval from left to right, and a dot for its value.

    Args:
        place: height.
        bounds: of the interval; NaN for none.
        is_clear: whether the dot is filled.
    """
    axis.plot(bounds, (place, place), color=colour, lw=2, alpha=0.7, solid_capstyle="butt")
    axis.plot(value, place, "o", color=colour, mfc=colour if is_clear else "white", ms=7, mew=1.6, zorder=3)


def plain(text: str) -> str:
    """Escape text so that matplotlib does not read it as a formula."""
    return text.replace("$", "\\$")
