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
    """Remove the lines that carry no information, and name what is left.

    Args:
        axis: the axes.
        hide: sides of the frame that are removed.
        grid: along which axis there are faint lines behind what is drawn.
        size: of the numbers along the axes; None leaves matplotlib's.
        legend: whether there is one, without a frame.
        xlabel: what is across.
        ylabel: what is up.
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
    """Text that matplotlib does not read as a formula."""
    return text.replace("$", "\\$")
