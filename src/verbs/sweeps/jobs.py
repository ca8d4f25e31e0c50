"""Many runs from one command: `python train.py -m model=track,artist`, with any of Hydra's launchers."""

import importlib
import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import IO, Annotated, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, env_override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from segue.errors import InputError, JobFailed, JobsFailed
from segue.reports.console import console, errors
from segue.runs.folder import short_run_name
from segue.runs.provenance import ROOT, call_of, command_line, provenance, running
from segue.settings import Setting, settings
from segue.verbs.terminal.hydra_parts import VerbSweeper
from segue.verbs.terminal.messages import is_interrupt, message, show_error

IN_A_MULTIRUN = (
    "trainer=ddp trains one run in several processes, which a multirun (-m) cannot; leave out -m, or leave out "
    "trainer=ddp and run several jobs at once with hydra/launcher=joblib"
)
"""Why `trainer=ddp` is refused."""


MaxBatchSize = Annotated[int | None, Setting("number of jobs that the launcher gets at once; null: all", least=1)]


@settings("hydra.sweeper")
class Sweep(VerbSweeper):
    """Hydra's basic sweeper with three additions.

    1. With a logger, the runs of the jobs are children of one parent run in MLflow. Every job gets the id of the
       parent as the override `parent_run_id=`, which also reaches other processes and machines.
    2. A failed job does not stop the others. Failed jobs are listed at the end, and the exit code is 2.
    3. It prints the next command.
    """

    def __init__(self, *, max_batch_size: MaxBatchSize = None) -> None:
        self._max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: Callable[..., Any], config: DictConfig) -> None:
        """Take what Hydra gives before `sweep`.

        Raises:
            InputError: the trainer trains one run in several processes.
        """
        if OmegaConf.select(config, "trainer.strategy") is not None:
            raise InputError(IN_A_MULTIRUN)
        self.hydra_context, self.config = hydra_context, config
        self.cfg, self.folder = config, Path(str(config.hydra.sweep.dir))
        job = Job(inspect.unwrap(task_function), self.full_errors)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=job, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run every combination of the swept values.

        Raises:
            JobsFailed: some jobs failed.
            InputError: a value is an interval, or a job's process died.
        """
        overrides = self.parsed(arguments)
        if intervals := [o.input_line for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]:
            raise InputError(
                f"{intervals[0]} is an interval, and a sweep needs a list of values; name values, or add search=optuna"
            )
        batches = [batch for batch in self.split_arguments(overrides, self._max_batch_size) if batch]
        for batch in batches:
            self.validate_batch_is_legal(batch)
        results: list[JobReturn] = []
        swept = [override for override in overrides if override.is_sweep_override()]
        keys = [override.key_or_group for override in swept]
        with self.parent(" ".join(str(override.input_line) for override in swept)) as parent:
            for batch in batches:
                results += self.launch(batch, len(results), parent, keys)
            self._conclude(results, parent, keys)
        return results

    def parsed(self, arguments: Sequence[str]) -> list[Override]:
        """Parse overrides of the command line."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return list(parser.parse_overrides(list(arguments)))

    def launch(
        self, jobs: Sequence[Sequence[str]], first: int, parent: str | None, swept: Sequence[str]
    ) -> Sequence[JobReturn]:
        """Run jobs with the launcher.

        Args:
            jobs: overrides of each job.
            first: number of the first job; the others have the following numbers.
            parent: id of their parent run in MLflow; None if nothing is logged.

        Raises:
            InputError: the process of a job died without an exception.
        """
        common = [] if parent is None else [f"parent_run_id='{parent}'"]  # quoted, since an id can look like a number
        common += [f"swept=[{','.join(swept)}]"] if "swept" in self.cfg else []
        assert self.launcher is not None
        try:
            with env_override(environment_of(self.launcher, len(jobs))):
                return self.launcher.launch([[*job, *common] for job in jobs], initial_job_idx=first)
        except Exception as error:
            of_launcher = type(error).__module__.startswith(("submitit.", "ray."))
            if not of_launcher and not isinstance(error, BrokenProcessPool):
                raise
            signal = re.search(r"SIG[A-Z]+", str(error))
            why = signal[0] if signal else (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            others = "the jobs beside it may still run" if of_launcher else "the jobs beside it were stopped"
            raise InputError(
                f"the process of a job died ({why}), and {others}; a possible cause is too little memory; run "
                "fewer jobs at once, and add resume=true to run only the missing jobs"
            ) from error

    def parent(self, name: str) -> AbstractContextManager[str | None]:
        """Write `multirun.yaml`, as Hydra's own sweeper does; start a parent run in MLflow, and end it after the jobs.

        Args:
            name: name of the parent run, if the config has none.

        Returns:
            Yields the id of the parent run; None if nothing is logged.

        Raises:
            InputError: the store cannot be used.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.cfg, self.folder / "multirun.yaml")
        if not (logger := self.cfg.get("logger")) or self.cfg.trainer.fast_dev_run:
            return nullcontext()
        from segue.runs.tracking.store import parent_run

        return parent_run(
            logger.tracking_uri,
            logger.experiment_name,
            self.cfg.get("run_name") or name or "multirun",
            self.folder.resolve(),
            resume=bool(self.cfg.get("resume")),
            tags=provenance(),
        )

    def _conclude(self, results: Sequence[JobReturn], parent: str | None, swept: Sequence[str]) -> None:
        """Print the folder, the next command and the failed jobs.

        Raises:
            JobsFailed: some jobs failed.
        """
        console.print(f"{len(results)} jobs in {self.folder}", soft_wrap=True, markup=False)
        failed = {number: why for number, result in enumerate(results) if (why := outcome(result)[1]) is not None}
        if parent and len(failed) < len(results):  # otherwise there is nothing to compare
            console.print(
                f"next         {call_of('compare')} parent={short_run_name(parent)}", soft_wrap=True, markup=False
            )
        lines = [f"{len(failed)} of {len(results)} jobs failed:"]
        for number, why in failed.items():
            words = results[number].overrides or ()
            settings = " ".join(word for word in words if word.partition("=")[0].lstrip("+") in swept)
            lines.append(f"  {number} {settings}: {why}")
        if failed:
            raise JobsFailed("\n".join(lines))


def outcome(result: JobReturn) -> tuple[Any, str | None]:
    """What a job returned, and the error message of one that failed."""
    with redirect_stderr(io.StringIO()):  # Hydra prints a failure, which the job has printed already
        try:
            return result.return_value, None
        except Exception as error:
            return None, str(error)


class Job:
    """The task of a verb as a job of a multirun.

    It is sent to another process as the name of the verb, because a terminal and a lock cannot be pickled. There, its
    lines begin with the number of the job, and no progress bar is drawn, because other jobs print to the same terminal.

    Args:
        task: the function of the verb, without its decorator.
        full_errors: print a traceback for every error, not only for bugs of Segue.
        line: in another process, the command line that started the job; a run records it.
    """

    def __init__(self, task: Callable[[DictConfig], Any], full_errors: bool, line: Sequence[str] = ()) -> None:
        self._task, self._full_errors, self._line = task, full_errors, line

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_job, (self._task.__module__, self._task.__name__, self._full_errors, command_line())

    def __call__(self, config: DictConfig) -> Any:
        """Run the job.

        Raises:
            JobFailed: the job failed; the error is printed already.
        """
        if self._line:
            prefix = f"[{HydraConfig.get().job.num}] "
            console.file = cast(IO[str], _Prefixed(sys.stdout, prefix))
            errors.file = cast(IO[str], _Prefixed(sys.stderr, prefix))
        with running(self._line or command_line()):
            try:
                return self._task(config)
            except SystemExit as stopped:
                if is_interrupt(stopped):
                    raise KeyboardInterrupt from None
                raise
            except Exception as error:
                if (line := message(error)) is None or self._full_errors:
                    errors.print(traceback.format_exc(), markup=False)
                line = line or f"{type(error).__name__}: {error}"
                show_error(line)
                raise JobFailed(line) from None
            finally:
                with suppress(OSError):  # it has files
                    Path(HydraConfig.get().runtime.output_dir).rmdir()


def _restore_job(module: str, name: str, full_errors: bool, line: list[str]) -> Job:
    return Job(inspect.unwrap(getattr(importlib.import_module(module), name)), full_errors, line)


class _Prefixed:
    """A stream with a prefix before each line; lines that are written in one call stay together."""

    def __init__(self, stream: Any, prefix: str) -> None:
        self._stream, self._prefix = stream, prefix

    def write(self, text: str) -> int:
        self._stream.write("".join(self._prefix + line for line in text.splitlines(keepends=True)))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def environment_of(launcher: Any, num_jobs: int) -> dict[str, str]:
    """The environment variables that the processes of a launcher need.

    The processes find `segue`. If all jobs run at once on this machine, they share its cores. joblib does both itself.
    """
    variables = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if type(launcher).__name__ == "LocalLauncher" and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // num_jobs))
    return variables
