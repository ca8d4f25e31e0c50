"""How the verdict of an A/B test is worded; every report shows this sentence."""

import numpy as np

from src.abtest.result import Analysis


def verdict(analysis: Analysis, treatment: str) -> str:
    """One sentence on a treatment, by the primary metric: withheld, better, worse, or no difference shown."""
    effect, settings = analysis.effect(treatment, analysis.settings.primary), analysis.settings
    control = analysis.users.arms[0]
    size = f"{effect.effect_percent:+.1f} % [{effect.lower_percent:+.1f}, {effect.upper_percent:+.1f}]"
    if analysis.is_withheld:
        return (
            f"withheld: users do not split over the arms as planned (p = {analysis.sample_ratio_p_value:.2g}), "
            f"so {settings.primary} {size} cannot be believed"
        )
    if effect.is_sure:
        word = "better" if effect.is_better else "worse"
        return f"{word} than {control}: {settings.primary} {size}"
    found = f"; an effect of {effect.minimal_detectable_percent:.1f} % would probably have been found"
    return f"no difference from {control} is shown: {settings.primary} {size}" + (
        found if settings.sizing and np.isfinite(effect.minimal_detectable_percent) else ""
    )
