"""How the verdict of an A/B test is worded, and what could be wrong with it; every report shows these sentences."""

import numpy as np

from segue.reports.numbers import duration, interval, p_equals, words
from segue.reports.result_table import Table
from segue.verdicts.abtest.log import GUARDS
from segue.verdicts.abtest.result import SRM_ALPHA, Analysis, Effect
from segue.verdicts.abtest.slices import DAY_MS, count_unfinished

SHORT_DAYS = 7
"""A log of fewer days cannot show whether weekdays differ, or whether an effect fades."""

_FAILED = {"broken": "is broken", "not shown": "is not shown to hold"}


def verdict(analysis: Analysis, treatment: str) -> str:
    """The verdict on a treatment, by the primary metric.

    Args:
        analysis: the result; its `verdicts` are not read.
        treatment: name of the arm.

    Returns:
        One sentence that begins with `better`, `worse`, `no significant difference`, `no test` or `withheld`.
    """
    effect, unfinished = analysis.effect(treatment, analysis.settings.primary), analysis.unfinished[treatment]
    control, metric = analysis.users.arms[0], words(analysis.settings.primary)
    size = _size(effect, control)
    if analysis.is_withheld:
        p_value = min(analysis.sample_ratio_p_value, analysis.exposure_p_value)
        return (
            f"withheld: the split of the users over the arms differs from the plan ({p_equals(p_value)}), therefore "
            f"the effect on {metric} ({size}) is not valid"
        )
    if analysis.depends_on_unfinished(treatment):
        between = interval(unfinished.lower_percent, unfinished.upper_percent, "+.1f")
        return (
            f"withheld: the arms differ in their sessions without a `last` ({p_equals(unfinished.p_value)}), and the "
            f"effect on {metric} depends on how these would have ended: {size} "
            f"{'as long as they are in the log' if analysis.users.keeps_unfinished else 'without them'}, between "
            f"{between} if they had gone on"
        )
    sentence = f"no significant difference from {control} in {metric}: {size}"
    if effect.decision == "no test":
        sentence = f"no test of the difference from {control}: no value of {metric} varies"
    elif effect.decision in ("better", "worse"):
        sentence = f"{effect.decision} than {control} in {metric}: {size}"
    elif np.isfinite(effect.minimal_detectable_percent):
        sentence += (
            f"; with these users, an effect of {effect.minimal_detectable_percent:.1f} % is detected with "
            f"probability {analysis.settings.power:g}"
        )
    guardrails = [one for one in _guardrails(analysis) if one.treatment == treatment]
    failed = [
        f"; guardrail {words(one.metric)} {_FAILED[one.decision]}: {_size(one, control)}, margin "
        f"{one.margin:g} {one.unit}"
        for one in guardrails
        if one.decision in _FAILED
    ]
    if guardrails and not failed:
        name = words(guardrails[0].metric)
        failed = ["; all guardrails hold" if len(guardrails) > 1 else f"; guardrail {name} holds"]
    return sentence + "".join(failed)


def _guardrails(analysis: Analysis) -> list[Effect]:
    return [one for one in analysis.effects if one.family == "guardrail" and one.decision != "no test"]


def _size(effect: Effect, control: str) -> str:
    """The effect with its interval; where the control mean is 0, both means, because there is no percent of 0."""
    if not np.isfinite(effect.effect_percent):
        return f"{effect.control_mean:.4g} in {control}, {effect.treatment_mean:.4g} in {effect.treatment}"
    bounds = interval(effect.relative.lower_percent, effect.relative.upper_percent, "+.1f")
    return f"{effect.effect_percent:+.1f} {effect.unit} {bounds}"


def users_table(analysis: Analysis) -> Table:
    """The users of each arm against the planned split."""
    users = analysis.users
    exposed, num_arms = users.exposed, len(users.arms)
    sessions = np.bincount(users.arm_of, users.sessions, minlength=num_arms)
    cells = {
        "arm": users.arms,
        "planned share": [f"{share:.1%}" for share in analysis.settings.shares(users.arms)],
        "share": [f"{share:.1%}" for share in exposed / exposed.sum()],
        "users in the log": [f"{count:,}" for count in exposed],
        "users compared": [f"{count:,}" for count in np.bincount(users.arm_of, minlength=num_arms)],
        "sessions compared": [f"{count:,.0f}" for count in sessions],
    }
    return Table(title="Users", columns=list(cells), rows=list(zip(*cells.values(), strict=True)), align="lrrrrr")


def split_sentence(analysis: Analysis) -> str:
    """What the arms are, if that is known, and whether the split of the users over them agrees with the plan."""
    arms = ", ".join(f"{arm} is {name}" for arm, name in analysis.recommenders.items())
    state = "differs from" if analysis.is_withheld else "agrees with"
    return (
        f"{arms}{'. ' * bool(arms)}The split of the users over the arms {state} the plan (chi-square test, all users "
        f"in the log: {p_equals(analysis.exposure_p_value)}; users that are compared: "
        f"{p_equals(analysis.sample_ratio_p_value)})."
    )


