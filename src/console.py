"""What a person at the terminal meets: the entry of a verb, errors as one line, progress bars."""

import difflib
import errno
import functools
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from src.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
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
    code 2, an interruption with 130; anything else is a bug of ours and keeps its traceback. A job that fails in a
    multirun does not stop the others; the failed ones are listed at the end. An empty run folder is removed.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
        failed: list[str] = []

        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            try:
                return task(config)
            except Exception as error:
                message = None if wants_traceback else _message(error)
                if message is None:
                    raise
                _show_error(message)
                failed.append(" ".join(HydraConfig.get().overrides.task))
                return None
            finally:
                _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
            if config_name != "train":  # whose conf/experiment/ would make Hydra look there for a file of that name
                sys.argv = [re.sub("^experiment=", "experiment_name=", word) for word in sys.argv]
            if config_name == "serve":
                sys.argv = [f"do={word}" if word in ("load", "rollback", "versions") else word for word in sys.argv]
            try:
                hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(job)()
            except (KeyboardInterrupt, SystemExit) as stopped:
                if not isinstance(stopped, KeyboardInterrupt) and not isinstance(
                    stopped.__context__, KeyboardInterrupt
                ):
                    raise
                errors.print("interrupted")
                sys.exit(130)
            except Exception as error:
                message = None if wants_traceback else _message(error)
                if message is None:
                    raise
                _show_error(message)
                sys.exit(2)
            if failed:
                if "-m" in sys.argv or "--multirun" in sys.argv:
                    errors.print(f"[bold red]{len(failed)} jobs failed:[/] {escape('; '.join(failed))}")
                sys.exit(2)

        return main

    return decorate


def hush_libraries() -> None:
    """Silence what Lightning and its friends say about themselves on every run; call before they are imported."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are cut from tensors, there is nothing for workers to do
        ".*smaller than the logging interval.*",  # metrics are per epoch
        ".*LeafSpec.*deprecated.*",  # inside Lightning
    ):
        warnings.filterwarnings("ignore", message=message)


def _show_error(message: str) -> None:
    errors.print(f"[bold red]error:[/] {escape(message)}")


def _message(error: BaseException) -> str | None:
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


def _remove_if_empty(folder: Path) -> None:
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


def arms_table(arms: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], title: str) -> Table:
    """What the listeners of each arm made of it; brackets hold 95 % intervals over listeners."""
    table = Table("arm", "recommender", title=escape(title), title_justify="left", caption_justify="left")
    for column in ("sessions", "time a session", "tracks a session"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm, row in arms.items():
        means = [
            f"[bold]{row[name]:.2f}[/] \\[{row[name + '_lower']:.2f}, {row[name + '_upper']:.2f}]".replace("nan", "–")
            for name in ("mean_time_per_session", "mean_tracks_per_session")
        ]
        table.add_row(arm, Text(names[arm], overflow="fold"), f"{row['sessions']:,}", *means)
    chance = {arm: row["fallbacks"] / row["steps"] for arm, row in arms.items() if row["fallbacks"]}
    if chance:
        table.caption = "had nothing to recommend and played any track: " + ", ".join(
            f"{arm} {share:.1%}" for arm, share in chance.items()
        )
    return table


def effects_table(record: Mapping[str, Any]) -> Table:
    """Effects of an A/B test: green is better, red worse, plain not sure; latency the other way round."""
    caption = "\n".join(f"{arm}: {verdict}" for arm, verdict in record["verdicts"].items())
    title = escape(f"A/B test {record['experiment']}")
    table = Table("arm", "metric", title=title, title_justify="left", caption=escape(caption))
    table.caption_justify = "left"
    corrected = any(effect["holm_significant"] is not None for effect in record["effects"])
    for column in ("control", "treatment", "effect in %", *["Holm's p"] * corrected):
        table.add_column(column, justify="right", no_wrap=True)
    for effect in record["effects"]:
        sure = effect["significant"] if effect["holm_significant"] is None else effect["holm_significant"]
        colour = ("green" if effect["better"] else "red") if sure and not record["withheld"] else "default"
        weight = "bold " if effect["metric"] == record["primary"] else ""
        interval = f"\\[{effect['lower_percent']:+.1f}, {effect['upper_percent']:+.1f}]"
        cells = (
            f"[{weight}default]{effect['metric'].replace('_', ' ')}[/]",
            f"{effect['control_mean']:.4g}",
            f"{effect['treatment_mean']:.4g}",
            f"[{weight}{colour}]{effect['effect_percent']:+.1f}[/] {interval}",
            "<0.0001" if effect["holm_p_value"] < 1e-4 else f"{effect['holm_p_value']:.2g}",
        )
        missing = not math.isfinite(effect["p_value"])  # all values are the same, or the control mean is 0
        cells = (*cells[:3], "–", "–") if missing else cells
        table.add_row(escape(effect["treatment"]), *(cells[:-1] if effect["holm_significant"] is None else cells))
    return table


def frame_table(frame: "pd.DataFrame", title: str) -> Table:
    """A frame of whole numbers, a line a row; what is missing stays empty."""
    table = Table("", title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(str(column), justify="right")
    for name, row in frame.iterrows():
        table.add_row(str(name), *("" if gone else f"{value:,}" for value, gone in zip(row, row.isna(), strict=True)))
    return table


def metrics_table(metrics: Mapping[str, Any], title: str) -> Table:
    """The test metrics of a run, each beside its floors: `test/mse` beside `test/mse_mean_floor`, and so on."""
    test = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    floors = sorted({name.rsplit("_", 2)[1] for name in test if name.endswith("_floor")})
    table = Table("test", title=title, title_justify="left")
    for column in ("model", *floors):
        table.add_column(column, justify="right")
    for name, value in test.items():
        if name.endswith("_floor"):
            continue
        beside = (test.get(f"{name}_{floor}_floor") for floor in floors)
        table.add_row(name, f"[bold]{value:.4g}[/]", *("" if floor is None else f"{floor:.4g}" for floor in beside))
    return table
