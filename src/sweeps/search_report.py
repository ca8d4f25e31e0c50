"""The result of a search as a table and a picture."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.reports import palette
from segue.reports.axes import tidy
from segue.runs.atomic import write_whole
from segue.sweeps.search_space import as_typed
from segue.sweeps.search_study import PRUNED, WHY, best_so_far, finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna import Study
    from optuna.trial import FrozenTrial

_COLUMNS = 3
"""Panels in a row."""
_ENOUGH = 10
"""Number of complete trials that the importance of parameters needs."""


def write_table(study: "Study", path: Path) -> Path:
    """Write `search.csv`: number, state, value, epoch of pruning, parameters and error of each finished trial.

    Args:
        study: the study.
        path: file to write.

    Returns:
        `path`.
    """
    trials = finished(study)
    names = sorted({name for trial in trials for name in trial.params})

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(["trial", "state", "value", "pruned_in_epoch", *names, "why"])
            for trial in trials:
                lines.writerow(
                    [
                        trial.number,
                        trial.state.name.lower(),
                        "" if trial.value is None else repr(trial.value),
                        trial.user_attrs.get(PRUNED, ""),
                        *(as_typed(trial.params[name]) if name in trial.params else "" for name in names),
                        trial.user_attrs.get(WHY, ""),
                    ]
                )

    write_whole(path, write)
    return path


def importance(study: "Study") -> dict[str, float]:
    """Share of the variance between complete trials that each parameter explains (fANOVA).

    Args:
        study: the study.

    Returns:
        Shares in [0, 1] of the parameters that all trials have, largest first. Empty with fewer than 10 complete
        trials, or if all have the same value.

    Source:
        Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _ENOUGH or len({trial.value for trial in complete}) == 1:
        return {}
    with warnings.catch_warnings(action="ignore"):
        try:
            shares = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
            )
        except (ValueError, RuntimeError):  # no common parameter, or each has a single value
            return {}
    return {name: share for name, share in shares.items() if np.isfinite(share)}


def draw(study: "Study", path: Path, monitor: str) -> Path:
    """Draw the history of the search, the importance of parameters, and each parameter against the objective.

    Args:
        study: the study.
        path: PNG file to write.
        monitor: name of the objective.

    Returns:
        `path`.
    """
    from matplotlib.figure import Figure

    trials = finished(study)
    names = list(importance(study))
    names += sorted({name for trial in trials for name in trial.params} - set(names))
    rows = max(1, -(-len(names) // _COLUMNS))
    heights = [3.6, 2.6 * rows]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=heights)
    above, below = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    sides = above.add_gridspec(1, 2, width_ratios=[2, 1])
    _draw_history(above.add_subplot(sides[0]), study, trials, monitor)
    _draw_importance(above.add_subplot(sides[1]), study)
    panels = below.subplots(rows, _COLUMNS, squeeze=False, sharey=True).ravel()
    for panel, name in zip(panels, names, strict=False):
        _draw_parameter(panel, study, trials, name)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel in panels[::_COLUMNS]:
        panel.set_ylabel(monitor)
    figure.suptitle(f"Search over {len(trials)} trials: {study.study_name}", fontsize=12, x=0.01, ha="left")
    write_whole(path, lambda partial: figure.savefig(partial, dpi=120))
    return path


def _draw_history(panel: "Axes", study: "Study", trials: "Sequence[FrozenTrial]", monitor: str) -> None:
    from matplotlib.ticker import MaxNLocator

    best = best_so_far(study)
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    pruned = [t for t in trials if t.state.name == "PRUNED" and t.value is not None]
    failed = [t.number for t in trials if t.state.name == "FAIL"]
    _dots(panel, [t.number for t in pruned], pruned, pruned=True, label="pruned")
    _dots(panel, [t.number for t in complete], complete, pruned=False, label="complete")
    if complete and best:
        better = np.maximum if study.direction.name == "MAXIMIZE" else np.minimum
        numbers = [t.number for t in complete]
        values = better.accumulate([float(t.value or 0.0) for t in complete])
        until = trials[-1].number
        panel.step([*numbers, until], [*values, values[-1]], where="post", color=palette.ORANGE, label="best so far")
        _star(panel, best.number, best)
        panel.set_title(f"{monitor} {best.value:.4f} in trial {best.number}", fontsize=10, loc="left")
    if failed:
        bottom = panel.get_xaxis_transform()
        panel.plot(failed, [0.02] * len(failed), "x", color=palette.RED, transform=bottom, label="failed", ms=6)
    panel.set(xlabel="trial", ylabel=monitor)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8, loc="best")
    tidy(panel, grid="y")


