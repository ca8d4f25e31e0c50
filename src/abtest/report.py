"""The report of an A/B test: `abtest.json`, `abtest.md` and `abtest.png`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.abtest.log import GUARDS
from src.abtest.picture import draw
from src.abtest.result import Analysis, Effect
from src.runs.atomic import write_record, write_whole
from src.terminal.markdown import escape, provenance_lines, table
from src.terminal.numbers import interval, number


def write_report(analysis: Analysis, folder: Path, provenance: Mapping[str, str]) -> None:
    """Leave the three files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "abtest.png", lambda path: draw(analysis, path))
    write_whole(folder / "abtest.md", lambda path: path.write_text(markdown(analysis, provenance), encoding="utf-8"))
    write_record({**analysis.record(), "provenance": dict(provenance)}, folder / "abtest.json")


def markdown(analysis: Analysis, provenance: Mapping[str, str]) -> str:
    """The verdicts, the table of effects, what every number is, and where it came from."""
    lines = [f"# A/B test {analysis.users.experiment}", ""]
    lines += [f"- **{arm}**: {verdict}" for arm, verdict in analysis.verdicts.items()]
    head = ["treatment", "metric", "control", "treatment", "effect %", "interval %", "relative %", "p", "Holm p"]
    rows = [_row(effect, analysis.settings.primary) for effect in analysis.effects]
    lines += ["", *table(head, rows, "llrrrrrrr")]
    lines += ["", "![effects](abtest.png)", "", *(f"- {sentence}" for sentence in sentences(analysis))]
    lines += ["", *provenance_lines(provenance)]
    return "\n".join(lines) + "\n"


def _row(effect: Effect, primary: str) -> list[str]:
    bold = "**" if effect.is_sure else ""
    return [
        escape(effect.treatment),
        effect.metric + (" (primary)" if effect.metric == primary else ""),
        number(effect.control_mean, ".4g"),
        number(effect.treatment_mean, ".4g"),
        f"{bold}{number(effect.effect_percent, '+.2f')}{bold}",
        interval(effect.lower_percent, effect.upper_percent, "+.2f"),
        interval(effect.relative_lower_percent, effect.relative_upper_percent, "+.2f"),
        number(effect.p_value, ".2g"),
        number(effect.holm_p_value, ".2g"),
    ]


def sentences(analysis: Analysis) -> list[str]:
    """What each number is, a sentence each, as far as it was asked for; and what was left out."""
    users, settings = analysis.users, analysis.settings
    level = f"{100 * (1 - settings.alpha):g} %"
    counts = ", ".join(f"{arm} {int((users.arm_of == number).sum()):,}" for number, arm in enumerate(users.arms))
    said = [
        f"Users: {counts}; {int(users.sessions.sum()):,} sessions, {users.num_events:,} events. The unit is the user."
    ]
    said += [f"{users.guards[name]:,} {rule}." for name, rule in GUARDS.items() if users.guards.get(name)]
    if settings.sample_ratio:
        state = "do NOT split as planned" if analysis.is_withheld else "split as planned"
        said.append(f"Users {state} over the arms (chi-square, p = {analysis.sample_ratio_p_value:.2g}).")
    said.append(
        f"The interval is the published sheet's: Welch's {level} interval of the difference, in percent of a control "
        "mean held for a constant."
    )
    if settings.relative:
        said.append("The relative interval (Fieller) holds the control mean for as uncertain as it is.")
    if settings.correction:
        said.append(
            f"Holm's p keeps false alarms over all {len(analysis.effects)} effects together at {settings.alpha:g}."
        )
    for treatment in users.arms[1:]:
        said += _of_primary(analysis.effect(treatment, settings.primary), analysis)
    return said


def _of_primary(effect: Effect, analysis: Analysis) -> list[str]:
    settings, said = analysis.settings, []
    head = f"{effect.treatment}, {settings.primary}:"
    if settings.sizing and effect.users_needed:
        needed = ", ".join(f"{number:,} for {percent} %" for percent, number in effect.users_needed.items())
        said.append(
            f"{head} an effect of {effect.minimal_detectable_percent:.1f} % would be found with a power of "
            f"{settings.power:g}; users needed in both arms: {needed}."
        )
    if settings.always_valid_percent is not None:
        said.append(
            f"{head} [{effect.always_valid_lower_percent:+.1f}, {effect.always_valid_upper_percent:+.1f}] % holds "
            "however often and whenever one looks (mixture sequential test)."
        )
    if settings.bootstrap_rounds:
        said.append(
            f"{head} [{effect.bootstrap_lower_percent:+.1f}, {effect.bootstrap_upper_percent:+.1f}] % is the "
            f"bootstrap's interval over users ({settings.bootstrap_rounds} rounds), a cross-check where values "
            "are skewed."
        )
    if np.isfinite(effect.cuped_effect_percent):
        said.append(
            f"{head} {effect.cuped_effect_percent:+.1f} % "
            f"[{effect.cuped_lower_percent:+.1f}, {effect.cuped_upper_percent:+.1f}] once each user's earlier habits "
            f"are taken off (CUPED), which saved {effect.cuped_variance_saved_percent:.0f} % of the variance."
        )
    return said
