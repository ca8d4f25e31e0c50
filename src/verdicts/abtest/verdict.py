"""How the verdict of an A/B test is worded; every report shows this sentence."""

import numpy as np

from segue.reports.numbers import interval, p_equals, words
from segue.verdicts.abtest.result import Analysis, Effect


def verdict(analysis: Analysis, treatment: str) -> str:
    """The verdict on a treatment, by the primary metric.

    Args:
        analysis: the result; its `verdicts` are not read.
        treatment: name of the arm.

    Returns:
        One sentence that begins with `better`, `worse`, `no significant difference`, `no test` or `withheld`.
    """
    effect, settings = analysis.effect(treatment, analysis.settings.primary), analysis.settings
    control, metric = analysis.users.arms[0], words(analysis.settings.primary)
    size = _size(effect, control)
    if analysis.is_withheld:
        p_value = min(analysis.sample_ratio_p_value, analysis.exposure_p_value)
        return (
            f"withheld: the split of the users over the arms differs from the plan ({p_equals(p_value)}), therefore "
            f"the effect on {metric} ({size}) is not valid"
        )
    if analysis.depends_on_unfinished(treatment):
        unfinished = analysis.unfinished[treatment]
        between = interval(unfinished.lower_percent, unfinished.upper_percent, "+.1f")
        return (
            f"withheld: the arms differ in their sessions without a `last` ({p_equals(unfinished.p_value)}), and the "
            f"effect on {metric} depends on how these would have ended: {size} "
            f"{'as long as they are in the log' if analysis.users.keeps_unfinished else 'without them'}, between "
            f"{between} if they had gone on"
        )
    if effect.decision == "no test":
        sentence = f"no test of the difference from {control}: no value of {metric} varies"
        return sentence + _guardrails(analysis, treatment)
    if effect.decision in ("better", "worse"):
        return f"{effect.decision} than {control} in {metric}: {size}{_guardrails(analysis, treatment)}"
    sentence = f"no significant difference from {control} in {metric}: {size}"
    if settings.sizing and np.isfinite(effect.minimal_detectable_percent):
        sentence += (
            f"; with these users, an effect of {effect.minimal_detectable_percent:.1f} % is detected with "
            f"probability {settings.power:g}"
        )
    return sentence + _guardrails(analysis, treatment)


def _size(effect: Effect, control: str) -> str:
    """The effect with its interval; where the control mean is 0, both means, because there is no percent of 0."""
    if not np.isfinite(effect.effect_percent):
        return f"{effect.control_mean:.4g} in {control}, {effect.treatment_mean:.4g} in {effect.treatment}"
    bounds = interval(effect.relative_lower_percent, effect.relative_upper_percent, "+.1f")
    return f"{effect.effect_percent:+.1f} {effect.unit} {bounds}"


def _guardrails(analysis: Analysis, treatment: str) -> str:
    """What follows in the sentence: that all guardrails hold, or each that does not."""
    tested = [
        one
        for one in analysis.effects
        if (one.treatment, one.family) == (treatment, "guardrail") and one.decision != "no test"
    ]
    outcomes = {"broken": "is broken", "not shown": "is not shown to hold"}
    failed = [
        f"; guardrail {words(one.metric)} {outcomes[one.decision]}: {_size(one, analysis.users.arms[0])}, margin "
        f"{one.margin:g} {one.unit}"
        for one in tested
        if one.decision != "holds"
    ]
    if tested and not failed:
        return f"; {'all guardrails hold' if len(tested) > 1 else f'guardrail {words(tested[0].metric)} holds'}"
    return "".join(failed)
