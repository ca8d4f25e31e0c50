"""The verdict for people: `abtest.json`, `abtest.md` and `abtest.png`."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from src.abtest.analysis import METRICS, Analysis, Effect
from src.abtest.log import GUARDS
from src.runs.atomic import write_record, write_whole

COLOURS = ("#6c6c6c", "#2a6f97", "#e07a1f", "#5a9367", "#8d5a97", "#b5485d", "#b0a03c", "#4bb0c4", "#93614a", "#222222")
"""Of the arms, the control first."""


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
    lines += ["", "| treatment | metric | control | treatment | effect % | interval % | relative % | p | Holm p |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    for effect in analysis.effects:
        bold = "**" if effect.is_sure else ""
        numbers = (
            _number(effect.control_mean, ".4g"),
            _number(effect.treatment_mean, ".4g"),
            f"{bold}{_number(effect.effect_percent, '+.2f')}{bold}",
            _interval(effect.lower_percent, effect.upper_percent),
            _interval(effect.relative_lower_percent, effect.relative_upper_percent),
            _number(effect.p_value, ".2g"),
            _number(effect.holm_p_value, ".2g"),
        )
        name = effect.metric + (" (primary)" if effect.metric == analysis.settings.primary else "")
        lines.append(f"| {_cell(effect.treatment)} | {name} | {' | '.join(numbers)} |")
    lines += ["", "![effects](abtest.png)", "", *(f"- {sentence}" for sentence in sentences(analysis))]
    lines += ["", *(f"- {name}: {value}" for name, value in provenance.items())]
    return "\n".join(lines) + "\n"


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "–"


def _interval(lower: float, upper: float) -> str:
    return f"[{lower:+.2f}, {upper:+.2f}]" if np.isfinite(lower) else "–"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", "\\$")


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


def draw(analysis: Analysis, path: Path) -> None:
    """Effects with their intervals, sessions over time, and how long sessions last."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(11, 6))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1), hspace=0.45, wspace=0.25)
    _draw_effects(analysis, figure.add_subplot(grid[:, 0]))
    _draw_timeline(analysis, figure.add_subplot(grid[0, 1]))
    _draw_lengths(analysis, figure.add_subplot(grid[1, 1]))
    verdicts = "\n".join(f"{arm}: {verdict}" for arm, verdict in analysis.verdicts.items())
    figure.suptitle(
        _plain(f"A/B test {analysis.users.experiment}\n{verdicts}"), x=0.02, y=0.91, va="bottom", ha="left", fontsize=10
    )
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _colour(arm: int) -> str:
    return COLOURS[arm % len(COLOURS)]


def _draw_effects(analysis: Analysis, axis: "mpl.axes.Axes") -> None:
    treatments = analysis.users.arms[1:]
    for row, metric in enumerate(METRICS):
        for number, treatment in enumerate(treatments):
            effect = analysis.effect(treatment, metric)
            if not np.isfinite(effect.lower_percent):
                continue
            place = -row + 0.5 * ((len(treatments) - 1) / 2 - number) / len(treatments)
            colour = _colour(number + 1)
            axis.plot([effect.lower_percent, effect.upper_percent], [place, place], color=colour, lw=2)
            axis.plot(effect.effect_percent, place, "o", color=colour, mfc=colour if effect.is_sure else "white", ms=7)
            axis.annotate(
                f"{effect.effect_percent:+.1f}",
                (effect.upper_percent, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=colour,
            )
    for number, treatment in enumerate(treatments):
        axis.plot([], [], "o-", color=_colour(number + 1), label=_plain(treatment))
    axis.axvline(0, color="#888888", lw=1)
    names = [f"{name}\n(primary)" if name == analysis.settings.primary else name for name in METRICS]
    axis.set_yticks(-np.arange(len(METRICS)), [name.replace("_", " ") for name in names])
    axis.set_ylim(-len(METRICS) + 0.4, 0.6)
    axis.set_xlabel(f"effect in % of {analysis.users.arms[0]}; filled: significant")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(frameon=False, loc="lower right")


def _draw_timeline(analysis: Analysis, axis: "mpl.axes.Axes") -> None:
    timeline = analysis.users.timeline
    unit, name = (3_600_000, "hours") if timeline["since_ms"].max() < 3 * 86_400_000 else (86_400_000, "days")
    for number, arm in enumerate(analysis.users.arms):
        own = timeline[timeline["arm"] == arm]
        axis.plot(own["since_ms"] / unit, own["sessions"], ".-", color=_colour(number), lw=1, ms=4, label=_plain(arm))
    axis.set(xlabel=f"{name} since the first session", ylabel="sessions begun", ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def _draw_lengths(analysis: Analysis, axis: "mpl.axes.Axes") -> None:
    lengths = analysis.users.lengths
    for number, arm in enumerate(analysis.users.arms):
        own = lengths[lengths["arm"] == arm]
        binned = np.bincount(own["time"].to_numpy(np.int64).clip(0, 30), own["sessions"], 31)
        axis.step(np.arange(31), binned / binned.sum(), where="mid", color=_colour(number), lw=1.5, label=_plain(arm))
    axis.set(xlabel="time of a session (30: or more)", ylabel="share of sessions", xlim=(-0.5, 30.5), yscale="log")
    axis.spines[["top", "right"]].set_visible(False)
