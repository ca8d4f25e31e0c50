"""What could be wrong with an A/B test: the findings of every check, in plain sentences."""

import numpy as np

from segue.reports.numbers import duration, interval, p_equals, words
from segue.reports.result_table import Table
from segue.verdicts.abtest.log import GUARDS
from segue.verdicts.abtest.result import SRM_ALPHA, Analysis
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.unfinished import count_unfinished

SHORT_DAYS = 7
"""A log of fewer days cannot show whether weekdays differ, or whether an effect fades."""


def users_table(analysis: Analysis) -> Table:
    """The users of each arm against the planned split.

    It has of each arm its name, planned share, users in the log and their share, users that are compared, and sessions.

    Args:
        analysis: the result.
    """
    users = analysis.users
    planned, num_users = analysis.settings.shares(users.arms), np.bincount(users.arm_of, minlength=len(users.arms))
    shares = users.exposed / users.exposed.sum()
    sessions = np.bincount(users.arm_of, users.sessions, minlength=len(users.arms)).astype(np.int64)
    cells = {
        "arm": list(users.arms),
        "planned share": [f"{share:.1%}" for share in planned.tolist()],
        "share": [f"{share:.1%}" for share in shares.tolist()],
        "users in the log": [f"{count:,}" for count in users.exposed.tolist()],
        "users compared": [f"{count:,}" for count in num_users.tolist()],
        "sessions compared": [f"{count:,}" for count in sessions.tolist()],
    }
    return Table(title="Users", columns=list(cells), rows=list(zip(*cells.values(), strict=True)), align="lrrrrr")


def split_sentence(analysis: Analysis) -> str:
    """What the arms are, if that is known, and whether the split of the users over them agrees with the plan."""
    arms = ", ".join(f"{arm} is {name}" for arm, name in analysis.recommenders.items())
    return f"{arms}. {_split_test(analysis)}" if arms else _split_test(analysis)


def _split_test(analysis: Analysis) -> str:
    if not analysis.settings.sample_ratio:
        return "The split of the users is not tested, because analysis.sample_ratio=false."
    state = "differs from" if analysis.is_withheld else "agrees with"
    return (
        f"The split of the users over the arms {state} the plan (chi-square test, all users in the log: "
        f"{p_equals(analysis.exposure_p_value)}; users that are compared: {p_equals(analysis.sample_ratio_p_value)})."
    )


def doubts(analysis: Analysis) -> list[str]:
    """What could be wrong, the gravest first; the last sentences name the checks that found nothing or were not made.

    Args:
        analysis: the result.

    Returns:
        A list of sentences.
    """
    has_guardrails = any(one.family == "guardrail" and one.decision != "no test" for one in analysis.effects)
    checks = {
        "split of the users": _split(analysis) if analysis.settings.sample_ratio else None,
        "unfinished sessions": _unfinished(analysis),
        "other methods": [line for arm in analysis.verdicts for line in _other_methods(analysis, arm)],
        "change of the effect over time": _changes(analysis) if analysis.changes else None,
        "segments": _segments(analysis) if analysis.slices else None,
        "guardrails": _guardrails(analysis) if has_guardrails else None,
        "faults of the log": [
            f"{analysis.users.guards[name]:,} {rule}."
            for name, rule in GUARDS.items()
            if analysis.users.guards.get(name) and name != "sessions_without_end"
        ],
        "length of the log": _length(analysis),
    }
    found = [line for lines in checks.values() for line in lines or []]
    clean = [name for name, lines in checks.items() if lines == []]
    skipped = [name for name, lines in checks.items() if lines is None]
    return [
        *found,
        *_repeated_looks(analysis),
        *[f"Checked, and nothing found: {', '.join(clean)}."] * bool(clean),
        *[f"Not checked, because the log or the settings do not allow it: {', '.join(skipped)}."] * bool(skipped),
    ]


