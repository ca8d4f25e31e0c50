"""Going on with a run that was begun earlier: the one that is named, or whichever is the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.errors import InputError
from src.runs.folder import CHECKPOINT, Begun, as_dict, digest, flatten

_MAY_CHANGE = ("trainer.", "callbacks.", "logger.", "run_dir", "run_name", "resume", "parent_run_id", "swept", "trial")
"""What a run may be told differently when it goes on: how long, what it writes, where it is tracked."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A run to go on with.

    Args:
        run_dir: its folder.
        run_id: of MLflow, if it has one.
        value: best value of the monitored metric of a run that is finished; None of one that is not.
    """

    run_dir: Path
    run_id: str | None
    value: float | None = None

    @property
    def checkpoint(self) -> Path | None:
        """Where training goes on from; None where no epoch was finished."""
        path = self.run_dir / CHECKPOINT
        return path if path.exists() else None


def repeated(words: Sequence[str]) -> list[str]:
    """A command line that has `resume=<run folder or run id>`, with what that run was given before what is given now.

    So the config is composed as it was then, in the same folder. Other command lines stay as they are.

    Raises:
        InputError: there is no such run, or it is not on this machine.
    """
    named = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("resume=")]
    if not named or named[-1].lower() in ("true", "false", "null", ""):
        return list(words)
    if {"-m", "--multirun"} & set(words):
        raise InputError(f"resume={named[-1]} goes on with one run; in a sweep use resume=true, it skips what is done")
    folder = Path(named[-1])
    if not folder.is_dir():
        uri = [word.partition("=")[2] for word in words if word.startswith("logger.tracking_uri=")]
        folder = _folder_of(named[-1], uri[-1] if uri else None)
    folder = folder.resolve()
    begun = Begun.read(folder)
    if Path(begun.run_dir) != folder:
        raise InputError(
            f"resume={folder}: it was {begun.run_dir} when it began, which its checkpoints name; move it back"
        )
    if Path(begun.began_in) != Path.cwd():
        raise InputError(
            f"resume={folder}: it began in {begun.began_in}, where its data and its store are; go there first"
        )
    given = [word for word in words if not word.startswith(("resume=", "hydra.run.dir="))]
    again = {_key(word) for word in given}
    before = [word for word in begun.overrides if _key(word) not in again | {"resume"}]
    escaped = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [*before, *given, f"resume='{escaped}'", f"hydra.run.dir='{escaped}'"]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _folder_of(run_id: str, tracking_uri: str | None) -> Path:
    from src.tracking.store import store_that_is_there, talking_to

    try:
        with talking_to(store_that_is_there(tracking_uri)) as client:
            folder = Path(client.get_run(run_id).data.tags.get("run_dir", ""))
    except InputError as error:
        raise InputError(f"resume={run_id} is no folder, and no run either: {error}") from None
    if not (folder / "run.json").exists():
        raise InputError(f"resume={run_id}: its run folder {folder} is not on this machine; resume it where it ran")
    return folder


def named_run(config: DictConfig) -> Earlier | None:
    """The run that `resume=<folder>` names; None where none is named.

    Raises:
        InputError: it was another run than this config makes.
    """
    if config.resume is True and not config.get("logger"):
        raise InputError("resume=true looks for the run in MLflow, and logger=none has none; give resume=<run folder>")
    if config.resume in (None, False, True):
        return None
    folder = Path(str(config.resume))
    _refuse_another(folder, config)
    return Earlier(run_dir=folder, run_id=Begun.read(folder).mlflow_run_id)


def same_run(config: DictConfig, data_digest: str) -> Earlier | None:
    """The newest run of the same config on the same data: one that is finished, or else one that was begun.

    Raises:
        InputError: the store cannot be used.
    """
    from src.tracking.store import INTERRUPTED, PRUNED, find_runs, open_store

    uri, experiment = config.logger.tracking_uri, config.logger.experiment_name
    open_store(uri, experiment)
    same = {"config_digest": config_digest(config), "data_digest": data_digest}
    runs = find_runs(uri, experiment, " AND ".join(f"tags.{name} = '{value}'" for name, value in same.items()))
    begun = None
    for run in runs:
        folder = Path(run.data.tags.get("run_dir", ""))
        if run.info.status == "FINISHED" and not {INTERRUPTED, PRUNED} & run.data.tags.keys():
            value = run.data.metrics.get(config.monitor.metric, float("nan"))
            return Earlier(run_dir=folder, run_id=run.info.run_id, value=value)
        if begun is None and (folder / "run.json").exists():
            begun = Earlier(run_dir=folder, run_id=run.info.run_id)
    return begun


def config_digest(config: DictConfig) -> str:
    """Equal for all configs that make the same run."""
    return digest(_plain(config))


def setup_digest(config: DictConfig) -> str:
    """Equal for all configs that make the same run but for the seed."""
    return digest(_plain(config, seed=0))


def _plain(config: DictConfig, **changes: Any) -> dict[str, Any]:
    """The config, resolved, as if its run folder were the current one."""
    copy = config.copy()
    for name, value in {"run_dir": ".", "run_name": "", **changes}.items():
        copy[name] = value
    return as_dict(copy)


def _refuse_another(folder: Path, config: DictConfig) -> None:
    path = folder / "config.yaml"
    if not path.exists():
        return
    before = OmegaConf.load(path)
    assert isinstance(before, DictConfig)
    was, now = _comparable(before), _comparable(config)
    for name in sorted(was.keys() | now.keys(), key=lambda name: (name.count("."), name)):
        if was.get(name) != now.get(name):
            raise InputError(
                f"resume={folder}: a run goes on as it was, and {name} was {was.get(name)}, not {now.get(name)}; "
                "start a new run for that (what may change: trainer.*, callbacks.*, logger.*)"
            )


def _comparable(config: DictConfig) -> dict[str, Any]:
    return {name: value for name, value in flatten(as_dict(config)).items() if not name.startswith(_MAY_CHANGE)}
