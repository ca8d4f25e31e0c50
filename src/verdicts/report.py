"""The report of an A/B test: `abtest.json`, `abtest.md`, `abtest.html` and `abtest.png`."""

from collections.abc import Mapping
from pathlib import Path

from segue.reports.markdown import escape, provenance_lines, table
from segue.reports.numbers import interval, number, p_equals, p_value, words
from segue.runs.atomic import write_record, write_whole
from segue.verdicts.doubts import doubts, exposures, split_sentence
from segue.verdicts.metrics import IN_POINTS, unit_of
from segue.verdicts.page import html_page
from segue.verdicts.picture import draw
from segue.verdicts.result import Analysis, Effect
from segue.verdicts.slices import LEAST_USERS

FILES = ("abtest.md", "abtest.html", "abtest.png", "abtest.json")
"""The files of a report."""


def write_report(analysis: Analysis, folder: Path, provenance: Mapping[str, str]) -> None:
    """Write the files of the report.

    Args:
        analysis: the result to report.
        folder: where the files go; created if missing.
        provenance: command, commit and versions, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "abtest.png", lambda path: draw(analysis, path))
    text = markdown(analysis, provenance)
    page = html_page(text, _title(analysis), {"abtest.png": (folder / "abtest.png").read_bytes()})
    write_whole(folder / "abtest.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_whole(folder / "abtest.html", lambda path: path.write_text(page, encoding="utf-8"))
    write_record({**analysis.record(), "provenance": dict(provenance)}, folder / "abtest.json")


def markdown(analysis: Analysis, provenance: Mapping[str, str]) -> str:
    """The report as Markdown: a page for readers in a hurry, then the details.

    The page has the users of each arm against the plan, the verdict, the effects, and what could be wrong.

    Args:
        analysis: the result to report.
        provenance: command, commit and versions, by name.

    Returns:
        The text of `abtest.md`.
    """
    users, explained = exposures(analysis), explain_columns(analysis)
    lines = [f"# {_title(analysis)}", "", "## Users", ""]
    lines += [*table(list(users), zip(*users.values(), strict=True), "lrrrrr"), "", split_sentence(analysis)]
    lines += ["", "## Verdict", ""]
    lines += [f"- **{arm}**: {verdict}" for arm, verdict in analysis.verdicts.items()]
    lines += ["", "## Effects", ""]
    lines += [
        *table(list(explained), [_row(one, analysis.withholds(one.treatment)) for one in analysis.effects], "llrrrrrl")
    ]
    lines += ["", "## What could be wrong", "", *(f"- {sentence}" for sentence in doubts(analysis))]
    lines += ["", "![effects](abtest.png)"]
    lines += ["", *_methods(analysis)]
    lines += _slices(analysis)
    lines += ["", "## Columns", "", *(f"- **{column}**: {meaning}" for column, meaning in explained.items())]
    lines += ["", "## Details", "", *(f"- {sentence}" for sentence in details(analysis))]
    lines += ["", "## Provenance", "", *provenance_lines(provenance)]
    return "\n".join(lines) + "\n"


def _title(analysis: Analysis) -> str:
    return f"A/B test {analysis.users.experiment}"


def _row(effect: Effect, withheld: bool) -> list[str]:
    margin = f", margin {effect.margin:g} {effect.unit}" if effect.family == "guardrail" else ""
    bold = "**" if (effect.is_good or effect.is_bad) and not withheld else ""
    return [
        escape(effect.treatment),
        f"{words(effect.metric)} ({effect.family}{margin})",
        number(effect.control_mean, ".4g"),
        number(effect.treatment_mean, ".4g"),
        number(effect.effect_percent, "+.2f"),
        interval(effect.relative_lower_percent, effect.relative_upper_percent, "+.2f"),
        p_value(effect.p_value if effect.holm_significant is None else effect.holm_p_value),
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
            p_value(row.p_value),
        ]
        for treatment, rows in analysis.methods.items()
        for row in rows
    ]
    meanings = {row.method: row.meaning for rows in analysis.methods.values() for row in rows}
    return [
        f"## {words(analysis.settings.primary).capitalize()} by other methods",
        "",
        *table(["arm", "method", _effect_in(analysis), "interval", "p"], shown, "llrrr"),
        "",
        *(f"- {method}: {meaning}." for method, meaning in meanings.items()),
    ]


def _effect_in(analysis: Analysis) -> str:
    """Name of a column of effects on the primary metric."""
    return f"effect in {unit_of(analysis.settings.primary)}"


def _slices(analysis: Analysis) -> list[str]:
    """The primary metric by day and by segment."""
    if not analysis.slices:
        return []
    rows = [
        [
            escape(one.treatment),
            one.split,
            one.part,
            f"{one.control_users:,}",
            f"{one.treatment_users:,}",
            number(one.effect_percent, "+.2f"),
            interval(one.lower_percent, one.upper_percent, "+.2f"),
            p_value(one.holm_p_value),
        ]
        for one in analysis.slices
    ]
    head = ["arm", "split by", "part", "control users", "treatment users", _effect_in(analysis), "interval", "p"]
    changed = [
        f"- {arm}: from the first half of the days to the second half, the effect changes by {one.effect_percent:+.1f} "
        f"points {interval(one.lower_percent, one.upper_percent, '+.1f')} ({p_equals(one.p_value)})."
        for arm, one in analysis.changes.items()
    ]
    return [
        "",
        f"## {words(analysis.settings.primary).capitalize()} by day and by segment",
        "",
        *table(head, rows, "lllrrrrr"),
        "",
        "- Each split is a family of its own: p is corrected for its tests (Holm), and the intervals agree with it. "
        f"Parts with fewer than {LEAST_USERS} users in an arm are left out.",
        *changed,
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
        "metric": f"one value per user. {words(settings.primary).capitalize()} is the primary metric: the verdict is "
        "about it. Time is the sum of the shares played: 1 is one track played in full. Latency is in milliseconds.",
        "control": f"mean over the users of {control}.",
        "treatment": "mean over the users of the treatment.",
        "effect in %": "difference of the two means, in percent of the control mean"
        + ("; for fallback percent in percentage points." if in_points else "."),
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
    """The size of the log, and which effects a test of this size detects.

    Args:
        analysis: the result to report.

    Returns:
        A list of sentences.
    """
    users, settings = analysis.users, analysis.settings
    lines = [f"{int(users.sessions.sum()):,} sessions, {users.num_events:,} events. The user is the unit of analysis."]
    for treatment in users.arms[1:]:
        effect = analysis.effect(treatment, settings.primary)
        if settings.sizing and effect.users_needed:
            needed = ", ".join(f"{number:,} for {percent} %" for percent, number in effect.users_needed.items())
            lines.append(
                f"{treatment}, {words(settings.primary)}: with these users, an effect of "
                f"{effect.minimal_detectable_percent:.1f} % is detected with probability {settings.power:g} (power). "
                f"Users needed in both arms together: {needed}."
            )
    return lines
