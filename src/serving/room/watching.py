"""The experiment as its log has it now: the numbers of `abtest.py`, and how they came about over time.

The analysis runs in a process of its own. Where an arm has fewer users than `LEAST_USERS`, only the number of users is
shown, because a mean of few users would show what single users did.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from segue.errors import InputError
from segue.runs.provenance import CONF
from segue.statistics.design import sample_ratio
from segue.statistics.intervals import always_valid
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.metrics import IN_POINTS, samples
from segue.verdicts.abtest.result import Analysis
from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.slices import LEAST_USERS
from segue.verdicts.abtest.users import Users
from segue.verdicts.abtest.verdict import split_sentence, users_table

NUM_POINTS = 40
"""Times at which the interval of the primary metric is computed."""

_CONF = CONF / "abtest.yaml"
_READING = ("max_rejected", "interleaved", "session_gap_minutes", "unfinished")
_KEYS = (
    *("treatment", "metric", "family", "unit", "decision", "control_mean", "treatment_mean", "effect_percent"),
    *("relative_lower_percent", "relative_upper_percent", "always_valid_lower_percent", "always_valid_upper_percent"),
    *("margin", "p_value", "holm_p_value", "level"),
)


def watch(logs: Path, experiment: str, arms: dict[str, str]) -> dict[str, Any]:
    """Analyse the event log of a service.

    Args:
        logs: folder of the event logs.
        experiment: name of the experiment.
        arms: recommender of each arm of the release that is served.

    Returns:
        As JSON: `state` is `alone` (one arm), `quiet` (no events), `early` (too few users) or `running`; then what that
        state shows.
    """
    started_s = time.monotonic()
    found: dict[str, Any] = {"experiment": experiment, "arms": arms, "least_users": LEAST_USERS}
    if len(arms) < 2:
        return found | {"state": "alone"}
    defaults: Any = OmegaConf.to_container(OmegaConf.load(_CONF), resolve=False)
    given = {name: value for name, value in defaults["analysis"].items() if name != "_target_"}
    settings = AnalysisSettings(**given)
    found["primary"] = settings.primary
    files = [path for path in logs.rglob("data.json*") if path.stat().st_size] if logs.is_dir() else []
    if not files:
        return found | {"state": "quiet"}
    try:
        users = read_users(logs, experiment=experiment, arms=list(arms), **{name: defaults[name] for name in _READING})
    except InputError as error:
        if "has only the arms" in str(error) or "is not in" in str(error) or "no line is an event" in str(error):
            return found | {"state": "quiet", "reason": str(error)}
        raise
    planned = settings.shares(users.arms)
    counts = np.bincount(users.arm_of, minlength=len(users.arms))
    found |= {
        "names": users.arms,
        "exposed": users.exposed.tolist(),
        "planned": planned.tolist(),
        "counted": counts.tolist(),
        "events": users.num_events,
        "first_ms": users.first_ms,
        "last_ms": users.last_ms,
        "exposure_p_value": _number(sample_ratio(users.exposed, planned)),
    }
    if counts.min() < LEAST_USERS:
        return found | {"state": "early"}
    analysis = analyse(users, settings)
    return found | {
        "state": "running",
        "split": split_sentence(analysis),
        "exposures": users_table(analysis).record(),
        "withheld": any(analysis.withholds(arm) for arm in users.arms[1:]),
        "verdicts": analysis.verdicts,
        "effects": [
            {name: _number(one[name]) for name in _KEYS} for one in (effect.record() for effect in analysis.effects)
        ],
        "days": [
            {name: _number(value) for name, value in asdict(one).items()}
            for one in analysis.slices
            if one.part.startswith("day ")
        ],
        "course": course(analysis),
        "took_s": round(time.monotonic() - started_s, 3),
    }


def course(analysis: Analysis) -> dict[str, Any]:
    """The primary metric as it would have been read at times in the past, with its always-valid interval.

    The last point is what the analysis says now; the level is the one of the analysis.

    Args:
        analysis: of the whole log.

    Returns:
        Times in milliseconds since 1970, and for each treatment the effect and the bounds in percent; None where there
        were too few users.
    """
    users, counted = analysis.users, analysis.users.counted
    times = np.linspace(users.first_ms, users.last_ms + 1, NUM_POINTS + 1)[1:]
    until = [users.of(counted.where(counted.started_ms < cut)) for cut in times[:-1]] + [users]
    curves = {}
    for number, arm in enumerate(users.arms[1:], start=1):
        points = zip(*(_point(one, analysis, number, arm) for one in until), strict=True)
        curves[arm] = dict(zip(("effect", "lower", "upper"), ([*map(_number, of)] for of in points), strict=True))
    return {"times_ms": times.round().tolist(), "metric": analysis.settings.primary, "arms": curves}


def _point(users: Users, analysis: Analysis, number: int, arm: str) -> tuple[float, float, float]:
    metric = analysis.settings.primary
    counts = np.bincount(users.arm_of, minlength=len(users.arms))
    if min(counts[0], counts[number]) < LEAST_USERS or metric in IN_POINTS:
        return (math.nan, math.nan, math.nan)
    groups, alpha = samples(users, metric, number), 1 - analysis.effect(arm, metric).level
    one = always_valid(*groups, alpha)
    return one.effect_percent, one.lower_percent, one.upper_percent


def _number(value: Any) -> Any:
    """A value as JSON has it: None for numbers that are not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
