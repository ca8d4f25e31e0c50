"""CUPED: variance reduction with data of each unit from before the experiment. U units."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from segue.statistics.intervals import GroupSummary, PercentDifference, fieller


@dataclass(frozen=True, kw_only=True)
class Cuped:
    """Two groups after what each unit did before the experiment is subtracted.

    Both means contain the mean of the period before, which is estimated from the units of both groups. Therefore they
    are correlated.

    Args:
        control: summary of the adjusted values of the control.
        treatment: summary of the adjusted values of the treatment.
        covariance: of the two means.
        saved_percent: share of the variance that is removed, in percent.
    """

    control: GroupSummary
    treatment: GroupSummary
    covariance: float
    saved_percent: float

    def difference(self, alpha: float) -> PercentDifference:
        """The relative difference with Fieller's interval.

        Args:
            alpha: the interval has level 1 − alpha; in (0, 1).
        """
        return fieller(self.control, self.treatment, alpha, self.covariance)


def cuped(
    values: Float64[np.ndarray, "U"], pre_values: Float64[np.ndarray, "U"], is_treated: Bool[np.ndarray, "U"]
) -> Cuped:
    """Subtract from the value of each unit what its value before the experiment predicts.

    The slope is pooled within the groups, therefore it does not contain the effect. A unit without a value before the
    experiment keeps its value.

    Args:
        values: value of each unit in the experiment, shape `[U]`.
        pre_values: value of each unit before the experiment, shape `[U]`; NaN for units without one.
        is_treated: whether each unit is in the treatment group, shape `[U]`.

    Source: Deng, Xu, Kohavi, Walker, Improving the Sensitivity of Online Controlled Experiments, WSDM 2013.
    """
    known, groups = ~np.isnan(pre_values), (~is_treated, is_treated)
    centred = np.where(known, pre_values - (pre_values[known].mean() if known.any() else 0.0), 0.0)
    outcome, covariate = values.astype(np.float64), centred.copy()
    for group in groups:
        outcome[group] -= outcome[group].mean()
        covariate[group] -= covariate[group].mean()
    spread = float(covariate @ covariate)
    slope = float(outcome @ covariate) / spread if spread > 0 else 0.0
    residual, adjusted = outcome - slope * covariate, values - slope * centred
    # what each unit adds to the error of each mean: its residual in its own group, and its part of the mean before
    errors = [
        np.where(group, residual / group.sum() * (group.sum() / (group.sum() - 1)) ** 0.5, 0.0)
        + slope * known[group].mean() * centred / max(1, known.sum())
        for group in groups
    ]
    sizes, means = [int(group.sum()) for group in groups], [float(adjusted[group].mean()) for group in groups]
    control, treatment = (
        GroupSummary(num=num, mean=mean, variance=float(error @ error) * num)
        for num, mean, error in zip(sizes, means, errors, strict=True)
    )
    total, covariance = float(outcome @ outcome), float(errors[0] @ errors[1])
    saved_percent = 100 * (1 - float(residual @ residual) / total) if total > 0 else 0.0
    return Cuped(control=control, treatment=treatment, covariance=covariance, saved_percent=saved_percent)
