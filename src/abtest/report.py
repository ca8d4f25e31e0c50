"""The report of an A/B test: `abtest.json`, `abtest.md` and `abtest.png`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.abtest.log import GUARDS
from src.abtest.metrics import IN_POINTS
from src.abtest.picture import draw
from src.abtest.result import Analysis, Effect
from src.abtest.unfinished import count_unfinished
from src.runs.atomic import write_record, write_whole
from src.terminal.markdown import escape, provenance_lines, table
from src.terminal.numbers import interval, number


def write_report(analysis: Analysis, folder: Path, provenance: Mapping[str, str]) -> None:
    """Write the three files of the report.

    Args:
        analysis: the result to report.
        folder: where the files go; created if missing.
        provenance: command, commit and versions, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "abtest.png", lambda path: draw(analysis, path))
    write_whole(folder / "abtest.md", lambda path: path.write_text(markdown(analysis, provenance), encoding="utf-8"))
    write_record({**analysis.record(), "provenance": dict(provenance)}, folder / "abtest.json")


def markdown(analysis: Analysis, provenance: Mapping[str, str]) -> str:
    """The report as Markdown: verdicts, effects, an explanation of each column, details and provenance.

    Args:
        analysis: the result to report.
        provenance: command, commit and versions, by name.

    Returns:
        The text of `abtest.md`.
    """
    lines = [f"# A/B test {analysis.users.experiment}", ""]
    lines += [f"- **{arm}**: {verdict}" for arm, verdict in analysis.verdicts.items()]
    explained = explain_columns(analysis)
    rows = [_row(effect) for effect in analysis.effects]
    lines += ["", *table(list(explained), rows, "llrrrrrl")]
    lines += ["", "![effects](abtest.png)"]
    lines += ["", "## Columns", "", *(f"- **{column}**: {meaning}" for column, meaning in explained.items())]
    lines += ["", *_methods(analysis)]
    lines += ["", "## Details", "", *(f"- {sentence}" for sentence in details(analysis))]
    lines += ["", "## Provenance", "", *provenance_lines(provenance)]
    return "\n".join(lines) + "\n"


def _row(effect: Effect) -> list[str]:
    margin = f", margin {effect.margin:g} {effect.unit}" if effect.family == "guardrail" else ""
    bold = "**" if effect.is_good or effect.is_bad else ""
    return [
        escape(effect.treatment),
        f"{effect.metric} ({effect.family}{margin})",
        number(effect.control_mean, ".4g"),
        number(effect.treatment_mean, ".4g"),
        number(effect.effect_percent, "+.2f"),
        interval(effect.relative_lower_percent, effect.relative_upper_percent, "+.2f"),
        number(effect.p_value if effect.holm_significant is None else effect.holm_p_value, ".2g"),
        f"{bold}{effect.decision}{bold}",
    ]


def _methods(analysis: Analysis) -> list[str]:
    """The primary metric by every method: a table, and what each method does."""
    shown = [
        [
            escape(treatment),
            row.method,
            number(row.effect_percent, "+.2f"),
            interval(row.lower_percent, row.upper_percent, "+.2f"),
            number(row.p_value, ".2g"),
        ]
        for treatment, rows in analysis.methods.items()
        for row in rows
    ]
    meanings = {row.method: row.meaning for rows in analysis.methods.values() for row in rows}
    return [
        f"## {analysis.settings.primary} by other methods",
        "",
        *table(["arm", "method", "effect in %", "interval", "p"], shown, "llrrr"),
        "",
        *(f"- {method}: {meaning}." for method, meaning in meanings.items()),
    ]


def explain_columns(analysis: Analysis) -> dict[str, str]:
    """The meaning of each column of the table of effects.

    Args:
        analysis: the result whose table is explained.

    Returns:
        The meaning of each column of `abtest.md`, by its name, in order.
    """
    settings, control = analysis.settings, analysis.users.arms[0]
    has_guardrails = any(effect.family == "guardrail" for effect in analysis.effects)
    in_points = any(effect.metric in IN_POINTS for effect in analysis.effects)
    level = f"{100 * (1 - settings.alpha):g} %"
    return {
        "arm": f"the treatment. Each row compares it with the control, {control}.",
        "metric": f"one value per user. {settings.primary} is the primary metric: the verdict is about it. "
        "Time is the sum of the shares played: 1 is one track played in full. Latency is in milliseconds.",
        "control": f"mean over the users of {control}.",
        "treatment": "mean over the users of the treatment.",
        "effect in %": "difference of the two means, in percent of the control mean"
        + ("; for fallback_percent in percentage points." if in_points else "."),
        "interval": f"{level} interval of the effect (Fieller), which accounts for the uncertainty of the control "
        "mean. "
        + (
            "In a family of several tests its level is higher. It excludes 0 exactly if the effect is significant"
            + (", and the margin of a guardrail exactly if that holds." if has_guardrails else ".")
            if settings.correction
            else "If it excludes 0, the effect is significant."
        ),
        "p": "p-value of the test"
        + (
            f", corrected for the tests of its family (Holm): {_count_tests(analysis)}." if settings.correction else "."
        ),
        "decision": _explain_decisions(analysis),
    }


