"""Loads releases into stores: when a service starts, and while it runs.

Libraries that read recommendations (pandas, MLflow) are imported only when a release is loaded.
"""

import errno
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segue.errors import InputError
from segue.serving.release_store import FolderStore, Index, StoreUnreachableError
from segue.serving.settings import ServiceSettings
from segue.serving.stores import Stores, make_stores

Warn = Callable[[str], None]
"""Prints a warning."""


@dataclass(frozen=True, kw_only=True)
class ReleaseRequest:
    """The release that the command line names, if any.

    Args:
        recommendations: recommender of the only arm.
        arms: or a recommender for each arm; `prepare_release` describes this and the following ones.
        experiment: name of the experiment.
        pick: how arms without a `pick` of their own pick from their lists.
        artist_gap: gap of arms without one of their own.
        exploration: share of the picks among new tracks, of arms without one of their own.
        exploration_plays: tracks with fewer plays in training are new, for arms without one of their own.
        context: `last` or `session` for arms without one of their own; None for that of their training run.
        num_lists: number of last tracks whose lists are searched with `session`.
        max_tracks: number of tracks of a session that are remembered.
        tracks: a `tracks.json`.
        world: builds the embedded world.
        locate: finds the `recommendations.jsonl` of a run or a model.
        provenance: command, commit and versions that the release records.
    """

    recommendations: Any
    arms: Any
    experiment: str
    pick: str
    artist_gap: int
    context: str | None
    num_lists: int
    max_tracks: int
    tracks: Path | None
    world: Callable[[], Any]
    locate: Callable[[str], Path]
    provenance: Callable[[], Mapping[str, str]]
    exploration: float = 0.0
    exploration_plays: int = 1

    @classmethod
    def of(
        cls,
        given: Mapping[str, Any],
        *,
        world: Callable[[], Any],
        locate: Callable[[str], Path],
        provenance: Callable[[], Mapping[str, str]],
    ) -> "ReleaseRequest":
        """From the composed config."""
        return cls(
            recommendations=given["recommendations"],
            arms=given["arms"],
            experiment="" if given["experiment_name"] is None else str(given["experiment_name"]),
            pick=given["pick"],
            artist_gap=given["artist_gap"],
            exploration=given["exploration"],
            exploration_plays=given["exploration_plays"],
            context=given["arm_context"],
            num_lists=given["num_lists"],
            max_tracks=given["sessions"]["max_tracks"],
            tracks=None if given["tracks"] is None else Path(str(given["tracks"])),
            world=world,
            locate=locate,
            provenance=provenance,
        )

    @property
    def is_named(self) -> bool:
        """Whether the command line names a release."""
        return self.arms is not None or self.recommendations is not None

    def load_into(self, store: FolderStore) -> str:
        """Write the release into a folder and make it current there; returns its version.

        Raises:
            InputError: it cannot be served, or the disk is full.
        """
        from segue.serving.prepared_release import prepare_release

        if self.arms is not None and self.recommendations is not None:
            raise InputError("give recommendations=<recommender>, or arms={C: …, T1: …}, not both")
        prepared = prepare_release(
            self.arms if self.arms is not None else {"C": self.recommendations},
            experiment=self.experiment,
            pick=self.pick,
            artist_gap=self.artist_gap,
            exploration=self.exploration,
            exploration_plays=self.exploration_plays,
            context=self.context,
            num_lists=self.num_lists,
            max_tracks=self.max_tracks,
            tracks=self.tracks,
            world=self.world,
            locate=self.locate,
        )
        try:
            return store.load(partial(prepared.write, provenance=self.provenance()))
        except OSError as error:
            is_full = error.errno in (None, errno.ENOSPC, errno.EDQUOT)  # numpy gives no number for half an array
            why = "No space left on device" if is_full else error.strerror
            remedy = "make space there" if is_full else "make it writable"
            raise InputError(
                f"cannot write the release into the store {store.folder}: {why}; {remedy}, then type the command "
                "again; nothing in the store has changed"
            ) from None


def load_to_serve(request: ReleaseRequest, settings: ServiceSettings, warn: Warn) -> None:
    """Make sure that the folder which is served from has a current release.

    Raises:
        InputError: there is no release, the one that was named cannot be served, or Redis does not answer.
    """
    store, shared = make_stores(settings)
    if shared is None and not request.is_named and store.index().current is None:
        raise InputError("nothing to serve: name a recommender, recommendations=<recommender> or arms={C: …, T1: …}")
    version = request.load_into(store) if request.is_named else None
    if shared is None:
        return
    try:
        if version is not None and shared.index().current is None:
            shared.publish(version)
        served = shared.fetch()
        if version not in (None, served):
            warn(
                f"{shared.where} holds version {served}, which is served instead of the recommender named here; "
                "use serve.py load to change it for all replicas"
            )
    except StoreUnreachableError as error:
        if settings.store["on_failure"] == "error":
            raise InputError(f"{error}; start it, or serve without it: store.on_failure=embedded") from None
        if store.index().current is None:
            raise InputError(f"{error}; there is nothing to serve without it: name a recommender as well") from None
        warn(f"{error}; serving from {store.folder} until it does")


def load(request: ReleaseRequest, given: Mapping[str, Any]) -> tuple[str, str]:
    """Load a release into the store of a running service; returns its version and the store.

    Raises:
        InputError: no recommender is named, it cannot be served, or there is no such store.
    """
    if not request.is_named:
        raise InputError("load needs recommendations=<recommender> or arms={C: …, T1: …}")
    with tempfile.TemporaryDirectory() as staging:
        stores = _stores_of(given, Path(staging))
        version = request.load_into(stores.local)
        if stores.shared is not None:
            version = stores.shared.publish(version)
    return version, stores.source.where


def rollback(given: Mapping[str, Any]) -> tuple[str, str]:
    """Make the version before the current one current; returns that version and the store.

    Raises:
        InputError: there is no earlier version, it is damaged, or there is no such store.
    """
    store = _stores_of(given, Path(given["run_dir"])).source
    return store.rollback(), store.where


def versions(given: Mapping[str, Any]) -> tuple[Index, str]:
    """The versions of a store, and its name.

    Raises:
        InputError: there is no such store, or its index is damaged.
    """
    store = _stores_of(given, Path(given["run_dir"])).source
    return store.index(), store.where


def _stores_of(given: Mapping[str, Any], staging: Path) -> Stores:
    """The stores of a running service; with Redis, releases are prepared in the folder `staging`."""
    settings = ServiceSettings.of(given, port=0)
    folder = Path(settings.store["folder"])
    if settings.store["kind"] == "redis":
        settings.store["folder"] = str(staging)
    elif not folder.is_dir():
        raise InputError(
            f"{given['do']}: there is no store {folder}; name that of a service with store.folder="
            "<its run folder>/store, or store=redis store.url=<address>"
        )
    return make_stores(settings)