def _split(analysis: Analysis) -> list[str]:
    if not analysis.is_withheld:
        return []
    arms, exposed = analysis.users.arms, analysis.users.exposed
    smallest = arms[1 + int(np.argmin(exposed[1:]))]
    others = ",".join(arm for arm in arms if arm != smallest)
    remedy = f" If {smallest} is no part of the test, leave it out: arms=[{others}]." if len(arms) > 2 else ""
    return [
        "The users are not split as planned: some are probably missing in one arm, and the means are not comparable. "
        f"Find the cause before you use the numbers.{remedy}"
    ]


def _unfinished(analysis: Analysis) -> list[str]:
    users, counts = analysis.users, count_unfinished(analysis.users)
    if not any(counts.values()):
        return []
    in_log = np.bincount(users.each.arm_of, minlength=len(users.arms)).tolist()
    shares = ", ".join(
        f"{arm} {count:,} of {total:,}" for (arm, count), total in zip(counts.items(), in_log, strict=True)
    )
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
    lines = []
    for row in others if np.isfinite(primary.lower_percent) else []:
        if (row.lower_percent > 0, row.upper_percent < 0) != (primary.lower_percent > 0, primary.upper_percent < 0):
            bounds = interval(row.lower_percent, row.upper_percent, "+.1f")
            lines.append(
                f"{treatment}: the method `{row.method}` disagrees with the verdict: {bounds} %, {row.meaning}."
            )
    effect = analysis.effect(treatment, analysis.settings.primary)
    ratio = effect.ratio_effect_percent
    if ratio < effect.relative_lower_percent or ratio > effect.relative_upper_percent:
        lines.append(
            f"{treatment}: the ratio of sums ({ratio:+.1f} %) is outside the interval of the mean of users. Users with "
            "many sessions react differently from users with few; which of them is the change for?"
        )
    return lines


def _segments(analysis: Analysis) -> list[str]:
    primary = {arm: analysis.effect(arm, analysis.settings.primary).effect_percent for arm in analysis.verdicts}
    return [
        f"{one.treatment}: in the segment {one.split} = {one.part} the effect has the other sign: "
        f"{one.effect_percent:+.1f} % {interval(one.lower_percent, one.upper_percent, '+.1f')}."
        for one in analysis.slices
        if one.significant and one.effect_percent * primary[one.treatment] < 0
    ]


def _changes(analysis: Analysis) -> list[str]:
    return [
        f"{arm}: the effect changes by {one.effect_percent:+.1f} points "
        f"{interval(one.lower_percent, one.upper_percent, '+.1f')} from the first half of the days to the second half "
        f"({p_equals(one.p_value)}). What it will be later is not known."
        for arm, one in analysis.changes.items()
        if one.p_value < analysis.settings.alpha
    ]


def _guardrails(analysis: Analysis) -> list[str]:
    outcomes = {"broken": "is broken", "not shown": "is not shown to hold"}
    return [
        f"{one.treatment}: guardrail {words(one.metric)} {outcomes[one.decision]}."
        for one in analysis.effects
        if one.family == "guardrail" and one.decision in outcomes
    ]


def _length(analysis: Analysis) -> list[str]:
    users = analysis.users
    days = (users.last_ms - users.first_ms) / DAY_MS
    busy = np.unique((users.each.started_ms - users.first_ms) // DAY_MS)
    num_days = int(busy.max(initial=-1)) + 1  # without the last day, which may have only ends of sessions
    idle = [
        f"On {num_days - len(busy):,} of the first {num_days:,} days of the log no session began. Check that no part "
        "of the log is missing."
    ] * (len(busy) < num_days)
    if days >= SHORT_DAYS:
        return idle
    return [
        *idle,
        f"The log covers {duration((users.last_ms - users.first_ms) / 1000)}. Less than a week does not show whether "
        "weekdays differ, or whether the effect fades when it is no longer new.",
    ]


def _repeated_looks(analysis: Analysis) -> list[str]:
    if analysis.settings.always_valid_percent is None:
        return []
    return [
        "If the results were looked at before the planned end, the verdict is too optimistic; the interval of the "
        "method `always valid` is not."
    ]
