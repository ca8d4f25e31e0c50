"""CUPED: variance reduction with data of each unit from before the experiment. U units."""

import numpy as np
from jaxtyping import Float64, Int64


def cuped(
    values: Float64[np.ndarray, "U"], pre_values: Float64[np.ndarray, "U"], arm_of: Int64[np.ndarray, "U"]
) -> tuple[Float64[np.ndarray, "U"], float]:
    """Subtract from the value of each unit what its value before the experiment predicts.

    The slope is pooled within arms, therefore it does not contain the effect. A unit without a value before the
    experiment keeps its value.

    Args:
        values: value of each unit in the experiment, shape `[U]`.
        pre_values: value of each unit before the experiment, shape `[U]`; NaN for units without one.
        arm_of: number of the arm of each unit, shape `[U]`.

    Returns:
        The adjusted values, shape `[U]`, and the share of the variance that is removed, in percent.

    Source: Deng, Xu, Kohavi, Walker, Improving the Sensitivity of Online Controlled Experiments, WSDM 2013.
    """
    known = ~np.isnan(pre_values)
    centred = np.where(known, pre_values - (pre_values[known].mean() if known.any() else 0.0), 0.0)
    outcome, covariate = values.astype(np.float64), centred.copy()
    for arm in np.unique(arm_of):
        outcome[arm_of == arm] -= outcome[arm_of == arm].mean()
        covariate[arm_of == arm] -= covariate[arm_of == arm].mean()
    spread = float(covariate @ covariate)
    slope = float(outcome @ covariate) / spread if spread > 0 else 0.0
    residual = outcome - slope * covariate
    total = float(outcome @ outcome)
    return values - slope * centred, 100 * (1 - float(residual @ residual) / total) if total > 0 else 0.0
