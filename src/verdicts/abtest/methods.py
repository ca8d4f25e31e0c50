"""The effect on the primary metric by every method: the one of the verdict, and others to check it against."""

from dataclasses import astuple

import numpy as np

from segue.verdicts.abtest.result import Analysis, Method

_NONE = float("nan")

_UNCORRECTED = ", and it has no correction for several treatments"


def methods(analysis: Analysis, treatment: str) -> list[Method]:
    """The rows of the table of methods.

    Args:
        analysis: the result; its `methods` are not read.
        treatment: name of the arm.

    Returns:
        A row for each method, the one of the verdict first; other methods that gave no number are left out. Each
        interval excludes 0 exactly if the p-value of its row is below alpha.
    """
    settings, unfinished = analysis.settings, analysis.unfinished[treatment]
    effect = analysis.effect(treatment, settings.primary)
    factor = float(settings.alpha) / (1 - effect.level)  # p-values agree with the intervals, if there are several arms
    p_value = effect.p_value if np.isnan(effect.holm_p_value) else effect.holm_p_value
    rows = [
        _method(
            "mean of users",
            (effect.effect_percent, effect.relative_lower_percent, effect.relative_upper_percent, p_value),
            "the verdict: the difference of the user means with Fieller's interval, which accounts for the "
            "uncertainty of the control mean",
        ),
        _method(
            "the sheet",
            (effect.effect_percent, effect.lower_percent, effect.upper_percent, effect.p_value),
            "the interval of the sheet of 2023 (Welch), which treats the control mean as a constant: it is too "
            f"narrow if there is an effect{_UNCORRECTED * (len(analysis.users.arms) > 2)}",
        ),
        _method(
            "ratio of sums",
            (
                effect.ratio_effect_percent,
                effect.ratio_lower_percent,
                effect.ratio_upper_percent,
                _at_most_1(factor * effect.ratio_p_value),
            ),
            "all time over all sessions, or the like (delta method): users with many sessions count more. It "
            "differs from the mean of users if these users react differently",
        ),
        _method(
            "CUPED",
            (
                effect.cuped_effect_percent,
                effect.cuped_lower_percent,
                effect.cuped_upper_percent,
                _at_most_1(factor * effect.cuped_p_value),
            ),
            "subtracts what each user's behaviour before the experiment predicts; it removes "
            f"{effect.cuped_variance_saved_percent:.0f} % of the variance",
        ),
        _method(
            "bootstrap",
            (effect.effect_percent, effect.bootstrap_lower_percent, effect.bootstrap_upper_percent, _NONE),
            f"{settings.bootstrap_rounds:,} rounds over users; it makes no assumption about the distribution of the "
            "values",
        ),
        _method(
            "always valid",
            (effect.effect_percent, effect.always_valid_lower_percent, effect.always_valid_upper_percent, _NONE),
            "stays valid if the test is analysed repeatedly while it runs (mixture sequential test)",
        ),
    ]
    if unfinished.kept is not None:
        rows += [
            _method(
                "unfinished kept",
                (*astuple(unfinished.kept)[:3], _at_most_1(factor * unfinished.kept.p_value)),
                "sessions without a `last` count with the length that they have in the log",
            ),
            _method(
                "unfinished, bounds",
                (_NONE, unfinished.lower_percent, unfinished.upper_percent, _NONE),
                "the same, if those of one arm had become as long as the longest session of the log: those of one arm "
                "for the lower bound (of time the control), those of the other for the upper bound",
            ),
        ]
    return [row for row in rows if row is rows[0] or np.isfinite(row.lower_percent)]


def _method(method: str, numbers: tuple[float, float, float, float], meaning: str) -> Method:
    """A row from its numbers: effect, lower and upper bound, p-value."""
    effect_percent, lower_percent, upper_percent, p_value = numbers
    return Method(
        method=method,
        effect_percent=effect_percent,
        lower_percent=lower_percent,
        upper_percent=upper_percent,
        p_value=p_value,
        meaning=meaning,
    )


def _at_most_1(p_value: float) -> float:
    """A corrected p-value; NaN stays NaN."""
    return float(np.minimum(p_value, 1.0))
