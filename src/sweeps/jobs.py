"""Many runs from one command: `python train.py -m model=track,artist`, with whichever of Hydra's launchers."""

import importlib
import inspect
import io
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from src.errors import InputError, JobFailed, JobsFailed, check_number
from src.runs.folder import remove_if_empty, short_run_name
from src.runs.provenance import ROOT, provenance
from src.terminal.console import console, errors
from src.terminal.hydra_parts import VerbSweeper
from src.terminal.messages import is_interrupt, message, show_error

Jobs = list[list[str]]
"""Overrides of each job."""

VerbTask = Callable[[DictConfig], Any]


class Sweep(VerbSweeper):
    """Hydra's basic sweeper, but for three things.

    Where there is a logger, the runs of the jobs hang below one parent run in MLflow: every job is given its id as
    `parent_run_id=`, so that it reaches processes and machines that a launcher starts. A job that fails stops no
    other; the failed ones are listed at the end, and the verb exits with code 2. And it says what to type next.

    Args:
        max_batch_size: jobs handed to the launcher at once; None for all.
    """

    def __init__(self, max_batch_size: int | None = None) -> None:
        if max_batch_size is not None:
            check_number("hydra.sweeper.max_batch_size", max_batch_size, whole=True, least=1)
        self._max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: VerbTask, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context,
            task_function=Job(inspect.unwrap(task_function), self.full_errors),
            config=config,
        )

    @property
    def cfg(self) -> DictConfig:
        """The config of the command line, without what is swept."""
        assert self.config is not None
        return self.config

    @property
    def folder(self) -> Path:
        """Where the jobs have their run folders."""
        return Path(str(self.cfg.hydra.sweep.dir))

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run every combination of what is swept.

        Raises:
            JobsFailed: some of them failed.
            InputError: something cannot be swept.
        """
        overrides = self.parsed(arguments)
        if intervals := [o.input_line for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]:
            raise InputError(f"{intervals[0]} has no end of values; name some, or add search=optuna")
        jobs = every_combination(overrides)
        size = self._max_batch_size or max(len(jobs), 1)
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        for batch in batches:
            self.validate_batch_is_legal(batch)
        self.write_down()
        results: list[JobReturn] = []
        swept = [o.key_or_group for o in overrides if o.is_sweep_override()]
        with self.parent(" ".join(str(o.input_line) for o in overrides if o.is_sweep_override())) as parent:
            for batch in batches:
                results += self.launch(batch, len(results), parent, swept)
            self._conclude(results, parent, swept)
        return results

    def parsed(self, arguments: Sequence[str]) -> list[Override]:
        """Words of the command line, as Hydra understands them."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed: list[Override] = parser.parse_overrides(list(arguments))
        return parsed

    def composed(self, words: Sequence[str]) -> DictConfig | None:
        """The config of a command line; None where its words contradict each other."""
        assert self.hydra_context is not None
        try:
            return self.hydra_context.config_loader.load_configuration(
                config_name=self.cfg.hydra.job.config_name, overrides=list(words), run_mode=RunMode.MULTIRUN
            )
        except ConfigCompositionException:
            return None

    def write_down(self) -> None:
        """Leave `multirun.yaml`, as Hydra's own sweeper does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.cfg, self.folder / "multirun.yaml")

    def launch(self, jobs: Jobs, first: int, parent: str | None, swept: Sequence[str]) -> Sequence[JobReturn]:
        """Run jobs, wherever the launcher does.

        Args:
            jobs: their overrides.
            first: number of the first one; the others follow.
            parent: the run in MLflow that they hang below.
            swept: the keys that tell them apart.

        Raises:
            InputError: the launcher lost a job, which died without an exception.
        """
        below = [] if parent is None else [f"parent_run_id='{parent}'"]  # an id can look like a number
        below += [f"swept=[{','.join(swept)}]"] if "swept" in self.cfg else []
        assert self.launcher is not None
        with _ready_for(self.launcher, len(jobs)):
            try:
                return self.launcher.launch([[*job, *below] for job in jobs], initial_job_idx=first)
            except Exception as error:
                if not isinstance(error, BrokenProcessPool) and not type(error).__module__.startswith("submitit."):
                    raise
                signal = re.search(r"SIG[A-Z]+", str(error))
                why = signal[0] if signal else next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
                raise InputError(
                    f"the process of a job died ({why}), perhaps for want of memory, and its neighbours were stopped; "
                    "the same command with resume=true does what is missing; fewer at once need less memory"
                ) from error

    @contextmanager
    def parent(self, name: str) -> Iterator[str | None]:
        """The run in MLflow that the jobs hang below, ended when they have; None where nothing is logged."""
        logger = self.cfg.get("logger")
        if not logger or self.cfg.trainer.fast_dev_run:
            yield None
            return
        from src.tracking.store import end_parent, start_parent

        run_id = start_parent(
            logger.tracking_uri,
            logger.experiment_name,
            self.cfg.get("run_name") or name or "multirun",
            self.folder.resolve(),
            resume=bool(self.cfg.get("resume")),
            tags=provenance(),
        )
        failed = True
        try:
            yield run_id
            failed = False
        finally:
            try:
                end_parent(logger.tracking_uri, run_id, failed=failed)
            except InputError as error:  # which must not take the place of what went wrong before
                show_error(str(error))

    def _conclude(self, results: Sequence[JobReturn], parent: str | None, swept: Sequence[str]) -> None:
        """Say where everything is and what comes next.

        Raises:
            JobsFailed: some jobs did.
        """
        console.print(f"{len(results)} jobs in {self.folder}", soft_wrap=True, markup=False)
        if parent:
            command = f"python compare.py parent={short_run_name(parent)}"
            console.print(f"next         {command}", soft_wrap=True, markup=False)
        failed = {number: why for number, result in enumerate(results) if (why := failure(result)) is not None}
        if failed:
            lines = [f"{len(failed)} of {len(results)} jobs failed:"]
            for number, why in failed.items():
                words = results[number].overrides or ()
                settings = " ".join(word for word in words if word.partition("=")[0].lstrip("+") in swept)
                lines.append(f"  {number} {settings}: {why}")
            raise JobsFailed("\n".join(lines))


def every_combination(overrides: Sequence[Override]) -> Jobs:
    """The jobs of a sweep, the last key varying fastest; of a key that is given twice the last word counts."""
    words: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        swept = override.is_sweep_override()
        values = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
        words[key] = [f"{key}={value}" for value in values]
    return [list(job) for job in itertools.product(*words.values())]


def failure(result: JobReturn) -> str | None:
    """The line of a job that failed; None for one that did not."""
    if result.status != JobStatus.FAILED:
        return None
    with redirect_stderr(io.StringIO()):  # Hydra prints that it failed, which it has said itself
        try:
            _ = result.return_value
        except Exception as error:
            return str(error)
    raise AssertionError("Hydra gives the value of a job that failed")


class Job:
    """The task of a verb as a job of a multirun.

    It travels to another process as the name of the verb's file and function, since what a verb holds (a terminal, a
    lock) does not. There, its lines are headed by the number of the job, and no bar moves: its neighbours print too.

    Args:
        task: the function that the verb was made of.
        full_errors: show a traceback for whatever fails, not only for our bugs.
    """

    def __init__(self, task: VerbTask, full_errors: bool) -> None:
        self._task, self._full_errors, self._elsewhere = task, full_errors, False

    def __reduce__(self) -> tuple[Any, ...]:
        path = Path(inspect.getfile(self._task))
        return _arrived, (path.parent, path.stem, self._task.__name__, self._full_errors, sys.argv)

    def __call__(self, config: DictConfig) -> Any:
        """Run it.

        Raises:
            JobFailed: it failed, and has said so.
        """
        if self._elsewhere:
            head = f"[{HydraConfig.get().job.num}] "
            console.file = cast(IO[str], _Headed(sys.stdout, head))
            errors.file = cast(IO[str], _Headed(sys.stderr, head))
        try:
            return self._task(config)
        except SystemExit as stopped:
            if is_interrupt(stopped):
                raise KeyboardInterrupt from None
            raise
        except Exception as error:
            line = message(error)
            if line is None or self._full_errors:
                errors.print(traceback.format_exc(), markup=False)
            line = line or f"{type(error).__name__}: {error}"
            show_error(line)
            raise JobFailed(line) from None
        finally:
            remove_if_empty(Path(HydraConfig.get().runtime.output_dir))


def _arrived(folder: Path, module: str, name: str, full_errors: bool, argv: list[str]) -> Job:
    """A job in the process that is to run it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    sys.argv = argv  # a run tells of the command that began it
    job = Job(inspect.unwrap(getattr(importlib.import_module(module), name)), full_errors)
    job._elsewhere = True
    return job


class _Headed:
    """A stream whose lines are headed; what is written at once stays together."""

    def __init__(self, stream: Any, head: str) -> None:
        self._stream, self._head = stream, head

    def write(self, text: str) -> int:
        self._stream.write("".join(self._head + line for line in text.splitlines(keepends=True)))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False


@contextmanager
def _ready_for(launcher: Any, num_jobs: int) -> Iterator[None]:
    """What processes that a launcher starts need of the environment.

    They find `src`, and where all run at once on this machine they share its cores; joblib sees to both itself.
    """
    wanted = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if type(launcher).__name__ == "LocalLauncher" and "OMP_NUM_THREADS" not in os.environ:
        wanted["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // num_jobs))
    with env_override(wanted):
        yield
