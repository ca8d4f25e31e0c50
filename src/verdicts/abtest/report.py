"""The report of an A/B test: what is printed, `abtest.json`, `abtest.md`, `abtest.html` and `abtest.png`."""

import math
from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from segue.reports import writing
from segue.reports.markdown import bullets
from segue.reports.numbers import interval, number, p_equals, p_value, plain, words
from segue.reports.result_table import Cell, Table, styled
from segue.verdicts.abtest.doubts import doubts, split_sentence, users_table
from segue.verdicts.abtest.metrics import IN_POINTS, unit_of
from segue.verdicts.abtest.picture import draw
from segue.verdicts.abtest.result import Analysis, Effect
from segue.verdicts.abtest.slices import LEAST_USERS

FILES = ("abtest.md", "abtest.html", "abtest.png", "abtest.json")
"""The files of a report."""
_COLOURS = {"better": "green", "holds": "green", "worse": "red", "broken": "red"}


def write_report(analysis: Analysis, folder: Path, provenance: Mapping[str, str]) -> None:
    """Write the files of the report.

    Args:
        analysis: the result to report.
        folder: where the files go; created if missing.
        provenance: command, commit and versions, by name.
    """
    writing.write_report(
        folder,
        "abtest",
        analysis.record(),
        provenance,
        blocks=blocks(analysis),
        draw=lambda path: draw(analysis, path),
        title=_title(analysis),
    )


def blocks(analysis: Analysis) -> list[str]:
    """The report in Markdown: a page for readers in a hurry, then the details.

    The page has the users of each arm against the plan, the verdict, the effects, and what could be wrong.

    Args:
        analysis: the result to report.
    """
    primary, explained = words(analysis.settings.primary).capitalize(), explain_columns(analysis)
    meanings = {row.method: row.meaning for rows in analysis.methods.values() for row in rows}
    return [
        f"# {_title(analysis)}",
        *("## Users", users_table(analysis).markdown(), split_sentence(analysis)),
        *("## Verdict", bullets(f"**{arm}**: {verdict}" for arm, verdict in analysis.verdicts.items())),
        *("## Effects", _effects(analysis, list(explained)).markdown()),
        *("## What could be wrong", bullets(doubts(analysis)), "![effects](abtest.png)"),
        *(f"## {primary} by other methods", methods_table(analysis, "+.2f").markdown()),
        bullets(f"{method}: {meaning}." for method, meaning in meanings.items()),
        *_slices(analysis),
        *("## Columns", bullets(f"**{column}**: {meaning}" for column, meaning in explained.items())),
        *("## Details", bullets(details(analysis))),
        "## Provenance",
    ]


def _title(analysis: Analysis) -> str:
    return f"A/B test {analysis.users.experiment}"


def effects_table(analysis: Analysis, *, in_colour: bool) -> Table:
    """The effects for a terminal, and the verdicts below them.

    Green is significantly better than the control, red significantly worse.

    Args:
        analysis: the result.
        in_colour: whether the terminal has colours.
    """
    notes = [f"{arm}: {verdict}" for arm, verdict in analysis.verdicts.items()]
    legend = "green: better, or the guardrail holds; red: worse, or broken; bold: the primary metric"
    return Table(
        title=_title(analysis),
        columns=["arm", "metric", "control", "treatment", "effect in %\n[interval]", "decision\np"],
        rows=[_printed(analysis, effect) for effect in analysis.effects],
        align="llRRRR",
        notes=[*notes, *[legend] * in_colour],
        look="lines",
    )


def _printed(analysis: Analysis, effect: Effect) -> list[Cell]:
    colour = "default" if analysis.withholds(effect.treatment) else _COLOURS.get(effect.decision, "default")
    weight = "bold " if effect.metric == analysis.settings.primary else ""
    bounds = interval(effect.relative_lower_percent, effect.relative_upper_percent, "+.1f")
    role = f"\nguardrail, margin {effect.margin:g} {effect.unit}" if effect.family == "guardrail" else ""
    p = _p_value(effect)
    shown = styled(number(effect.effect_percent, "+.1f"), f"{weight}{colour}").append(f"\n{bounds}")
    return [
        effect.treatment,
        styled(words(effect.metric), f"{weight}default").append(role),
        plain(effect.control_mean),
        plain(effect.treatment_mean),
        Text("–") if effect.decision == "no test" else shown,  # all values are equal
        styled(effect.decision, colour).append(f"\n{p_equals(p)}" if math.isfinite(p) else ""),
    ]


def _p_value(effect: Effect) -> float:
    return effect.p_value if effect.holm_significant is None else effect.holm_p_value


def _effects(analysis: Analysis, columns: list[str]) -> Table:
    """The effects for a page, which has room for more digits."""
    rows = [_row(one, analysis.withholds(one.treatment)) for one in analysis.effects]
    return Table(columns=columns, rows=rows, align="llrrrrrl")


def _row(effect: Effect, withheld: bool) -> list[Cell]:
    margin = f", margin {effect.margin:g} {effect.unit}" if effect.family == "guardrail" else ""
    return [
        effect.treatment,
        f"{words(effect.metric)} ({effect.family}{margin})",
        number(effect.control_mean, ".4g"),
        number(effect.treatment_mean, ".4g"),
        number(effect.effect_percent, "+.2f"),
        interval(effect.relative_lower_percent, effect.relative_upper_percent, "+.2f"),
        p_value(_p_value(effect)),
        styled(effect.decision, "bold" if (effect.is_good or effect.is_bad) and not withheld else ""),
    ]


def methods_table(analysis: Analysis, form: str) -> Table:
    """The effect on the primary metric by every method, the one of the verdict first.

    Args:
        analysis: the result.
        form: format of the effects.
    """
    rows = [
        [
            treatment,
            row.method,
            number(row.effect_percent, form),
            interval(row.lower_percent, row.upper_percent, form),
            p_value(row.p_value),
        ]
        for treatment, methods in analysis.methods.items()
        for row in methods
    ]
    title = f"{words(analysis.settings.primary).capitalize()} by other methods"
    return Table(
        title=title, columns=["arm", "method", _effect_in(analysis), "interval", "p"], rows=rows, align="llRRR"
    )


def _effect_in(analysis: Analysis) -> str:
    """Name of a column of effects on the primary metric."""
    return f"effect in {unit_of(analysis.settings.primary)}"


def _slices(analysis: Analysis) -> list[str]:
    """The primary metric by day and by segment."""
    if not analysis.slices:
        return []
    rows = [
        [
            one.treatment,
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
        f"{arm}: from the first half of the days to the second half, the effect changes by {one.effect_percent:+.1f} "
        f"points {interval(one.lower_percent, one.upper_percent, '+.1f')} ({p_equals(one.p_value)})."
        for arm, one in analysis.changes.items()
    ]
    family = (
        "Each split is a family of its own: p is corrected for its tests (Holm), and the intervals agree with it. "
        f"Parts with fewer than {LEAST_USERS} users in an arm are left out."
    )
    return [
        f"## {words(analysis.settings.primary).capitalize()} by day and by segment",
        Table(columns=head, rows=rows, align="lllrrrrr").markdown(),
        bullets([family, *changed]),
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
