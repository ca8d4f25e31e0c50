"""What a person at the terminal meets: the entry of a verb, errors as one line, progress bars."""

import difflib
import errno
import functools
import gc
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.errors import InputError, JobsFailed
from src.runs.cores import SPINS

if TYPE_CHECKING:
    pass

ROOT = Path(__file__).resolve().parents[2]
"""The clone: `conf/` and the verbs lie here."""

_THE_DISKS = {
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC,
    errno.EDQUOT,
}  # fmt: skip

console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def verb(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a config the entry of a verb.

    Hydra composes `conf/<config_name>.yaml` and the command line. What the user can mend ends as one line and exit
    code 2, an interruption with 130; anything else is a bug of ours and keeps its traceback. `src/sweeps/jobs.py` runs
    the jobs of a multirun: one that fails does not stop the others. An empty run folder is removed.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"

        def line_of(error: Exception) -> str | None:
            return None if wants_traceback else message(error)

        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            try:
                return task(config)
            except Exception as error:
                if (line := line_of(error)) is None:
                    raise
                show_error(line)
                sys.exit(2)  # what Hydra hands on without a word
            finally:
                remove_if_empty(Path(HydraConfig.get().runtime.output_dir))

        @functools.wraps(task)
        def main() -> None:
            os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
            try:
                sys.argv = [sys.argv[0], *_for_hydra(sys.argv[1:], config_name)]
                from src.sweeps.search import register

                register(full_errors=wants_traceback)
                # --help would copy all of the store for each group it lists, half of its time; loading copies anyway
                ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
                hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(job)()
            except (KeyboardInterrupt, SystemExit) as stopped:
                if not is_interrupt(stopped):
                    raise
                errors.print("interrupted")
                sys.exit(130)
            except JobsFailed as failed:
                errors.print(f"[bold red]error:[/] {escape(str(failed))}")
                sys.exit(2)
            except Exception as error:
                if (line := line_of(error)) is None:
                    raise
                show_error(line)
                sys.exit(2)
            finally:
                gc.freeze()  # what ends would else be searched for garbage once more, for seconds

        return main

    return decorate


def _for_hydra(words: list[str], verb_name: str) -> list[str]:
    """The command line as Hydra has to be given it.

    Raises:
        InputError: a search is asked for that there is not, or without `-m`.
    """
    if verb_name == "serve":
        return [f"do={word}" if word in ("load", "rollback", "versions") else _experiment_name(word) for word in words]
    if verb_name == "compare":
        words = [_quoted(word) if word.startswith("filter=") else word for word in words]
    if verb_name != "train":
        return [_experiment_name(word) for word in words]
    if any(word.startswith("resume=") for word in words):
        from src.runs.resume import repeated

        words = repeated(words)
    for word in words:
        if (asked := re.match(r"search=(.*)", word)) is None:
            continue
        known = sorted(path.stem for path in (ROOT / "conf/hydra/sweeper").glob("*.yaml") if path.stem != "jobs")
        if asked[1] not in known:
            raise InputError(f"search must be one of {', '.join(known)}, got {asked[1]!r}")
        if not {"-m", "--multirun"} & set(words):
            raise InputError(f"{word} makes many runs; add -m: python train.py -m {shlex.join(words)}")
    return [re.sub(r"^search=", "hydra/sweeper=", re.sub(r"^search\.", "hydra.sweeper.", word)) for word in words]


def _quoted(word: str) -> str:
    """What has signs of Hydra's own language in its value, such as `filter=params.seed = '1'`, as plain text."""
    key, _, value = word.partition("=")
    if re.fullmatch(r"(['\"]).*\1", value):
        return word
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'


def _experiment_name(word: str) -> str:
    """Of verbs other than `train`: `conf/experiment/` would make Hydra look there for a file of that name."""
    return re.sub("^experiment=", "experiment_name=", word)


def is_interrupt(stopped: BaseException) -> bool:
    """Whether it is Ctrl-C, or what Lightning makes of it."""
    return isinstance(stopped, KeyboardInterrupt) or (
        isinstance(stopped, SystemExit) and isinstance(stopped.__context__, KeyboardInterrupt)
    )


def hush_libraries() -> None:
    """Silence what Lightning and its friends say about themselves on every run; call before they are imported."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    # prints a traceback where a store is locked; what a store did not take is said by the run logger. A filter, since
    # MLflow sets levels of its own
    logging.getLogger("mlflow.store.db.utils").addFilter(lambda _: False)
    for message in (
        ".*does not have many workers.*",  # batches are cut from tensors, there is nothing for workers to do
        ".*smaller than the logging interval.*",  # metrics are per epoch
        ".*LeafSpec.*deprecated.*",  # inside Lightning
    ):
        warnings.filterwarnings("ignore", message=message)


def show_error(line: str) -> None:
    """Print the one line of an error."""
    errors.print(f"[bold red]error:[/] {escape(line)}")


def message(error: BaseException) -> str | None:
    """The line for an error that the user can mend; None for a bug of ours."""
    if isinstance(error, InputError):
        return _one_line(str(error))
    if isinstance(error, InstantiationException):
        cause = error.__cause__ or error
        where = re.search(r"full_key: (\S+)", str(error))
        if isinstance(cause, InputError) or where is None:
            return _one_line(str(cause))
        remedy = "; use trainer.accelerator=cpu" if "No supported gpu backend" in str(cause) else ""
        return _one_line(f"{where[1]}: {cause}{remedy}")
    if isinstance(error, ConfigCompositionException):
        if missing := re.search(r"(In '.+': )?Could not override '(\S+)'. No match in the defaults list", str(error)):
            return f"{missing[1] or ''}{missing[2]}= means nothing here: what else was chosen has none; leave it out"
        return _one_line(f"{error}{_close_key(error)}")
    if type(error) is ValueError and str(error).startswith("Config group override must be"):
        return "a config group cannot be null; name one of its choices, such as logger=none"
    if isinstance(error, OSError) and error.errno in _THE_DISKS:
        path = "this disk" if error.filename is None else error.filename
        return f"cannot use {path}: {error.strerror}; choose another folder with hydra.run.dir=<folder>"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _one_line(str(error))
    return None


def _close_key(error: ConfigCompositionException) -> str:
    """A hint at the key that was probably meant, where a misspelt one was overridden."""
    missing = re.search(r"Could not override '([\w.]+)'", str(error))
    node = getattr(error.__cause__, "parent_node", None)
    if missing is None or node is None:
        return ""
    *parents, name = missing[1].split(".")
    close = difflib.get_close_matches(name, map(str, node.keys()), n=1)
    return f" Did you mean {'.'.join([*parents, close[0]])}?" if close else ""


def _one_line(message: str) -> str:
    message = re.sub(r"\s*\n\s*full_key: .*", "", message)
    message = re.sub(r"\nSet the environment variable HYDRA_FULL_ERROR.*", "", message)
    return re.sub(r"\s+", " ", message).strip()


def remove_if_empty(folder: Path) -> None:
    """Remove a run folder that nothing was written to, and those above it that were made for it."""
    try:
        folder.rmdir()
    except OSError:
        return
    for parent in folder.parents[:2]:
        if not parent.is_relative_to(Path.cwd() / "outputs"):  # only that was surely made for it
            return
        try:
            parent.rmdir()
        except OSError:
            return


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for `total` steps; call what it yields with the number of steps done. It goes when it is full."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    hidden = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as bars:
        task = bars.add_task(label, total=total)
        yield lambda steps: bars.advance(task, steps)


@contextmanager
def arm_bars(planned: Mapping[str, int]) -> Iterator[Callable[[str, int, float], None]]:
    """A bar for each arm: sessions played of those planned, and their mean time so far. They go when all are full."""
    counted = TextColumn("{task.fields[text]}")
    hidden = not console.is_terminal
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), counted, TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        lines = {arm: bars.add_task(arm, total=sessions, text="") for arm, sessions in planned.items()}

        def report(arm: str, sessions: int, mean_time: float) -> None:
            bars.update(lines[arm], advance=sessions, text=f"{mean_time:.2f} a session")

        yield report
