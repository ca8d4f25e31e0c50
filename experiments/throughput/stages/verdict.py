"""From event logs to a verdict: the A/B analysis."""

from pathlib import Path
from typing import Any

from experiments.studying import composed, sized
from experiments.throughput.race import Contender, Stage, Work, work_of
from experiments.throughput.stages.logs import logs_of, make_logs

EXPERIMENT = "CONVEX"


def make(folder: Path, small: bool) -> None:
    num_events, num_users = sized((300_000, 3_000) if small else (10_000_000, 100_000), (3_000, 100))
    make_logs(folder, num_events=num_events, num_users=num_users)


def ours(folder: Path, small: bool) -> Work:  # noqa: ARG001 - all contenders are prepared alike
    """Segue, as in `abtest.py` by default: with all checks and corrections."""
    from hydra.utils import instantiate

    from segue.verdicts.abtest.analysis import analyse
    from segue.verdicts.abtest.log import read_users

    config = composed("abtest")
    settings = instantiate(config.analysis, _convert_="all")

    def work() -> float:
        users = read_users(
            folder / "logs",
            experiment=None,
            max_rejected=config.max_rejected,
            interleaved=config.interleaved,
            session_gap_minutes=config.session_gap_minutes,
            unfinished=config.unfinished,
        )
        analyse(users, settings)
        return users.num_events

    return work


def sheet_effects(path: Path, num_lines: int) -> dict[str, tuple[float, float, float]]:
    """The published sheet: effect of each metric and its interval, in percent of the control mean.

    The events of a user are read row by row; users are compared with Welch's interval.
    """
    import pandas as pd
    from scipy import stats

    frame = pd.read_json(path, lines=True, nrows=num_lines, convert_dates=False)
    users = []
    for _, events in frame.groupby("user"):
        user: dict[str, Any] = {"sessions": 1, "tracks": 0, "time": 0.0, "latency": 0.0}
        cut = False
        for _, row in events.sort_values("timestamp").iterrows():
            user["sessions"] += cut
            user["tracks"] += 1
            user["time"] += row["time"]
            user["latency"] += row["latency"] * 1000
            cut = row["message"] == "last"
        users.append({**user, "arm": events["experiments"].iloc[0][EXPERIMENT]})
    table = pd.DataFrame(users)
    table["mean_request_latency"] = table["latency"] / table["tracks"]
    table["mean_tracks_per_session"] = table["tracks"] / table["sessions"]
    table["mean_time_per_session"] = table["time"] / table["sessions"]
    effects = {}
    for metric in ("time", "sessions", "mean_request_latency", "mean_tracks_per_session", "mean_time_per_session"):
        control, treatment = (table.loc[table["arm"] == arm, metric] for arm in ("C", "T1"))
        interval = stats.ttest_ind(treatment, control, equal_var=False).confidence_interval(0.95)
        percent = 100 / control.mean()
        difference = treatment.mean() - control.mean()
        effects[metric] = (difference * percent, interval.low * percent, interval.high * percent)
    return effects


def sheet(folder: Path, small: bool) -> Work:
    num_lines = sized(5_000 if small else 40_000, 500)
    return work_of(num_lines, sheet_effects, logs_of(folder)[0], num_lines)


def limit(folder: Path, small: bool) -> Work:  # noqa: ARG001 - all contenders are prepared alike
    paths = logs_of(folder)
    num_events = sum(path.read_bytes().count(b"\n") for path in paths)

    def work() -> float:
        for path in paths:
            path.read_bytes()
        return num_events

    return work


STAGES = [
    Stage(
        name="A/B analysis",
        unit="events",
        make=make,
        ours=Contender(name="Segue", prepare=ours),
        rivals=[Contender(name="the sheet, pandas row by row", prepare=sheet, at_least=50)],
        limits=[Contender(name="the bytes into memory", prepare=limit)],
    )
]
