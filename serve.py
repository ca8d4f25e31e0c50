"""From recommenders to the REST service that plays them; also loads and rolls back what a running one serves."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from src.sweeps.jobs import Sweep
from src.terminal.console import console, errors
from src.terminal.entry import verb
from src.terminal.words import commands_of, experiment_as_name

if TYPE_CHECKING:
    from src.serving.server import Settings
    from src.serving.store import FolderStore


def _words(words: list[str]) -> list[str]:
    return experiment_as_name(commands_of(words, "do", ("load", "rollback", "versions")))


@verb("serve", rewrite=_words, sweepers=[Sweep])
def serve(config: DictConfig) -> None:
    """Do what `do` says: serve, load, rollback, versions."""
    from src.errors import InputError

    given: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    todo = {"serve": _serve, "load": _load, "rollback": _rollback, "versions": _versions}
    if given["do"] not in todo:
        raise InputError(f"do must be one of {', '.join(todo)}, got {given['do']!r}")
    todo[given["do"]](config, given)


def _serve(config: DictConfig, given: dict[str, Any]) -> None:
    from src.runs.folder import refuse_used_folder
    from src.serving.server import address_of, check_token, free_port, make_stores, run

    run_dir = Path(given["run_dir"]).absolute()
    refuse_used_folder(run_dir, "serve.json")
    check_token()
    given["host"] = address_of(given["host"])
    settings = _settings(given, run_dir, port=free_port(given["host"], given["port"]))
    store, _ = make_stores(settings)
    had_store = store.folder.exists()
    try:
        _load_and_import(config, given, settings)
    except BaseException:
        if not had_store:
            shutil.rmtree(store.folder, ignore_errors=True)
        raise
    release = store.open()
    settings.write()
    arms = ", ".join(f"{arm}: {arm_given.recommender}" for arm, arm_given in release.arms.items())
    console.print(f"experiment   {release.experiment}, arms {arms}", soft_wrap=True, markup=False)
    console.print(f"release      {release.version}, {len(release):,} tracks, in {store.folder}", soft_wrap=True)
    console.print(f"run folder   {run_dir}", soft_wrap=True, markup=False)
    sys.stdout.flush()
    run(settings)


def _load_and_import(config: DictConfig, given: dict[str, Any], settings: "Settings") -> None:
    """Load in a process of its own, so that the service keeps nothing that only loading needs; import it meanwhile.

    SIGTERM ends both.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from src.serving.server import import_service

    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as loader:
        process = loader.submit(os.getpid).result()

        def stop(*_: object) -> None:
            os.kill(process, signal.SIGINT)  # as Ctrl-C does to both
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, stop)
        loading = loader.submit(_loaded_elsewhere, config, given, settings)
        with console.status("loading recommendations"):
            import_service()
            loading.result()
    signal.signal(signal.SIGTERM, before)


def _loaded_elsewhere(config: DictConfig, given: dict[str, Any], settings: "Settings") -> None:
    from src.errors import InputError

    try:
        _load_to_serve(config, given, settings)
    except KeyboardInterrupt:  # the process that waits for this one has it too, and says so
        raise InputError("interrupted") from None


def _load(config: DictConfig, given: dict[str, Any]) -> None:
    import tempfile

    from src.errors import InputError

    if given["arms"] is None and given["recommendations"] is None:
        raise InputError("load wants recommendations=<recommender>, or arms={C: …, T1: …}")
    with tempfile.TemporaryDirectory() as staging, console.status("loading recommendations"):
        store, remote = _stores(given, Path(staging))
        version = _load_release(config, given, store)
        if remote is not None:
            version = remote.publish(version)
    where = store.folder if remote is None else remote.where
    console.print(f"version {version} is current in {where}; back again: python serve.py rollback …", soft_wrap=True)


def _rollback(_: DictConfig, given: dict[str, Any]) -> None:
    store, remote = _stores(given, Path(given["run_dir"]))
    version = (remote or store).rollback()
    console.print(f"version {version} is current in {store.folder if remote is None else remote.where}", soft_wrap=True)


