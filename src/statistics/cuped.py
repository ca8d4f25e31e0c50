"""CUPED: variance reduction with data of each unit from before the experiment. U units."""

import numpy as np
from jaxtyping import Bool, Float64

from segue.statistics.intervals import GroupSummary, PercentDifference, fieller


def cuped(
    values: Float64[np.ndarray, "U"],
    pre_values: Float64[np.ndarray, "U"],
    is_treated: Bool[np.ndarray, "U"],
    alpha: float,
) -> tuple[PercentDifference, float]:
    """The relative difference after what each unit did before the experiment is subtracted from its value.

    The slope is pooled within the groups, therefore it does not contain the effect. A unit without a value before the
    experiment keeps its value. Both means contain the mean of the period before, which is estimated from the units of
    both groups: they are correlated.

    Args:
        values: value of each unit in the experiment, shape `[U]`.
        pre_values: value of each unit before the experiment, shape `[U]`; NaN for units without one.
        is_treated: whether each unit is in the treatment group, shape `[U]`.
        alpha: the interval has level 1 − alpha; in (0, 1).

    Returns:
        The difference with Fieller's interval, and the share of the variance that is removed, in percent.

    Source: Deng, Xu, Kohavi, Walker, Improving the Sensitivity of Online Controlled Experiments, WSDM 2013.
    """
    known, groups = ~np.isnan(pre_values), (~is_treated, is_treated)
    centred = np.where(known, pre_values - (pre_values[known].mean() if known.any() else 0.0), 0.0)
    outcome, covariate = values.astype(np.float64), centred.copy()
    for group in groups:
        outcome[group] -= outcome[group].mean()
        covariate[group] -= covariate[group].mean()
    spread, total = float(covariate @ covariate), float(outcome @ outcome)
    slope = float(outcome @ covariate) / spread if spread > 0 else 0.0
    residual, adjusted = outcome - slope * covariate, values - slope * centred
    summaries, errors = [], []
    for group in groups:
        num = int(group.sum())
        # what each unit adds to the error of the mean: its residual, and its part of the mean before
        error = np.where(group, residual / (num * (num - 1)) ** 0.5, 0.0)
        error += slope * known[group].mean() * centred / max(1, known.sum())
        errors.append(error)
        summaries.append(GroupSummary(num=num, mean=float(adjusted[group].mean()), variance=float(error @ error) * num))
    effect = fieller(summaries[0], summaries[1], alpha, float(errors[0] @ errors[1]))
    return effect, 100 * (1 - float(residual @ residual) / total) if total > 0 else 0.0
