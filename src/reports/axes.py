"""The look of the axes of every picture."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def tidy(
    axis: "Axes",
    *,
    hide: tuple[str, ...] = ("top", "right"),
    grid: Literal["x", "y", "both"] | None = None,
    size: float | None = 8,
    legend: bool = False,
    xlabel: str | None = None,
    ylabel: str | None = None,
) -> None:
    """Remove parts of the frame, and set grid, font sizes, legend and labels.

    Args:
        axis: the axes.
        hide: sides of the frame that are removed.
        grid: the axis with grid lines, drawn behind the data; None for no grid.
        size: font size of the tick labels; None keeps matplotlib's size.
        legend: whether a legend is drawn, without a frame.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
    """
    axis.spines[list(hide)].set_visible(False)
    if size is not None:
        axis.tick_params(labelsize=size)
    if grid:
        axis.grid(axis=grid, alpha=0.3)
        axis.set_axisbelow(True)
    if xlabel:
        axis.set_xlabel(xlabel, fontsize=9)
    if ylabel:
        axis.set_ylabel(ylabel, fontsize=9)
    if legend:
        axis.legend(frameon=False, fontsize=8.5)


def plain(text: str) -> str:
    """Escape text so that matplotlib does not read it as a formula."""
    return text.replace("$", "\\$")
