"""When a run is resumed: the one that `resume=<run>` names, or, with `resume=true`, the one of the same config.

`words_of_run` restores the overrides of the run, `named_run` refuses another config, and `run_to_resume` decides.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from segue.errors import InputError
from segue.runs.folder import CHECKPOINT, RunRecord, as_dict, digest, flatten, refuse_used_folder
from segue.runs.hydra_text import quoted
from segue.runs.provenance import CONF
from segue.runs.targets import check_targets, read_config

# Keys that may change when a run is resumed: how long it trains, what it writes, where it is tracked, where the same
# data lie.
_MAY_CHANGE = (
    "trainer.", "callbacks.", "logger", "refit", "run_dir", "run_name", "resume", "trust", "parent_run_id", "swept",
    "trial", "datamodule.path", "datamodule.rejected_path",
)  # fmt: skip
_OF_THIS_COMMAND = ("resume", "trust")  # keys that a run does not hand on to the command that resumes it


@dataclass(frozen=True, kw_only=True)
class PreviousRun:
    """A run to resume.

    Args:
        run_id: of MLflow, if it has one.
        value: best value of the monitored metric of a run that is finished; None of one that is not.
    """

    run_dir: Path
    run_id: str | None
    value: float | None = None

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to continue from; None where no epoch was finished."""
        path = self.run_dir / CHECKPOINT
        return path if path.exists() else None


def words_of_run(words: Sequence[str], folder_of: Callable[[str, str | None], Path]) -> list[str]:
    """The command line of a resumed run: its own overrides, then those of `resume=<run>`'s command line.

    The config is therefore composed as before, in the same folder. Other command lines are returned unchanged.

    Args:
        words: the command line.
        folder_of: from the name of a run, and the store if the command line names one, to the run folder.

    Raises:
        InputError: there is no such run, it is not on this machine, or one of its words is unsafe.
    """
    named = _values(words, "resume")
    if not named or named[-1].lower() in ("true", "false", "null", ""):
        return list(words)
    if {"-m", "--multirun"} & set(words):
        raise InputError(f"resume={named[-1]} resumes one run; in a sweep use resume=true, which skips finished runs")
    folder = folder_of(named[-1], next(reversed(_values(words, "logger.tracking_uri")), None)).resolve()
    given = [word for word in words if not word.startswith(("resume=", "hydra.run.dir="))]
    replaced = {_key(word) for word in given} | set(_OF_THIS_COMMAND)
    before = [word for word in RunRecord.read(folder).overrides if _key(word) not in replaced]
    for word in before:
        _refuse_unsafe(word, folder)
    return [*before, *given, *(f"{key}={quoted(str(folder))}" for key in ("resume", "hydra.run.dir"))]


def _values(words: Sequence[str], key: str) -> list[str]:
    return [word.partition("=")[2].strip("'\"") for word in words if word.startswith(f"{key}=")]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _refuse_unsafe(word: str, folder: Path) -> None:
    """Refuse a word of a run that acts before its targets can be checked: Hydra itself obeys it, or reads other files.

    No run leaves such words, unless its command had a reference to an environment variable, or an `@`.
    """
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:  # an option, such as --config-dir
        is_safe = False
    else:
        key = override.key_or_group
        is_of_hydra = re.split(r"[./]", key)[0] in ("hydra", "search", *_OF_THIS_COMMAND)
        reads = (CONF / key).is_dir() and any(sign in str(override.value()) for sign in "/$")
        refers = "${" in _TO_A_SETTING.sub("", word)
        is_safe = not (is_of_hydra or override.package is not None or reads or refers)
    if not is_safe:
        raise InputError(
            f"resume={folder}: its run.json has the setting {word}, which Hydra would obey before anything is "
            f"checked; if it is yours, type {_key(word)}=<value> again, otherwise do not resume this run"
        )


_TO_A_SETTING = re.compile(r"\$\{[\w.]+\}")


def check_resumed_targets(config: DictConfig) -> None:
    """Refuse to resume a run whose settings build what is not in `conf/`; its `run.json` may be anybody's.

    Args:
        config: composed with the overrides of the run.

    Raises:
        InputError: they do, and `trust=` does not name the package.
    """
    if config.resume not in (None, True, False):
        check_targets(as_dict(config), trust=config.trust, of=f"resume={config.resume}")


def named_run(config: DictConfig) -> PreviousRun | None:
    """The run that `resume=<folder>` names; None where none is named. Asked before any data is read.

    Raises:
        InputError: it was another run than this config makes, or a new run would be written over another.
    """
    if config.resume in (None, False):
        refuse_used_folder(Path(config.run_dir))
        return None
    if config.resume is True:  # the run may be the one in this very folder
        if not config.get("logger"):
            raise InputError(
                "resume=true looks for the run in MLflow, and logger=none has none; give resume=<run folder>"
            )
        return None
    folder = Path(str(config.resume))
    _refuse_another(folder, config)
    return PreviousRun(run_dir=folder, run_id=RunRecord.read(folder).mlflow_run_id)


def run_to_resume(
    named: PreviousRun | None, same: Sequence[PreviousRun], *, data: Path, data_digest: str
) -> PreviousRun | None:
    """The run to resume; None where a new one starts.

    Args:
        named: the one that the command line names.
        same: with `resume=true`, those of the same config on the same data, newest first. The newest finished one is
            taken, or else the newest that was started.

    Raises:
        InputError: the data has changed since.
    """
    if named and RunRecord.read(named.run_dir).data_digest != data_digest:
        raise InputError(f"resume={named.run_dir}: {data} has other data than it began with; start a new run")
    finished = [run for run in same if run.value is not None]
    return named or next(iter([*finished, *same]), None)


def config_digest(config: DictConfig) -> str:
    """Equal for all configs that make the same run, under the same names."""
    return digest(_plain(config))


def setup_digest(config: DictConfig) -> str:
    """Equal for all configs that make the same run but for the seed."""
    return digest(_plain(config, seed=0))


def _plain(config: DictConfig, **changes: Any) -> dict[str, Any]:
    """The config, resolved, as if its run folder were the current one."""
    copy = config.copy()
    copy.merge_with({"run_dir": ".", "run_name": "", **changes})
    return as_dict(copy)


def _refuse_another(folder: Path, config: DictConfig) -> None:
    if not (folder / "config.yaml").exists():
        return
    was, now = (flatten(one) for one in (read_config(folder / "config.yaml"), as_dict(config)))
    for name in sorted(was.keys() | now.keys(), key=lambda name: (name.count("."), name)):
        if not name.startswith(_MAY_CHANGE) and was.get(name, "absent") != now.get(name):
            raise InputError(
                f"resume={folder}: a run is resumed with its own settings, and {name} was {was.get(name, 'absent')}, "
                f"not {now.get(name)}; start a new run"
            )