def doubts(analysis: Analysis) -> list[str]:
    """What could be wrong, the gravest first; the last sentences name the checks that found nothing or were not made.

    Returns:
        A list of sentences.
    """
    checks = {
        "split of the users": _split(analysis) if analysis.is_withheld else [],
        "unfinished sessions": _unfinished(analysis),
        "other methods": [line for arm in analysis.verdicts for line in _other_methods(analysis, arm)],
        "change of the effect over time": [
            f"{arm}: the effect changes by {one.effect_percent:+.1f} points "
            f"{interval(one.lower_percent, one.upper_percent, '+.1f')} from the first half of the days to the second "
            f"half ({p_equals(one.p_value)}). What it will be later is not known."
            for arm, one in analysis.changes.items()
            if one.p_value < analysis.settings.alpha
        ],
        "segments": [
            f"{one.treatment}: in the segment {one.split} = {one.part} the effect has the other sign: "
            f"{one.effect_percent:+.1f} % {interval(one.lower_percent, one.upper_percent, '+.1f')}."
            for one in analysis.slices
            if one.significant
            and one.effect_percent * analysis.effect(one.treatment, analysis.settings.primary).effect_percent < 0
        ],
        "guardrails": [
            f"{one.treatment}: guardrail {words(one.metric)} {_FAILED[one.decision]}."
            for one in _guardrails(analysis)
            if one.decision in _FAILED
        ],
        "faults of the log": [
            f"{analysis.users.guards[name]:,} {rule}."
            for name, rule in GUARDS.items()
            if analysis.users.guards.get(name) and name != "sessions_without_end"
        ],
        "length of the log": _length(analysis),
    }
    not_made = {
        "change of the effect over time": not analysis.changes,
        "segments": not analysis.slices,
        "guardrails": not _guardrails(analysis),
    }
    clean = ", ".join(name for name, lines in checks.items() if not lines and not not_made.get(name))
    skipped = ", ".join(name for name, is_skipped in not_made.items() if is_skipped)
    looks = (
        "If the results were looked at before the planned end, the verdict is too optimistic; the interval of the "
        "method `always valid` is not."
    )
    return [
        *(line for lines in checks.values() for line in lines),
        *[looks] * (analysis.settings.always_valid_percent is not None),
        *[f"Checked, and nothing found: {clean}."] * bool(clean),
        *[f"Not checked, because the log or the settings do not allow it: {skipped}."] * bool(skipped),
    ]


def _split(analysis: Analysis) -> list[str]:
    arms = analysis.users.arms
    smallest = arms[1 + int(np.argmin(analysis.users.exposed[1:]))]
    others = ",".join(arm for arm in arms if arm != smallest)
    remedy = f" If {smallest} is no part of the test, leave it out: arms=[{others}]." * (len(arms) > 2)
    return [
        "The users are not split as planned: some are probably missing in one arm, and the means are not comparable. "
        f"Find the cause before you use the numbers.{remedy}"
    ]


def _unfinished(analysis: Analysis) -> list[str]:
    users, counts = analysis.users, count_unfinished(analysis.users)
    if not any(counts.values()):
        return []
    in_log = zip(counts.items(), np.bincount(users.each.arm_of, minlength=len(users.arms)), strict=True)
    shares = ", ".join(f"{arm} {count:,} of {total:,}" for (arm, count), total in in_log)
    tests = ", ".join(f"{arm}: {p_equals(one.p_value)}" for arm, one in analysis.unfinished.items())
    differ = any(one.p_value < SRM_ALPHA for one in analysis.unfinished.values())
    return [
        f"Sessions without a `last`: {shares}. The arms {'differ' if differ else 'do not differ'} in their share at "
        f"the level {SRM_ALPHA:g} ({tests}). Long sessions are cut off more often than short ones; the table of "
        "methods shows what these sessions could change."
    ]


def _other_methods(analysis: Analysis, treatment: str) -> list[str]:
    """Methods that disagree with the verdict on whether there is an effect."""
    primary, *others = analysis.methods[treatment]
    lines = [
        f"{treatment}: the method `{row.method}` disagrees with the verdict: "
        f"{interval(row.lower_percent, row.upper_percent, '+.1f')} %, {row.meaning}."
        for row in others
        if np.isfinite(primary.lower_percent)
        and (row.lower_percent > 0, row.upper_percent < 0) != (primary.lower_percent > 0, primary.upper_percent < 0)
    ]
    effect = analysis.effect(treatment, analysis.settings.primary)
    ratio = effect.ratio.effect_percent
    if ratio < effect.relative.lower_percent or ratio > effect.relative.upper_percent:
        lines.append(
            f"{treatment}: the ratio of sums ({ratio:+.1f} %) is outside the interval of the mean of users. Users with "
            "many sessions react differently from users with few; which of them is the change for?"
        )
    return lines


def _length(analysis: Analysis) -> list[str]:
    users, length_ms = analysis.users, analysis.users.last_ms - analysis.users.first_ms
    busy = np.unique((users.each.started_ms - users.first_ms) // DAY_MS)
    num_days = int(busy.max(initial=-1)) + 1  # without the last day, which may have only ends of sessions
    idle = (
        f"On {num_days - len(busy):,} of the first {num_days:,} days of the log no session began. Check that no part "
        "of the log is missing."
    )
    short = (
        f"The log covers {duration(length_ms / 1000)}. Less than a week does not show whether weekdays differ, or "
        "whether the effect fades when it is no longer new."
    )
    return [*[idle] * (len(busy) < num_days), *[short] * (length_ms < SHORT_DAYS * DAY_MS)]
