"""The command `segue`, also `python -m segue`: `segue train …` is `python train.py …` of a clone, from any folder."""

import os
import sys
from importlib import import_module

from omegaconf import OmegaConf

from segue.errors import InputError
from segue.runs.provenance import CONF, VERBS, as_called, command_line, running, segue_version
from segue.verbs.terminal.messages import show_error
from segue.verbs.terminal.words import refuse_unknown_command

_USAGE = """\
usage: segue <command> [name=value ...]

{verbs}

segue <command> --help            lists the options of a command
segue --version                   prints the version
eval "$(segue -sc install=bash)"  completes commands and options in bash and zsh
"""


def main() -> None:
    """Call the verb that the command line names, or list the verbs."""
    first, *words = command_line()[1:] or ["--help"]
    with running([f"segue {first}", *words]):
        if first in ("-h", "--help"):
            print(usage(), end="")
        elif first == "--version":
            print(f"segue {segue_version()}")
        elif first in ("-sc", "--shell-completion"):
            _complete([first, *words])
        else:
            try:
                refuse_unknown_command(first, VERBS)
            except InputError as error:
                show_error(str(error))
                sys.exit(2)
            _call(first, words)


def usage() -> str:
    """The help of the command: the verbs, each with the first line of its own help."""
    helps = {verb: as_called(OmegaConf.load(CONF / f"{verb}.yaml").hydra.help.template) for verb in VERBS}
    return _USAGE.format(verbs="\n".join(f"  {verb:10}{text.splitlines()[0]}" for verb, text in helps.items()))


def _call(verb: str, words: list[str]) -> None:
    module = import_module(f"segue.verbs.{verb}")
    with running([f"segue {verb}", *words]):
        getattr(module, verb)()


def _complete(words: list[str]) -> None:
    """Print the verbs that begin as the line does, or hand the line to Hydra's completion of its verb."""
    command, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
    verb, space, rest = typed.lstrip().partition(" ")
    if any(word.startswith("query=") for word in words) and not (space and verb in VERBS):
        print(*(name for name in VERBS if name.startswith(verb)))
        return
    os.environ["COMP_LINE"] = f"{command} {rest}"
    _call(verb if space else "describe", words)  # any verb prints the script that installs the completion


if __name__ == "__main__":
    main()
