"""The result of a search as a table and as pictures."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.runs.atomic import write_whole
from segue.sweeps.search_space import as_typed
from segue.sweeps.search_study import PRUNED, WHY, finished

if TYPE_CHECKING:
    from optuna import Study


def write_table(study: "Study", path: Path) -> Path:
    """Write `search.csv`: number, state, value, epoch of pruning, parameters and error of each finished trial.

    Args:
        study: the study.
        path: file to write.

    Returns:
        `path`.
    """
    import pandas as pd

    trials = finished(study)
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": "" if trial.value is None else repr(trial.value),
            "pruned_in_epoch": trial.user_attrs.get(PRUNED, ""),
            **{name: as_typed(value) for name, value in trial.params.items()},
            "why": trial.user_attrs.get(WHY, ""),
        }
        for trial in trials
    ]
    names = sorted({name for trial in trials for name in trial.params})
    frame = pd.DataFrame(rows, columns=["trial", "state", "value", "pruned_in_epoch", *names, "why"])
    write_whole(path, lambda partial: frame.to_csv(partial, index=False))
    return path


def draw(study: "Study", folder: Path, monitor: str) -> list[Path]:
    """Draw, with Optuna, the history of a search, each parameter against the objective, and their importance.

    Args:
        study: the study.
        folder: where `search_<name>.png` are written.
        monitor: name of the objective.

    Returns:
        The files. The importance of parameters (fANOVA) is left out where there are too few trials for it.
    """
    import matplotlib as mpl
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as pictures

    mpl.use("agg")
    kinds: dict[str, Any] = {
        "history": lambda: pictures.plot_optimization_history(study, target_name=monitor),
        "parameters": lambda: pictures.plot_slice(study, target_name=monitor),
        "importance": lambda: pictures.plot_param_importances(study, FanovaImportanceEvaluator(seed=0)),
    }
    paths = []
    with mpl.rc_context(), warnings.catch_warnings(action="ignore"):
        for kind, plot in kinds.items():
            try:
                figure = np.ravel(plot())[0].figure
            except (ValueError, RuntimeError):
                continue
            paths.append(folder / f"search_{kind}.png")
            write_whole(paths[-1], lambda partial, figure=figure: figure.savefig(partial, dpi=120, bbox_inches="tight"))
    return paths
