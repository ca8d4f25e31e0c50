"""The folder of a run: what it has from the beginning, who may write into it, and how its config is named.

It has one run, is written by one process at a time, and has what resuming needs.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from segue.atomic import write_record, write_text
from segue.errors import InputError
from segue.runs.provenance import CONF, provenance

CHECKPOINT = "checkpoints/last.ckpt"
"""The checkpoint from which a run is resumed."""

RECORD = "run.json"
"""What a run leaves for resuming."""

REFIT = "refit.json"
"""What a run folder has if its lists and vectors are those of a model that has learned all sessions."""

LOCK = ".lock"
"""The file that a process locks while it writes into a run folder."""

UNCOMMITTED = "uncommitted.diff"
"""What a run folder has of the changes that were not committed."""

OF_ONE_COMMAND = ("resume=", "trust=")
"""Beginnings of words that a run does not hand on to another one."""

TRAINS_NOTHING = {"counting": "baseline", "mixture": "mixture"}
"""Recipes that models name, and no source does, and what a model of each is called."""

_OF_THE_BEGINNING = {"config.yaml", RECORD, UNCOMMITTED}

# Keys of a config that do not change what a run measures of its test sessions.
_OF_THE_RUN = (
    "run_dir", "run_name", "resume", "refit", "add", "catalogue", "trust", "parent_run_id", "swept", "trial", "logger",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`run.json`: what a run leaves as soon as it starts, so that it can be resumed.

    Args:
        mlflow_run_id: its run in MLflow, if it has one.
    """

    overrides: list[str]
    mlflow_run_id: str | None
    data_digest: str

    def write(self, run_dir: Path) -> None:
        """Write `run.json`."""
        write_record(asdict(self), run_dir / RECORD)

    @classmethod
    def read(cls, run_dir: Path) -> "RunRecord":
        """Read what `write` wrote.

        Raises:
            InputError: no run was started in the folder, or its record is damaged.
        """
        from pydantic import TypeAdapter

        try:
            return TypeAdapter(cls).validate_json((run_dir / RECORD).read_bytes())
        except FileNotFoundError:
            raise InputError(f"{run_dir}: no run was begun there (it has no {RECORD}); give a run folder") from None
        except (OSError, ValueError):
            raise InputError(f"{run_dir}: its {RECORD} is damaged; start the run again elsewhere") from None


def short_run_name(run_id: str) -> str:
    """The name of a run of MLflow that people type: `run:` and the first eight characters of its id."""
    return f"run:{run_id[:8]}"


def is_resumable(run_dir: Path) -> bool:
    """Whether a run was started there."""
    return (run_dir / RECORD).is_file()


def refuse_used_folder(
    run_dir: Path,
    record: str = "config.yaml",
    remedy: str = "choose another folder with hydra.run.dir=<folder>, or hydra.sweep.dir= of a sweep",
) -> None:
    """Refuse a run folder that has a run in it already, before anything there can be lost.

    Args:
        record: the file that every run leaves.

    Raises:
        InputError: it is there.
    """
    if (run_dir / record).exists():
        resume = f"resume={run_dir} continues it if it was stopped; for a new run " if is_resumable(run_dir) else ""
        raise InputError(f"{run_dir} holds a run already; {resume}{remedy}")


