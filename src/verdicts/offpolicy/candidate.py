"""The candidate of an estimate, `candidate=`: a recommender, and with which probabilities it picks the next track."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.arm import Locate, read_arm
from segue.picking.listener_scores import past_of
from segue.picking.picker import Choices, Picker, distinct
from segue.runs.catalog_files import read_catalog, read_top_tracks
from segue.runs.profiles import ENTRY, Profiles
from segue.verdicts.offpolicy.decisions import Decisions


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidate:
    """A recommender that is estimated.

    Args:
        picker: of its arm.
        before: what its run knew of listeners, with rows of tracks.
    """

    picker: Picker
    before: Profiles

    @property
    def name(self) -> str:
        """As it was typed."""
        return self.picker.arm.recommender

    def choices(self, some: Decisions) -> Choices:
        """Compute the probabilities of the first recommended track of each session: asked is that of the log."""
        picker, heard, asked = self.picker, some.of("track")[:, None], some.of("track", 1)[:, None]
        if picker.own is not None:
            rows, shares = some.last_plays(picker.own.num_plays)
            return picker.choices(asked, np.empty((len(rows), 0), np.int32), rows, shares)
        knows = picker.search is not None and picker.search.knows_listeners
        past = past_of(some.profiles(self.before), heard, some.of("timestamp")) if knows else None
        shares, users = some.of("time").astype(np.float32)[:, None], some.of("user_id")
        return picker.choices(asked, picker.candidates(heard, shares, users, past), heard)


def candidate_of(
    given: Any, *, locate: Locate, defaults: Mapping[str, Any], catalog: Catalog, popular: Int64[np.ndarray, "P"]
) -> Candidate:
    """Read `candidate=`.

    Args:
        given: an arm, as `read_arm` takes it.
        locate: finds the file of a run or a model.
        defaults: its settings, those of an arm of the simulator, with their defaults.
        catalog: the catalogue of the log.
        popular: distinct rows of its most played tracks; may be empty.

    Raises:
        InputError: it is no recommender, a setting is out of range, or its files cannot be read or are of another
            catalogue.
    """
    arm, file = read_arm("candidate", given, defaults=defaults, locate=locate)
    if arm.policy == "popular" and not len(popular):
        raise InputError("candidate=popular: there is no top_tracks.json beside the catalogue; copy it there")
    picker = Picker.read(arm, file, catalog, popular)
    nobody = Profiles.of(np.empty(0, np.int64), np.zeros(0, ENTRY))
    return Candidate(picker=picker, before=nobody if picker.before is None else picker.before.in_rows(catalog))


def catalog_of_logs(logs: Path, tracks: Path | None) -> tuple[Catalog, Int64[np.ndarray, "P"], bool]:
    """Find the catalogue of logs: in the folder, or in the run folder that it is part of.

    Args:
        logs: folder with event logs.
        tracks: file of the catalogue; None to look for `tracks.json`.

    Returns:
        The catalogue; distinct rows of its most played tracks, none without a `top_tracks.json` beside it; and whether
        a service wrote the logs, because its releases are there.

    Raises:
        InputError: there is no catalogue, or it cannot be read.
    """
    if not logs.is_dir():
        raise InputError(f"logs={logs}: no such folder; name a folder with data.json files in it or below it")
    beside = (logs, *logs.absolute().parents[:2])
    found = [tracks] if tracks else [path for folder in beside if (path := folder / "tracks.json").is_file()]
    if not found:
        raise InputError(f"logs={logs}: no tracks.json in it or beside it; name the catalogue, tracks=<file>")
    catalog, top_file = read_catalog(found[0]), found[0].with_name("top_tracks.json")
    popular = read_top_tracks(top_file, catalog) if top_file.is_file() else np.empty(0, np.int64)
    is_served = any(path for folder in beside for path in folder.glob("store/*/release.json"))
    return catalog, distinct(popular), is_served