def _count_tests(analysis: Analysis) -> str:
    families = [one.family for one in analysis.effects if one.decision != "no test"]
    return ", ".join(f"{families.count(family)} {family}" for family in dict.fromkeys(families))


def _explain_decisions(analysis: Analysis) -> str:
    """The meaning of the words that the table has."""
    alpha, words = analysis.settings.alpha, {one.decision for one in analysis.effects}
    meanings = {
        "better or worse": (f"the effect is significant, p is below {alpha:g}.", {"better", "worse"}),
        "not significant": (f"p is {alpha:g} or more.", {"not significant"}),
        "not tested": (
            "secondary metrics are tested only if the primary effect of their arm is significant.",
            {"not tested"},
        ),
        "holds": ("the interval of the guardrail is better than its margin.", {"holds"}),
        "broken": ("the interval of the guardrail is worse than its margin.", {"broken"}),
        "not shown": ("the interval of the guardrail includes its margin.", {"not shown"}),
        "no test": ("all values are equal.", {"no test"}),
    }
    return " ".join(f"{word}: {meaning}" for word, (meaning, needed) in meanings.items() if needed & words)


def details(analysis: Analysis) -> list[str]:
    """Users, what was left out, and the results that the table of effects does not show.

    Args:
        analysis: the result to report.

    Returns:
        A list of sentences; each analysis that is switched on adds its own.
    """
    users = analysis.users
    counts = ", ".join(f"{arm} {int((users.arm_of == number).sum()):,}" for number, arm in enumerate(users.arms))
    lines = [
        f"Users: {counts}; {int(users.sessions.sum()):,} sessions, {users.num_events:,} events. "
        "The user is the unit of analysis."
    ]
    lines += [f"{users.guards[name]:,} {rule}." for name, rule in GUARDS.items() if users.guards.get(name)]
    if analysis.settings.sample_ratio:
        state = "differs from" if analysis.is_withheld else "agrees with"
        lines.append(
            f"The split of the users over the arms {state} the plan (chi-square test, all users in the log: p = "
            f"{analysis.exposure_p_value:.2g}; users that are compared: p = {analysis.sample_ratio_p_value:.2g})."
        )
    lines += _unfinished(analysis)
    for treatment in users.arms[1:]:
        lines += _primary_details(analysis.effect(treatment, analysis.settings.primary), analysis)
    return lines


def _unfinished(analysis: Analysis) -> list[str]:
    if not any(count_unfinished(analysis.users).values()):
        return []
    users = analysis.users
    in_log = np.bincount(users.each.arm_of, minlength=len(users.arms)).tolist()
    counts = ", ".join(
        f"{arm} {count:,} of {total:,}"
        for (arm, count), total in zip(count_unfinished(users).items(), in_log, strict=True)
    )
    tests = ", ".join(f"{arm} p = {one.p_value:.2g}" for arm, one in analysis.unfinished.items())
    return [f"Sessions without a `last`: {counts}. Test that their share is that of {users.arms[0]}: {tests}."]


def _primary_details(effect: Effect, analysis: Analysis) -> list[str]:
    settings, lines = analysis.settings, []
    head = f"{effect.treatment}, {settings.primary}:"
    if not (
        np.isnan(effect.ratio_effect_percent)
        or effect.relative_lower_percent <= effect.ratio_effect_percent <= effect.relative_upper_percent
    ):
        lines.append(
            f"{head} the ratio of sums ({effect.ratio_effect_percent:+.1f} %) is outside the interval of the mean of "
            "users. Users with many sessions react differently from users with few; which of them is the change for?"
        )
    if settings.sizing and effect.users_needed:
        needed = ", ".join(f"{number:,} for {percent} %" for percent, number in effect.users_needed.items())
        lines.append(
            f"{head} with these users, an effect of {effect.minimal_detectable_percent:.1f} % is detected with "
            f"probability {settings.power:g} (power). Users needed in both arms together: {needed}."
        )
    return lines
