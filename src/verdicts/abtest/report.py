"""The report of an A/B test: what is printed, `abtest.json`, `abtest.md`, `abtest.html` and `abtest.png`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.text import Text

from segue.reports import writing
from segue.reports.markdown import bullets
from segue.reports.numbers import interval, number, p_equals, p_value, plain, words
from segue.reports.result_table import Cell, Table, styled
from segue.statistics.intervals import PercentDifference
from segue.verdicts.abtest.known_before import discovery_table
from segue.verdicts.abtest.metrics import IN_POINTS, unit_of
from segue.verdicts.abtest.picture import draw
from segue.verdicts.abtest.result import Analysis, Effect
from segue.verdicts.abtest.slices import LEAST_USERS, Slice
from segue.verdicts.abtest.verdict import doubts, split_sentence, users_table

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
    text, drawn, title = blocks(analysis), partial(draw, analysis), analysis.title
    writing.write_report(folder, "abtest", analysis.record(), provenance, blocks=text, draw=drawn, title=title)


def blocks(analysis: Analysis) -> list[str]:
    """The report in Markdown: a page for readers in a hurry, then the details.

    The page has the users of each arm against the plan, the verdict, the effects, and what could be wrong.
    """
    primary, explained = words(analysis.settings.primary).capitalize(), explain_columns(analysis)
    meanings = {row.method: row.meaning for rows in analysis.methods.values() for row in rows}
    effects = [_row(analysis, one) for one in analysis.effects]
    return [
        f"# {analysis.title}",
        *("## Users", users_table(analysis).markdown(), split_sentence(analysis)),
        *("## Verdict", bullets(f"**{arm}**: {verdict}" for arm, verdict in analysis.verdicts.items())),
        *("## Effects", Table(columns=list(explained), rows=effects, align="llrrrrrl").markdown()),
        *(_discovery(analysis) if analysis.discovery else ()),
        *("## What could be wrong", bullets(doubts(analysis)), "![effects](abtest.png)"),
        *(f"## {primary} by other methods", methods_table(analysis, "+.2f").markdown()),
        bullets(f"{method}: {meaning}." for method, meaning in meanings.items()),
        *(_slices(analysis) if analysis.slices else ()),
        *("## Columns", bullets(f"**{column}**: {meaning}" for column, meaning in explained.items())),
        *("## Details", bullets(details(analysis))),
        "## Provenance",
    ]


def _discovery(analysis: Analysis) -> list[str]:
    table = discovery_table(analysis.discovery, 1 - analysis.settings.alpha)
    return ["## Discovery", table.markdown(), bullets(table.notes)]


def effects_table(analysis: Analysis, *, in_colour: bool) -> Table:
    """The effects for a terminal, and the verdicts below them.

    Green is significantly better than the control, red significantly worse.

    Args:
        analysis: the result.
        in_colour: whether the terminal has colours.
    """
    verdicts = [f"{arm}: {verdict}" for arm, verdict in analysis.verdicts.items()]
    legend = "green: better, or the guardrail holds; red: worse, or broken; bold: the primary metric"
    return Table(
        title=analysis.title,
        columns=["arm", "metric", "control", "treatment", "effect in %\n[interval]", "decision\np"],
        rows=[_printed(analysis, effect) for effect in analysis.effects],
        align="llRRRR",
        notes=[*verdicts, *[legend] * in_colour],
        look="lines",
    )


def _printed(analysis: Analysis, effect: Effect) -> list[Cell]:
    colour = "default" if analysis.withholds(effect.treatment) else _COLOURS.get(effect.decision, "default")
    weight = "bold " if effect.metric == analysis.settings.primary else ""
    shown = styled(number(effect.effect_percent, "+.1f"), f"{weight}{colour}")
    return [
        effect.treatment,
        styled(words(effect.metric), f"{weight}default").append(_margin(effect, "\nguardrail")),
        plain(effect.control_mean),
        plain(effect.treatment_mean),
        Text("–") if effect.decision == "no test" else shown.append(f"\n{_bounds(effect.relative, '+.1f')}"),
        styled(effect.decision, colour).append(f"\n{p_equals(effect.holm_p_value)}" * effect.tested),
    ]


def _row(analysis: Analysis, effect: Effect) -> list[Cell]:
    """An effect for a page, which has room for more digits."""
    is_clear = effect.is_clear and not analysis.withholds(effect.treatment)
    return [
        effect.treatment,
        f"{words(effect.metric)} ({_margin(effect, 'guardrail') or effect.family})",
        number(effect.control_mean, ".4g"),
        number(effect.treatment_mean, ".4g"),
        number(effect.effect_percent, "+.2f"),
        _bounds(effect.relative, "+.2f"),
        p_value(effect.holm_p_value),
        styled(effect.decision, "bold" * is_clear),
    ]


def _margin(effect: Effect, name: str) -> str:
    return f"{name}, margin {effect.margin:g} {effect.unit}" if effect.family == "guardrail" else ""


def _bounds(one: PercentDifference | Slice, form: str) -> str:
    return interval(one.lower_percent, one.upper_percent, form)


def methods_table(analysis: Analysis, form: str) -> Table:
    """The effect on the primary metric by every method, the one of the verdict first."""
    metric = analysis.settings.primary
    title = f"{words(metric).capitalize()} by other methods"
    columns = ["arm", "method", f"effect in {unit_of(metric)}", "interval", "p"]
    rows = [
        [treatment, row.method, number(row.effect_percent, form), _bounds(row, form), p_value(row.p_value)]
        for treatment, methods in analysis.methods.items()
        for row in methods
    ]
    return Table(title=title, columns=columns, rows=rows, align="llRRR")


def _slices(analysis: Analysis) -> list[str]:
    metric = analysis.settings.primary
    users, effect = ("control users", "treatment users"), (f"effect in {unit_of(metric)}", "interval", "p")
    rows = [
        [
            *(one.treatment, one.split, one.part, f"{one.control_users:,}", f"{one.treatment_users:,}"),
            *(number(one.effect_percent, "+.2f"), _bounds(one, "+.2f"), p_value(one.holm_p_value)),
        ]
        for one in analysis.slices
    ]
    table = Table(columns=["arm", "split by", "part", *users, *effect], rows=rows, align="lllrrrrr")
    family = (
        "Each split is a family of its own: p is corrected for its tests (Holm), and the intervals agree with it. "
        f"Parts with fewer than {LEAST_USERS} users in an arm are left out."
    )
    changed = [
        f"{arm}: from the first half of the days to the second half, the effect changes by {one.effect_percent:+.1f} "
        f"points {_bounds(one, '+.1f')} ({p_equals(one.p_value)})."
        for arm, one in analysis.changes.items()
    ]
    return [f"## {words(metric).capitalize()} by day and by segment", table.markdown(), bullets([family, *changed])]


def explain_columns(analysis: Analysis) -> dict[str, str]:
    """The meaning of each column of the table of effects.

    Args:
        analysis: the result whose table is explained.

    Returns:
        The meaning of each column of `abtest.md`, by its name, in order.
    """
    settings, control, effects = analysis.settings, analysis.users.arms[0], analysis.effects
    families = [one.family for one in effects if one.decision != "no test"]
    counts = ", ".join(f"{families.count(family)} {family}" for family in dict.fromkeys(families))
    points = "; for fallback percent in percentage points" * any(one.metric in IN_POINTS for one in effects)
    has_guardrail = any(one.family == "guardrail" for one in effects)
    margins = ", and the margin of a guardrail exactly if that holds" * has_guardrail
    decisions = {
        "better or worse": f"the effect is significant, p is below {settings.alpha:g}.",
        "not significant": f"p is {settings.alpha:g} or more.",
        "not tested": "secondary metrics are tested only if the primary effect of their arm is significant.",
        "holds": "the interval of the guardrail is better than its margin.",
        "broken": "the interval of the guardrail is worse than its margin.",
        "not shown": "the interval of the guardrail includes its margin.",
        "no test": "all values are equal.",
    }
    used = {one.decision for one in effects}
    decided = [f"{name}: {meaning}" for name, meaning in decisions.items() if used & set(name.split(" or "))]
    return {
        "arm": f"the treatment. Each row compares it with the control, {control}.",
        "metric": f"one value per user. {words(settings.primary).capitalize()} is the primary metric: the verdict is "
        "about it. Time is the sum of the shares played: 1 is one track played in full. Latency is in milliseconds.",
        "control": f"mean over the users of {control}.",
        "treatment": "mean over the users of the treatment.",
        "effect in %": f"difference of the two means, in percent of the control mean{points}.",
        "interval": f"{100 * (1 - settings.alpha):g} % interval of the effect (Fieller), which accounts for the "
        "uncertainty of the control mean. In a family of several tests its level is higher. It excludes 0 exactly if "
        f"the effect is significant{margins}.",
        "p": f"p-value of the test, corrected for the tests of its family (Holm): {counts}.",
        "decision": " ".join(decided),
    }


def details(analysis: Analysis) -> list[str]:
    """The size of the log, and which effects a test of this size detects.

    Returns:
        A list of sentences.
    """
    users, settings = analysis.users, analysis.settings
    effects = [analysis.effect(treatment, settings.primary) for treatment in users.arms[1:]]
    return [
        f"{int(users.sessions.sum()):,} sessions, {users.num_events:,} events. The user is the unit of analysis.",
        *(
            f"{one.treatment}, {words(one.metric)}: with these users, an effect of "
            f"{one.minimal_detectable_percent:.1f} % is detected with probability {settings.power:g} (power). "
            "Users needed in both arms together: "
            f"{', '.join(f'{count:,} for {percent} %' for percent, count in one.users_needed.items())}."
            for one in effects
            if one.users_needed
        ),
    ]
