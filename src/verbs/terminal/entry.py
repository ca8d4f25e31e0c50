"""The entry of a verb: from the command line to a config, from an exception to a line and an exit code."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segue.errors import InputError, JobsFailed
from segue.reports.console import errors
from segue.runs.folder import leave_no_empty
from segue.runs.garbage import keep_objects
from segue.runs.provenance import CONF, as_called, command_line, program, running
from segue.verbs.terminal import hydra_parts
from segue.verbs.terminal.messages import is_interrupt, message, run_folders, show_error
from segue.verbs.terminal.words import refuse_path_alone, refuse_placeholders

Rewrite = Callable[[list[str]], list[str]]
SPINS = "10000"
"""How often a thread checks whether the others have finished before it sleeps, unless GOMP_SPINCOUNT is set. libgomp's
default is 300,000, with which two trainings at once on two cores wait for each other most of the time:
`experiments/throughput/two_at_once.py`."""


@runtime_checkable
class Verb(Protocol):
    """The entry of a verb: a function of the words of the command line; without them it takes those of this process."""

    def __call__(self, words: Sequence[str] | None = None) -> None:
        """Do what the command does: it prints, and an error ends the process."""

    def call(self, words: Sequence[str]) -> Any:
        """Do the same inside of a program.

        Returns:
            What the function returned that is the verb.

        Raises:
            InputError: with the one line that the command prints.
        """


def verb(
    config_name: str,
    *,
    sweepers: Sequence[type[hydra_parts.VerbSweeper]],
    option_of: Callable[[str], str],
    rewrite: Rewrite = list,
    choose: Callable[[], hydra_parts.Choose] = lambda: lambda *_: [],
) -> Callable[[Callable[[DictConfig], Any]], Verb]:
    """Make a function of a config the entry of a verb.

    Hydra composes `conf/<config_name>.yaml` and the command line. An error of the user's ends as one line and exit
    code 2, an interruption with 130; anything else is a bug and keeps its traceback. An empty run folder is
    removed.

    Args:
        sweepers: what `hydra/sweeper=` may choose, for multiruns.
        option_of: from a path that was typed alone to the option that it needs, for the message about it.
        rewrite: from the words that are typed to those that Hydra gets.
        choose: for one run, the overrides that the data add to them, when Hydra composes a config.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Verb:
        wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"

        def run(line: list[str], *, keeps_folder: bool = False) -> list[Any]:
            """Call Hydra; what the task returned. Its error is raised here, because Hydra would print something."""
            results: list[Any] = []
            failures: list[BaseException] = []

            @functools.wraps(task)
            def job(config: DictConfig) -> None:
                try:
                    results.append(task(config))
                except BaseException as error:
                    failures.append(error)
                if not keeps_folder:
                    with suppress(OSError):  # it has files
                        Path(HydraConfig.get().runtime.output_dir).rmdir()

            refuse_placeholders(line[1:])
            line[1:] = rewrite(line[1:])
            refuse_path_alone(line[1:], option_of)
            hydra_parts.register(sweepers, full_errors=wants_traceback)
            with leave_no_empty([Path.cwd() / "outputs" / config_name, *run_folders()]):
                hydra_parts.run(job, line[1:], conf=CONF, config_name=config_name, choose=choose())
                for failure in failures:
                    raise failure
            return results

        @functools.wraps(task)
        def main(words: Sequence[str] | None = None) -> None:
            os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded
            with running(command_line() if words is None else [program(config_name), *words]) as line:
                try:
                    run(line)
                except BrokenPipeError:  # as in `--help | head`; what is left to print goes nowhere
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    sys.exit(1)
                except JobsFailed as failed:
                    show_error(str(failed))
                    sys.exit(2)
                except (Exception, KeyboardInterrupt, SystemExit) as error:
                    if is_interrupt(error):
                        errors.print("interrupted")
                        sys.exit(130)
                    if isinstance(error, SystemExit) or wants_traceback or (why := message(error)) is None:
                        raise
                    show_error(why)
                    sys.exit(2)
                finally:
                    keep_objects()

        def call(words: Sequence[str]) -> Any:
            with running([program(config_name), *words]) as line, hydra_parts.beside_other_configs():
                try:
                    return run(line, keeps_folder=True)[0]  # it may be a folder of the program's
                except (Exception, SystemExit) as error:
                    if is_interrupt(error):
                        raise KeyboardInterrupt from None
                    if isinstance(error, SystemExit) or (why := message(error)) is None:
                        raise
                    raise InputError(as_called(why)) from error.__cause__

        entry: Any = main
        entry.call = call
        return cast("Verb", entry)

    return decorate
