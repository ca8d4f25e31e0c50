"""The entry of a verb: from the command line to a config, from an exception to a line and an exit code."""

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.markup import escape

from segue.errors import JobsFailed
from segue.runs.cores import SPINS
from segue.runs.folder import remove_if_empty
from segue.runs.garbage import keep_objects
from segue.runs.provenance import ROOT
from segue.terminal import hydra_parts
from segue.terminal.console import errors
from segue.terminal.messages import is_interrupt, message, show_error
from segue.terminal.words import refuse_path_alone, refuse_placeholders

Rewrite = Callable[[list[str]], list[str]]


def verb(
    config_name: str,
    *,
    sweepers: Sequence[type[hydra_parts.VerbSweeper]],
    option_of: Callable[[str], str],
    rewrite: Rewrite = list,
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a config the entry of a verb.

    Hydra composes `conf/<config_name>.yaml` and the command line. An error of the user's ends as one line and exit
    code 2, an interruption with 130; anything else is a bug and keeps its traceback. An empty run folder is
    removed.

    Args:
        config_name: name of the verb's file in `conf/`.
        sweepers: what `hydra/sweeper=` may choose, for multiruns.
        option_of: from a path that was typed alone to the option that it needs, for the message about it.
        rewrite: from the words that are typed to those that Hydra gets.
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
                if is_interrupt(error):
                    raise KeyboardInterrupt from None
                if (line := line_of(error)) is None:
                    raise
                show_error(line)
                sys.exit(2)  # what Hydra hands on without a word
            finally:
                remove_if_empty(Path(HydraConfig.get().runtime.output_dir))

        @functools.wraps(task)
        def main() -> None:
            os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded
            hydra_parts.hand_errors_over()
            try:
                refuse_placeholders(sys.argv[1:])
                words = rewrite(sys.argv[1:])
                refuse_path_alone(words, option_of)
                sys.argv = [sys.argv[0], *_shown_as_used(words)]
                hydra_parts.register(sweepers, full_errors=wants_traceback)
                hydra_parts.share_config_store()
                hydra_parts.know_defaults()
                hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(job)()
            except (KeyboardInterrupt, SystemExit) as stopped:
                if not is_interrupt(stopped):
                    raise
                errors.print("interrupted")
                sys.exit(130)
            except BrokenPipeError:  # as in `--help | head`; what is left to print goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(1)
            except JobsFailed as failed:
                errors.print(f"[bold red]error:[/] {escape(str(failed))}")
                sys.exit(2)
            except Exception as error:
                if (line := line_of(error)) is None:
                    raise
                show_error(line)
                sys.exit(2)
            finally:
                keep_objects()

        return main

    return decorate


def _shown_as_used(words: list[str]) -> list[str]:
    """`--cfg job` with the values that a run would use, in place of references to other values; no secrets."""
    if not re.search(r"(^| )(--cfg|-c)[ =]job( |$)", " ".join(words)):
        return words
    for name, value in os.environ.items():
        os.environ[name] = "***" if name.endswith(_SECRET) else _OF_AN_ADDRESS.sub("//***@", value)
    # the run folder is known only to a run; overrides have to be typed side by side
    place = next((place for place, word in enumerate(words) if "=" in word and not word.startswith("-")), 0)
    return [*words[:place], "hydra.runtime.output_dir=${hydra:run.dir}", *words[place:], "--resolve"]


_SECRET = ("TOKEN", "PASSWORD", "SECRET")
_OF_AN_ADDRESS = re.compile(r"(?<=:)//[^/@\s]+@")
"""User and password in an address such as redis://user:password@host."""
