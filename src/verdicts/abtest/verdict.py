"""How the verdict of an A/B test is worded, and what could be wrong with it; every report shows these sentences."""

import numpy as np

from segue.reports.numbers import duration, interval, p_equals, words
from segue.reports.result_table import Table
from segue.statistics.intervals import PercentDifference
from segue.verdicts.abtest.log import GUARDS
from segue.verdicts.abtest.result import Analysis, Effect
from segue.verdicts.abtest.settings import POWER
from segue.verdicts.abtest.slices import DAY_MS, Unfinished, count_unfinished

SHORT_DAYS = 7
"""A log of fewer days cannot show whether weekdays differ, or whether an effect fades."""

_FAILED = {"broken": "is broken", "not shown": "is not shown to hold"}


def bounds(one: PercentDifference | Unfinished) -> str:
    """The interval of an effect."""
    return interval(one.lower_percent, one.upper_percent, "+.1f")


def verdict(analysis: Analysis, treatment: str) -> str:
    """The verdict on a treatment, by the primary metric.

    Args:
        analysis: the result; its `verdicts` are not read.
        treatment: name of the arm.

    Returns:
        One sentence that begins with `better`, `worse`, `no significant difference`, `no test` or `withheld`.
    """
    effect, unfinished = analysis.primary(treatment), analysis.unfinished[treatment]
    control, metric = analysis.users.arms[0], words(analysis.settings.primary)
    size = _size(effect, control)
    if analysis.is_withheld:
        p_value = min(analysis.sample_ratio_p_value, analysis.exposure_p_value)
        return (
            f"withheld: the split of the users over the arms differs from the plan ({p_equals(p_value)}), therefore "
            f"the effect on {metric} ({size}) is not valid"
        )
    if analysis.depends_on_unfinished(treatment):
        return (
            f"withheld: the arms differ in their sessions without a `last` ({p_equals(unfinished.p_value)}), and the "
            f"effect on {metric} ({size}) would be in {bounds(unfinished)} if they had gone on"
        )
    sentence = f"no significant difference from {control} in {metric}: {size}"
    if effect.decision == "no test":
        sentence = f"no test of the difference from {control}: no value of {metric} varies"
    elif effect.decision in ("better", "worse"):
        sentence = f"{effect.decision} than {control} in {metric}: {size}"
    elif np.isfinite(effect.minimal_detectable_percent):
        sentence += (
            f"; with these users, an effect of {effect.minimal_detectable_percent:.1f} % is detected with "
            f"probability {POWER:g}"
        )
    guardrails = [one for one in _guardrails(analysis) if one.treatment == treatment]
    failed = [
        f"guardrail {words(one.metric)} {_FAILED[one.decision]}: {_size(one, control)}, margin {one.margin:g} "
        f"{one.unit}"
        for one in guardrails
        if one.decision in _FAILED
    ]
    if guardrails and not failed:
        failed = ["all guardrails hold" if len(guardrails) > 1 else f"guardrail {words(guardrails[0].metric)} holds"]
    return "; ".join([sentence, *failed])


def _guardrails(analysis: Analysis) -> list[Effect]:
    return [one for one in analysis.effects if one.family == "guardrail" and one.decision != "no test"]


def _size(effect: Effect, control: str) -> str:
    """The effect with its interval; where the control mean is 0, both means, because there is no percent of 0."""
    if not np.isfinite(effect.effect_percent):
        return f"{effect.control_mean:.4g} in {control}, {effect.treatment_mean:.4g} in {effect.treatment}"
    return f"{effect.effect_percent:+.1f} {effect.unit} {bounds(effect.relative)}"


def users_table(analysis: Analysis) -> Table:
    """The users of each arm against the planned split, and what the test of it says."""
    users, num = analysis.users, len(analysis.users.arms)
    counts = np.bincount(users.arm_of, minlength=num), np.bincount(users.arm_of, users.sessions, minlength=num)
    shares = analysis.settings.shares(users.arms), users.exposed / users.exposed.sum()
    of_arms = zip(*shares, users.exposed, *counts, strict=True)
    rows = [
        [arm, *(f"{one:.1%}" for one in (planned, share)), *(f"{one:,.0f}" for one in numbers)]
        for arm, (planned, share, *numbers) in zip(users.arms, of_arms, strict=True)
    ]
    columns = ["arm", "planned share", "share", "users in the log", "users compared", "sessions compared"]
    return Table(columns=columns, rows=rows, align="lrrrrr", notes=[split_sentence(analysis)])


def split_sentence(analysis: Analysis) -> str:
    """What the arms are, if that is known, and whether the split of the users over them agrees with the plan."""
    arms = "".join(f"{arm} is {name}. " for arm, name in analysis.recommenders.items())
    state = "differs from" if analysis.is_withheld else "agrees with"
    return (
        f"{arms}The split of the users over the arms {state} the plan (chi-square test, all users in the log: "
        f"{p_equals(analysis.exposure_p_value)}; users that are compared: {p_equals(analysis.sample_ratio_p_value)})."
    )


def doubts(analysis: Analysis) -> list[str]:
    """What could be wrong, the gravest first; the last sentence names the checks that found nothing."""
    users, length_ms = analysis.users, analysis.users.last_ms - analysis.users.first_ms
    cut_off = ", ".join(f"{arm} {count:,}" for arm, count in count_unfinished(users).items())
    tests = ", ".join(f"{arm}: {p_equals(one.p_value)}" for arm, one in analysis.unfinished.items())
    checks = {
        "split of the users": [
            "The users are not split as planned: some are probably missing in one arm, and the means are not "
            "comparable. Find the cause, or leave out an arm that is no part of the test with arms=."
        ]
        * analysis.is_withheld,
        "unfinished sessions": [
            f"Sessions without a `last`: {cut_off} (test of an equal share, {tests}). Long sessions are cut off more "
            "often than short ones."
        ]
        * bool((~users.each.is_finished).any()),
        "ratio of sums": [
            f"{arm}: the ratio of sums ({one.ratio.effect_percent:+.1f} %) is outside the interval of the mean of "
            "users. Users with many sessions react differently from users with few."
            for arm, one in ((arm, analysis.primary(arm)) for arm in analysis.verdicts)
            if not one.relative.lower_percent <= one.ratio.effect_percent <= one.relative.upper_percent
            and np.isfinite([one.ratio.effect_percent, one.relative.lower_percent]).all()
        ],
        "guardrails": [
            f"{one.treatment}: guardrail {words(one.metric)} {_FAILED[one.decision]}."
            for one in _guardrails(analysis)
            if one.decision in _FAILED
        ],
        "faults of the log": [
            f"{users.guards[name]:,} {rule}."
            for name, rule in GUARDS.items()
            if users.guards.get(name) and name != "sessions_without_end"
        ],
        "length of the log": [
            f"The log covers {duration(length_ms / 1000)}. Less than a week does not show whether weekdays differ, or "
            "whether the effect fades when it is no longer new."
        ]
        * (length_ms < SHORT_DAYS * DAY_MS),
    }
    clean = ", ".join(name for name, lines in checks.items() if not lines)
    peeking = "If the results were looked at before the planned end, the verdict is too optimistic; the interval of the"
    return [
        *(line for lines in checks.values() for line in lines),
        f"{peeking} method `always valid` is not.",
        *[f"Checked, and nothing found: {clean}."] * bool(clean),
    ]