def _versions(_: DictConfig, given: dict[str, Any]) -> None:
    store, remote = _stores(given, Path(given["run_dir"]))
    index = (remote or store).index()
    for version in index.versions:
        console.print(f"{version}{'  current' if version == index.current else ''}")
    if not index.versions:
        console.print(f"no version in {store.folder if remote is None else remote.where}", soft_wrap=True)


def _settings(given: dict[str, Any], run_dir: Path, port: int) -> "Settings":
    from src.serving.redis_store import check_name
    from src.serving.server import REDIS, Settings

    store = {key: value for key, value in given["store"].items() if key != "url"}
    store["folder"] = str(Path(store["folder"]).absolute())
    os.environ.pop(REDIS, None)
    if store["kind"] == "redis":
        check_name(store["name"])
        os.environ[REDIS] = str(given["store"]["url"])  # which may hold a password, and so stands in no file
    names = ("host", "workers", "seed", "sessions", "log", "limits")
    own = {name: given[name] for name in names}
    return Settings(run_dir=str(run_dir), port=port, poll_s=store.pop("poll_s"), store=store, **own)


def _stores(given: dict[str, Any], staging: Path) -> tuple["FolderStore", Any]:
    """The folder to load into, and Redis, if it is in use, for which the folder is a stage."""
    from src.errors import InputError
    from src.serving.server import make_stores

    settings = _settings(given, Path(given["run_dir"]), port=0)
    folder = Path(settings.store["folder"])
    if settings.store["kind"] == "redis":
        settings.store["folder"] = str(staging)
    elif not folder.is_dir():
        raise InputError(
            f"{given['do']}: there is no store {folder}; name a service's own with store.folder="
            "<its run folder>/store, or store=redis store.url=<address>"
        )
    store, remote = make_stores(settings)
    return store, remote


def _load_to_serve(config: DictConfig, given: dict[str, Any], settings: "Settings") -> None:
    """See to it that there is a current release in the folder that will be served from."""
    from src.errors import InputError
    from src.serving.redis_store import StoreUnreachableError
    from src.serving.server import make_stores

    store: FolderStore
    store, remote = make_stores(settings)
    is_named = given["arms"] is not None or given["recommendations"] is not None
    if remote is None and not is_named and store.index().current is None:
        raise InputError("nothing to serve: name a recommender, recommendations=<recommender> or arms={C: …, T1: …}")
    version = _load_release(config, given, store) if is_named else None
    if remote is None:
        return
    try:
        if version is not None and remote.index().current is None:
            remote.publish(version)
        served = remote.fetch()
        if version not in (None, served):
            errors.print(
                f"[bold yellow]warning:[/] {remote.where} holds version {served}, which is served; what is named here "
                "is not; serve.py load changes it for all replicas"
            )
    except StoreUnreachableError as error:
        if settings.store["on_failure"] == "error":
            raise InputError(f"{error}; start it, or serve without it: store.on_failure=embedded") from None
        if store.index().current is None:
            raise InputError(f"{error}; nothing to serve without it: name a recommender as well") from None
        errors.print(f"[bold yellow]warning:[/] {error}; serving from {store.folder} until it does")


def _load_release(config: DictConfig, given: dict[str, Any], store: "FolderStore") -> str:
    """Bring what was named into the folder, and make it current there."""
    from functools import partial

    from src.errors import InputError
    from src.runs.provenance import provenance
    from src.serving.arms import prepare
    from src.tracking.store import locate_recommendations

    if given["arms"] is not None and given["recommendations"] is not None:
        raise InputError("give recommendations=<recommender>, or arms={C: …, T1: …}, not both")
    arms = given["arms"] if given["arms"] is not None else {"C": given["recommendations"]}

    def world() -> Any:
        from hydra.utils import instantiate

        return instantiate(config.world, _convert_="all")

    prepared = prepare(
        arms,
        experiment="" if given["experiment_name"] is None else str(given["experiment_name"]),
        pick=given["pick"],
        artist_gap=given["artist_gap"],
        max_tracks=given["sessions"]["max_tracks"],
        tracks=None if given["tracks"] is None else Path(str(given["tracks"])),
        world=world,
        locate=locate_recommendations,
    )
    return store.load(partial(prepared.write, provenance=provenance()))


if __name__ == "__main__":
    serve()