def _draw_importance(panel: "Axes", study: "Study") -> None:
    shares = dict(reversed(list(importance(study).items())))
    panel.set_title("share of the variance explained", fontsize=10, loc="left")
    if not shares:
        panel.text(0.5, 0.5, "too few complete trials", ha="center", va="center", color=palette.GREY, fontsize=9)
        panel.set_axis_off()
        return
    panel.barh(list(shares), list(shares.values()), color=palette.BLUE, height=0.6)
    for place, share in enumerate(shares.values()):
        panel.text(share, place, f" {share:.0%}", va="center", fontsize=8)
    panel.set_xlim(0, max(shares.values()) * 1.2 or 1.0)
    panel.set_xticks([])
    panel.tick_params(axis="y", length=0, labelsize=8)
    panel.set_xlabel("parameters that all trials have", fontsize=8, loc="left")
    tidy(panel, hide=("top", "right", "bottom"), grid="y")
    panel.grid(visible=False)


def _draw_parameter(panel: "Axes", study: "Study", trials: "Sequence[FrozenTrial]", name: str) -> None:
    """Draw the values of one parameter against the objective; choices are drawn side by side."""
    having = [t for t in trials if name in t.params and t.value is not None]
    distribution = next(t.distributions[name] for t in trials if name in t.distributions)
    place: dict[Any, float] = {}
    if choices := getattr(distribution, "choices", ()):
        place = {choice: float(number) for number, choice in enumerate(choices)}
        panel.set_xticks(list(place.values()), [str(choice) for choice in choices])
        panel.set_xlim(-0.5, len(choices) - 0.5)
    else:
        _whole_range(panel, distribution)
    for pruned in (True, False):
        some = [t for t in having if (t.state.name == "PRUNED") is pruned]
        _dots(panel, [place.get(t.params[name], t.params[name]) for t in some], some, pruned=pruned)
    best = best_so_far(study)
    if best and name in best.params:
        _star(panel, place.get(best.params[name], best.params[name]), best)
    panel.set_title(name, fontsize=10, loc="left")
    tidy(panel, grid="y")


def _whole_range(panel: "Axes", distribution: Any) -> None:
    from matplotlib.ticker import NullFormatter

    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
        room = max((high / low) ** 0.03, 1.01)
        panel.set_xlim(low / room, high * room)
    else:
        room = 0.03 * (high - low) or 0.5
        panel.set_xlim(low - room, high + room)


def _dots(
    panel: "Axes",
    across: Sequence[float | int],
    trials: "Sequence[FrozenTrial]",
    *,
    pruned: bool,
    label: str | None = None,
) -> None:
    look: dict[str, Any] = {"mfc": "white", "mec": palette.GREY} if pruned else {"color": palette.BLUE, "mec": "white"}
    if trials:
        panel.plot(across, [float(t.value or 0.0) for t in trials], "o", ms=6, mew=1.0, ls="", label=label, **look)


def _star(panel: "Axes", across: float | int, best: "FrozenTrial") -> None:
    panel.plot([across], [float(best.value or 0.0)], "*", ms=14, color=palette.ORANGE, mec="white", zorder=4)