@contextmanager
def lock_folder(run_dir: Path, *, is_resumed: bool = False) -> Iterator[None]:
    """Let no other process write into a run folder.

    A run that fails before it has written anything of its own frees its folder for another run. One whose folder has
    more, such as a checkpoint, keeps it, where it can be resumed.

    Args:
        is_resumed: whether the folder has the run that this process resumes.

    Raises:
        InputError: another process has locked it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    remedy = "" if is_resumed else ", or choose another folder with hydra.run.dir=<folder>"
    busy = f"{run_dir} holds a run already, which another process is writing; wait until it has ended{remedy}"
    with locked(run_dir / LOCK, busy):
        try:
            yield
        except Exception:
            if {path.name for path in run_dir.iterdir()} <= _OF_THE_BEGINNING | {LOCK, "rejected.jsonl"}:
                for name in _OF_THE_BEGINNING:
                    (run_dir / name).unlink(missing_ok=True)
            raise


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Lock a file, which is removed at the end.

    Raises:
        InputError: another process has locked it, with the refusal as its line.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(refusal) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def leave_no_empty(folders: Iterable[Path]) -> Iterator[None]:
    """Remove folders, and those above them, that were created in the meantime and are empty."""
    missing = [path for folder in folders for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def check_choices(config: DictConfig, *, model: str, recipe: str, context: str) -> None:
    """Refuse a recipe whose values the model cannot take, or another context than its own, before any data are read.

    Raises:
        InputError: the recipe has no values for the model, a baseline gets settings of gradient training, or a model
            has another context than its own, or another encoder or none.
    """
    try:
        OmegaConf.to_container(config.model, resolve=True)
    except InterpolationKeyError:
        raise InputError(f"recipe={recipe} has no values for model={model}; leave out recipe=") from None
    given = [key for key in ("loss", "optimizer", "scheduler") if key in config]
    if "loss" not in config.ranker and given:
        raise InputError(f"{given[0]} cannot be used with model={model}, which has no gradients; leave it out")
    if _has_own_context(model) and context not in (model, "session", "listener"):
        raise InputError(f"model={model} reads the order of the session; leave context={context} out")
    of_order = model if _has_own_context(model) else context
    if (CONF / "model" / f"{of_order}.yaml").is_file():
        own = OmegaConf.load(CONF / "context" / f"{of_order}.yaml").context.encoder.kind
        if (kind := OmegaConf.select(config, "context.encoder.kind")) != own:
            raise InputError(f"context.encoder.kind={kind} is not that of {of_order}, which is {own}; leave it out")
    if "scorer" not in config.ranker and config.get("listener") is not None:
        raise InputError(f"context=listener adds to the scores of a head, and model={model} is none; leave it out")


def _has_own_context(model: str) -> bool:
    return (CONF / "context" / f"{model}.yaml").is_file()


def record_beginning(
    config: DictConfig, *, words: Sequence[str], data_digest: str, mlflow_run_id: str | None, is_resumed: bool
) -> None:
    """Write `config.yaml`, resolved and headed by its provenance, and `run.json`.

    Raises:
        InputError: the folder holds another run.
    """
    run_dir = Path(config.run_dir)
    if not is_resumed:
        refuse_used_folder(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    head = "".join(f"# {name}: {value}\n" for name, value in provenance().items())
    write_text(head + yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True), run_dir / "config.yaml")
    RunRecord(
        overrides=[word for word in words if not word.startswith(OF_ONE_COMMAND)],
        mlflow_run_id=mlflow_run_id,
        data_digest=data_digest,
    ).write(run_dir)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined by dots: `{"model": {"alpha": 1}}` → `{"model.alpha": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def as_dict(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """The config in plain dicts, lists and values."""
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def parameters(config: DictConfig) -> dict[str, Any]:
    """The chosen values, flat: every value of the config once, under the key that decides it.

    A value that another one decides (`${seed}`, `${run_dir}/…`) is left out, so that two runs differ only in what
    was chosen. A value of a recipe is under the name of the part that uses it (`model.dim`); the name of the recipe is
    `recipe.name`. What a source does not have (`datamodule.columns.skipped=null`) and its SQL are left out too.
    """
    values = flatten(as_dict(config))
    return {
        name: values[name]
        for name, text in flatten(as_dict(config, resolve=False)).items()
        if not _ELSEWHERE.search(str(text))
        and name.partition(".")[0] not in _OF_THE_RUN
        and (not name.startswith("recipe.") or name == "recipe.name")
        and not (name.startswith("datamodule.") and values[name] in (None, {}, [], "auto"))
        and not name.startswith(("datamodule.sql.", "datamodule.catalogue.sql.", "datamodule.attribute_defaults."))
    }


_ELSEWHERE = re.compile(r"\$\{(oc\.select:)?(?!recipe\.)[a-z_]+(\.[a-z_]+)*(,null)?\}")


def digest(config: dict[str, Any]) -> str:
    """Sixteen hex digits that are equal for configs of the same run, in whichever folder or store."""
    kept = {name: value for name, value in config.items() if name not in _OF_THE_RUN}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def setup_name(
    *,
    model: str,
    alpha: float | str | None,
    parts: Sequence[str] | None = None,
    recipe: str,
    context: str,
    overrides: Sequence[str],
    swept: Sequence[str],
) -> str:
    """A name that distinguishes the set-ups of a sweep: `convex α=0.9`, or `track loss=bce lr=0.01`.

    Args:
        parts: its parts, where they are named: they are shown instead of alpha.
        recipe: name of the recipe; it is shown if the command line chose it.
        context: name of the context; it is not shown if it is `last`, or that of the model.
        swept: the keys that a sweep gives several values.
    """
    model = context if model == "convex" and (CONF / "model" / f"{context}.yaml").is_file() else model
    mix = "+".join(parts) if parts is not None else f"α={short(alpha)}" if alpha is not None else ""
    is_chosen = any(word.startswith(("recipe=", "experiment=")) for word in overrides)
    is_usual = context in ("last", model) or (context == "session" and _has_own_context(model))
    words = [model, mix, recipe if is_chosen else "", "" if is_usual else f"context={context}"]
    pairs = (word.lstrip("+~").partition("=") for word in overrides)
    words += [
        f"{key.rpartition('.')[2]}={short(value)}" for key, _, value in pairs if key in swept and key not in _SHOWN
    ]
    name = " ".join(filter(None, words))
    return name if len(name) <= 100 else f"{name[:99]}…"


# Keys that are in the name already, or in none.
_SHOWN = ("model", "model.alpha", "model.parts", "experiment", "recipe", "context", "seed")


def short(value: object) -> str:
    """A number with four significant digits."""
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)
