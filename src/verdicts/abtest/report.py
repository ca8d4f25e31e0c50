"""The report of an A/B test: what is printed, and `abtest.md`."""

import math
from collections.abc import Sequence

from segue.reports.numbers import number, p_equals, plain, words
from segue.reports.result_table import Cell, Table, styled
from segue.reports.writing import Sections
from segue.verdicts.abtest.known_before import NOTES
from segue.verdicts.abtest.metrics import Comparison, unit_of
from segue.verdicts.abtest.result import Analysis, Effect
from segue.verdicts.abtest.slices import LEAST_USERS
from segue.verdicts.abtest.verdict import bounds, doubts, users_table

FILES = ("abtest.md", "abtest.png", "abtest.json")
"""The files of a report."""

_COLOURS = {"better": "green", "holds": "green", "worse": "red", "broken": "red"}


def sections(analysis: Analysis) -> Sections:
    """The report by its headings.

    First comes what readers in a hurry need: users, effects and verdict, and what could be wrong.
    """
    primary = words(analysis.settings.primary)
    parts = (
        f"Effects in {unit_of(analysis.settings.primary)}; the days, and the sessions, are a family of tests each. "
        f"Parts with fewer than {LEAST_USERS} users in an arm are left out."
    )
    found: dict[str, Table | list[str]] = {
        "Users": users_table(analysis),
        "Effects": effects_table(analysis),
        "What could be wrong": doubts(analysis),
        f"The effect on {primary} by several methods": [
            f"{arm}, {name}: {number(one.effect_percent, '+.1f')} {bounds(one)}"
            for arm in analysis.verdicts
            for name, one in analysis.methods(arm).items()
        ],
        f"The effect on {primary} in parts of the log": _comparisons(analysis.slices, [parts]),
        "Discovery: the share of tracks that were known": _comparisons(analysis.discovery, NOTES),
    }
    return {title: part for title, part in found.items() if not isinstance(part, Table) or part.rows}


def effects_table(analysis: Analysis) -> Table:
    """The effects, and the verdicts below them. Green is in favour of the treatment, red against it."""
    alpha = analysis.settings.alpha
    level = f"{100 * (1 - alpha):g} %, in a family of several tests higher"
    return Table(
        columns=["arm", "metric", "control", "treatment", "effect in %\n[interval]", "decision\np"],
        rows=[_row(one, is_clear=one.is_clear and not analysis.withholds(one.treatment)) for one in analysis.effects],
        align="llRRRR",
        notes=[
            *(f"{arm}: {verdict}" for arm, verdict in analysis.verdicts.items()),
            f"Bold metric: the primary one. Interval: Fieller's ({level}). p: with Holm's correction.",
        ],
        look="lines",
    )


def _row(effect: Effect, *, is_clear: bool) -> list[Cell]:
    metric = styled(words(effect.metric), "bold" if effect.family == "primary" else "default")
    margin = f"\nguardrail, margin {effect.margin:g} {effect.unit}"
    has_test = effect.decision != "no test"
    decision = styled(effect.decision, f"bold {_COLOURS[effect.decision]}" if is_clear else "default")
    return [
        effect.treatment,
        metric.append(margin * (effect.family == "guardrail")),
        plain(effect.control_mean),
        plain(effect.treatment_mean),
        f"{number(effect.effect_percent, '+.1f')}\n{bounds(effect.relative)}" if has_test else "–",
        decision.append(f"\n{p_equals(effect.holm_p_value)}" * math.isfinite(effect.holm_p_value)),
    ]


def _comparisons(found: list[Comparison], notes: Sequence[str]) -> Table:
    """A row for each comparison, and the number of users beside each mean."""
    return Table(
        columns=["arm", "", "control (users)", "treatment (users)", "effect\n[interval]"],
        rows=[
            [
                *(one.treatment, one.part or words(one.metric)),
                f"{plain(one.control_mean, 3)} ({one.control_users:,})",
                f"{plain(one.treatment_mean, 3)} ({one.treatment_users:,})",
                f"{number(one.effect_percent, '+.1f')}\n{bounds(one)}",
            ]
            for one in found
        ],
        align="llRRR",
        notes=notes,
    )
