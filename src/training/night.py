"""A night: a run that begins with what another one has learned, is tested on the plays since then, and learns them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.callbacks.assembly import Refitted
from segue.callbacks.guard import FALL, TIME, intervals_of, judged
from segue.callbacks.run_context import ranker_of
from segue.datamodules.learned import FOLDER, Learned
from segue.datamodules.pair_datamodule import NewPlays, PairDataModule
from segue.datamodules.reading.table import NothingNew
from segue.errors import InputError
from segue.models.growing import Grown
from segue.models.restoring import REFITTED, read_checkpoint
from segue.reports.next_steps import left_out_lines
from segue.reports.numbers import utc
from segue.runs.atomic import write_record
from segue.runs.folder import NIGHT, REFIT, is_unfinished_night, locked
from segue.runs.profiles import FILE as PROFILES
from segue.runs.targets import read_config
from segue.settings import Setting, settings
from segue.terminal.console import console, show_lines
from segue.training.refit import decided_in, refit

# How often a head is shown the new sessions, with a loss that compares tracks, and with one that predicts their shares
# (experiments/nightly/README.md).
_TIMES, _TIMES_OF_SHARES = 3, 1
_LOCK = ".night.lock"


@settings()
def check_night(
    *,
    guard: Annotated[Literal["chart", "none"], Setting("what keeps a night from being exported: a fall, or nothing")],
    keep_days: Annotated[float | None, Setting("days whose sessions are learned; null: all", above=0)],
) -> None:
    """Refuse settings of a night that are out of range.

    Raises:
        InputError: one is.
    """


@dataclass(eq=False, kw_only=True)
class Night:
    """A night that has begun.

    Args:
        folder: of the run that it begins from.
        grown: the model of that run, with the tracks of today.
        decided: how that run ranks tracks already heard.
        nights: the nights before, as `night.json` of that run lists them.
        first: the test of the run that they began from, as `intervals_of` has it.
        is_guarded: whether a fall keeps the night from being exported.
    """

    folder: Path
    new: NewPlays
    grown: Grown
    decided: Mapping[str, Any]
    nights: Sequence[Mapping[str, Any]]
    first: Mapping[str, Any]
    is_guarded: bool
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    judgement: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False

    def learn(self, config: DictConfig, build: Any) -> Refitted:
        """Train on the new sessions. A head sees some of those that are kept besides, so that it forgets nothing."""
        data, head = self.new.whole, cast("Any", self.grown.module)
        if ranker_of(head).scorer is None:
            return refit(config, data, self.decided, [{}], label="night")
        shown = self.new.replayed(config.seed, _TIMES_OF_SHARES if head.loss.temperature is None else _TIMES)
        grown = Grown(build, self.grown.saved, self.grown.before, shown.vocabulary, self.grown.called)
        epoch = {config.monitor.metric: 0.0}  # no other epoch is better
        return replace(refit(config, shown, self.decided, [epoch], begin=grown, label="night"), data=data)

    def is_exported(self, metrics: Mapping[str, float]) -> bool:
        """Judge the model that was served; whether the new one is exported."""
        self.measured, first = intervals_of(metrics, self.new.shares), self.first
        charted = [night["metrics"] for night in self.nights]
        falls = [number for number, night in enumerate(self.nights) if night["verdict"] == FALL]
        if falls:  # it was exported all the same, and is what later nights are like
            first, charted = charted[falls[-1]], charted[falls[-1] + 1 :]
        self.judgement = judged(self.measured, charted, first)
        return not (self.is_guarded and self.judgement["verdict"] == FALL)

    def metrics(self) -> dict[str, float]:
        """What was measured of the sessions themselves, for `metrics.json`."""
        return {
            f"night/{TIME}{'' if name == 'mean' else f'_{name}'}": value
            for name, value in self.measured.get(TIME, {}).items()
        }

    @property
    def learned(self) -> str:
        """What the tested model has learned, in words."""
        until = f" until {utc(self.new.since_ms)}" if self.new.since_ms else ""
        return f"{self.new.whole.num_learned[0] - self.new.num_sessions:,} sessions{until}"

    def write(self, run_dir: Path, seconds: Mapping[str, float], *, is_exported: bool) -> dict[str, Any]:
        """Write `night.json`, the last file of a night: a folder without it has no whole night."""
        new = self.new
        own = {
            "run_dir": str(run_dir.resolve()),
            "since": utc(new.since_ms) if new.since_ms else None,
            "until": utc(new.until_ms) if new.until_ms else None,
            "metrics": self.measured,
            "verdict": self.judgement["verdict"],
        }
        self.is_done = is_exported
        record = {
            "from": str(self.folder),
            **own,
            "limits": self.judgement["limits"],
            "fallen": self.judgement["fallen"],
            "guard": "chart" if self.is_guarded else "none",
            "is_exported": is_exported,
            "sessions": new.num_sessions,
            "plays": new.num_plays,
            "new_tracks": new.num_tracks,
            "new_artists": new.num_artists,
            "late_plays": dict(new.num_late),
            "future_plays": dict(new.num_later),
            "seconds": dict(seconds),
            "first": self.first,
            "nights": [*self.nights, own],
        }
        write_record(record, run_dir / NIGHT)
        return record


@contextmanager
def night_from(config: DictConfig) -> Iterator[Night | None]:
    """Begin a night.

    Yields:
        The night; None where there is no new play.

    Raises:
        InputError: the run cannot be gone on from, another process does so, or the logs do not fit it.
    """
    folder, called = Path(str(config["from"])), f"from={config['from']}"
    check_night(guard=config.guard, keep_days=config.keep_days)
    if config.recipe.name == "mixture":
        raise InputError(f"{called} is a mixture, whose runs learn new plays; begin from each of those")
    if is_unfinished_night(folder):
        raise InputError(
            f"{called} is a night that was not exported; begin from the run before it, "
            f"{read_config(folder / 'config.yaml')['from']}"
        )
    if not (folder / FOLDER).is_dir() or not (folder / REFITTED).is_file():
        is_refitted = (folder / REFIT).is_file()
        refits = f"it was not refitted; python train.py resume={folder} refit=all does so"
        raise InputError(
            f"{called} does not have what it has learned ({FOLDER}/ and {REFITTED}): "
            f"{'it is of an older version, or lacks checkpoints; train a new run' if is_refitted else refits}"
        )
    with locked(folder / _LOCK, f"{called}: another night begins from it now; wait until it has ended"):
        yield _begun(config, folder, called)


def _source_of(config: DictConfig, learned: Learned, called: str) -> PairDataModule:
    """The source of a run, or that from which its shards were prepared."""
    if learned.source is None:
        return cast("PairDataModule", instantiate(config.datamodule, _convert_="all"))
    if learned.reading["share"] == "longest" or not learned.sessions.has_clock:
        lacks = "durations" if learned.sessions.has_clock else "timestamps"
        raise InputError(
            f"{called} was trained from shards of a source without {lacks}, to which plays cannot be added; prepare "
            "and train them again with all logs"
        )
    own = {name: config.datamodule[name] for name in ("history", "half_life", "whole_sessions", "seed")}
    source = {name: value for name, value in learned.source.items() if name not in ("_target_", "path", "prepare")}
    source["policies"] = {**source["policies"], "until": "now", **config.datamodule.get("policies", {})}
    rejected = Path(config.run_dir) / "rejected.jsonl"
    return PairDataModule(path=str(config.datamodule.path), rejected_path=str(rejected), **{**source, **own})


def _begun(config: DictConfig, folder: Path, called: str) -> Night | None:
    learned = Learned.read(folder / FOLDER, called)
    data = _source_of(config, learned, called)
    try:
        with console.status("reading events"):
            new = data.read_new(learned, config.keep_days, folder / PROFILES)
    except NothingNew as nothing:
        since = f" since {utc(learned.until_ms)}" if learned.until_ms else ""
        console.print(f"nothing new{since}: {data.path} has no pair that {folder} has not learned", soft_wrap=True)
        show_lines(left_out_lines(learned.late(nothing.num_learned), nothing.num_later).items())
        return None
    saved = read_checkpoint(folder / REFITTED)
    build = instantiate(config.ranker, _convert_="all")
    kept = new.evaluated.vocabulary
    grown = Grown(build, saved, learned.alone(kept), kept, called)
    decided = decided_in(saved, grown.module)
    ranker_of(grown.module).decide(decided)
    record = _read(folder / NIGHT)
    # the test of a run knows all that its listeners have heard, and the test of a night what they heard in this night
    listener = ranker_of(grown.module).listener
    metrics = {} if listener is not None and listener.is_used else _read(folder / "metrics.json")
    return Night(
        folder=folder,
        new=new,
        grown=grown,
        decided=decided,
        nights=record.get("nights", ()),
        first=record["first"] if record else intervals_of(metrics, new.shares[:0]),
        is_guarded=config.guard != "none",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; begin from another run") from None
