"""Serves recommendations over HTTP; also loads and rolls back the releases of a running service."""

import shlex
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from segue.errors import InputError
from segue.reports.console import console, warn
from segue.runs.folder import refuse_used_folder
from segue.runs.libraries import line_of_missing
from segue.runs.provenance import call_of, command_line, provenance
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.terminal.entry import verb
from segue.verbs.terminal.words import EXPERIMENT, commands_of, renamed

if TYPE_CHECKING:
    from segue.serving.loading import ReleaseWriter

_COMMANDS = ("serve", "load", "rollback", "versions", "forget")


def _words(words: list[str]) -> list[str]:
    return renamed(
        commands_of(words, "do", _COMMANDS[1:]),
        {**EXPERIMENT, "context=": "arm_context=", "run_dir=": "hydra.run.dir="},
    )


@verb("serve", option_of="recommendations={}".format, rewrite=_words, sweepers=[Sweep])
def serve(config: DictConfig) -> None:
    """Run the command `do`: serve, load, rollback, versions or forget."""
    from segue.serving.loading import requested
    from segue.serving.settings import check_groups

    given: Any = OmegaConf.to_container(config, resolve=True)
    if given["do"] not in _COMMANDS:
        raise InputError(f"do must be one of {', '.join(_COMMANDS)}, got {given['do']!r}")
    check_groups(given)
    world = partial(instantiate, config.world, _convert_="all")
    request = requested(given, world=world, locate=_locate, provenance=provenance)
    (_serve if given["do"] == "serve" else _manage)(given, request)


def _serve(given: dict[str, Any], request: "ReleaseWriter | None") -> None:
    from segue.serving.server import prepared_service, run

    remedy = "choose another folder with run_dir=<folder>"
    refuse_used_folder(Path(given["run_dir"]).absolute(), "serve.json", remedy)
    open_room = _room(given["room"])
    busy = partial(console.status, "loading recommendations")
    with prepared_service(given, request, warn=warn, busy=busy) as (settings, release):
        show = partial(console.print, soft_wrap=True, markup=False, highlight=False)
        show(f"experiment   {release.experiment}")
        for name, arm in release.arms.items():
            show(f"arm {name:<8} {arm.recommender}, {arm.describe()}")
        kept = f", {num_kept:,} kept without lists" if (num_kept := len(release.kept)) else ""
        show(f"release      {release.version}, {len(release) - num_kept:,} tracks{kept}, in {settings.store.folder}")
        show(f"run folder   {settings.run_dir}")
        run(settings, show, open_room)


def _room(given: dict[str, Any]) -> Any:
    """What opens the listening room in a worker; None where it is switched off, or is no part of this installation."""
    module, _, name = given["_target_"].rpartition(".")
    if not given["enabled"]:
        return None
    for library in (module.rpartition(".")[0], "rapidfuzz"):  # the room server imports the second one
        if find_spec(library) is None:
            missing = line_of_missing(library) or f"{library} is not installed"
            warn(f"there is no page at /room: {missing}; room.enabled=false hides this line")
            return None
    made = getattr(import_module(module), name)
    return made(**{key: value for key, value in given.items() if key != "_target_"}).open


def _manage(given: dict[str, Any], request: "ReleaseWriter | None") -> None:
    from segue.serving.loading import load, store_of

    undo = ""
    if given["do"] == "forget":
        _forget(given)
        return
    if given["do"] == "load":
        words = [word for word in command_line()[1:] if word.startswith("store")]
        undo = f"; to undo: {call_of('serve')} {shlex.join(['rollback', *words])}"
        with console.status("loading recommendations"):
            loaded, where = load(request, given, warn)
        version, change, _ = loaded
        undo = f"; tracks: {change}{undo}" if change else undo
    else:
        store = store_of(given, given["run_dir"])
        where = store.where
        if given["do"] == "versions":
            index = store.index()
            lines = [f"{version}{'  current' if version == index.current else ''}" for version in index.versions]
            console.print("\n".join(lines) or f"no version in {where}", soft_wrap=True)
            return
        known = store.index().versions
        if (version := store.rollback()) not in known:
            undo = "; it is new: it also knows the ids that only the release after it had"
    console.print(f"version {version} is current in {where}{undo}", soft_wrap=True, markup=False)


def _forget(given: dict[str, Any]) -> None:
    from segue.serving.forgetting import forget
    from segue.serving.ids import as_json

    with console.status("removing the listener"):
        removed = forget(given)
    profile = "profile and sessions" if removed.had_profile else "sessions; there was no profile"
    lines = f"{removed.num_lines:,} lines of {removed.num_files:,} event logs overwritten"
    console.print(f"listener {as_json(given['listener'])} is removed: {profile}; {lines}", soft_wrap=True, markup=False)


def _locate(name: str) -> Path:
    from segue.runs.tracking.named_runs import locate_recommendations  # here, in the process that loads

    return locate_recommendations(name)
