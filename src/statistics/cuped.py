"""CUPED: less variance through what is known of each unit from before the experiment. U units."""

import numpy as np
from jaxtyping import Float64, Int64


def cuped(
    values: Float64[np.ndarray, "U"], earlier: Float64[np.ndarray, "U"], arm_of: Int64[np.ndarray, "U"]
) -> tuple[Float64[np.ndarray, "U"], float]:
    """Subtract from each unit's value what its earlier value predicts.

    `earlier` is NaN for units that were not there; they are given the mean of the others, which changes nothing.
    Returns the values and the share of the variance that is removed, in percent. The slope is pooled within arms, so
    that an effect does not leak into it. Source: Deng, Xu, Kohavi, Walker, WSDM 2013.
    """
    known = ~np.isnan(earlier)
    centred = np.where(known, earlier - (earlier[known].mean() if known.any() else 0.0), 0.0)
    own, before = values.astype(np.float64), centred.copy()
    for arm in np.unique(arm_of):
        own[arm_of == arm] -= own[arm_of == arm].mean()
        before[arm_of == arm] -= before[arm_of == arm].mean()
    spread = float(before @ before)
    slope = float(own @ before) / spread if spread > 0 else 0.0
    left = own - slope * before
    total = float(own @ own)
    return values - slope * centred, 100 * (1 - float(left @ left) / total) if total > 0 else 0.0
