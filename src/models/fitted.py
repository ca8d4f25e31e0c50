"""A finished run as a model: its catalogue and its ranker, read from its files, and what they answer.

N tracks of the run, K recommendations, n tracks of a session, P parts of a vector.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from segue.catalog import Catalog
from segue.errors import InputError
from segue.histories import Histories
from segue.models.export import OF_EVALUATED
from segue.models.ranker import Ranker
from segue.models.restoring import CHECKPOINT, REFITTED, restore
from segue.runs.catalog_files import PLAYS, read_plays
from segue.runs.folder import REFIT
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.runs.targets import check_targets, read_config

LISTS = "recommendations.jsonl"
FILES = ("config.yaml", LISTS, CHECKPOINT)
"""The files of a run that a model is read from; that of a head has `vectors.npz` too."""


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A model that was trained, without its data.

    Args:
        name: of the model, such as `convex`.
        folder: the run folder.
        catalog: the tracks of the run.
        plays: how often each was played in training.
        ranker: ranks them.
    """

    name: str
    folder: Path
    catalog: Catalog
    plays: Int64[np.ndarray, "N"]
    ranker: Ranker

    @classmethod
    def read(cls, folder: Path, name: str, *, evaluated: bool = False, trust: Any = None) -> "FittedModel":
        """Read the files of a run: of the model that was exported, or of the one that was tested.

        Args:
            folder: the run folder.
            name: of the model.
            evaluated: whether to read the model that was tested. It is the exported one unless the run was refitted.
            trust: a package, or several, whose classes the settings may build; a run cannot vouch for itself.

        Raises:
            InputError: a file is missing or damaged, or the config builds what is not in `conf/`.
        """
        is_refitted = (folder / REFIT).is_file()
        files = folder / OF_EVALUATED if evaluated and is_refitted else folder
        checkpoint = folder / (REFITTED if is_refitted and not evaluated else CHECKPOINT)
        lists, catalog = Recommendations.read_with_catalog(files / LISTS)
        config = read_config(folder / "config.yaml")
        check_targets(config["ranker"], trust=trust, of=f"the run in {folder}")
        plays = lists.plays if lists.plays is not None else read_plays(files / PLAYS, catalog)
        return cls(name, folder, catalog, plays, restore(config["ranker"], checkpoint, files / FILE, catalog, plays))

    @torch.inference_mode()
    def top(
        self, rows: Int64[np.ndarray, "n"], shares: Float32[np.ndarray, "n"], k: int
    ) -> tuple[Int64[np.ndarray, "K"], Float32[np.ndarray, "K"]]:
        """Recommend what should follow a session.

        Args:
            rows: rows of its tracks, oldest first.
            shares: share of each that was played, in [0, 1]; NaN where unknown.
            k: number of recommendations, 1 <= k < N.

        Returns:
            Rows, best first, and their scores.
        """
        last = np.array([len(rows) - 1])
        histories = Histories(tracks=rows, played_ratio=shares, last=last, length=last + 1, previous=rows[last])
        found, scores = self.ranker.top(histories, k)
        return found[0], scores[0]

    @property
    def has_no_vectors(self) -> InputError:
        """What is wrong if vectors are asked for, and there are none."""
        return InputError(f"model={self.name} has no vectors of its own; use a head, such as model=convex")

    @cached_property
    def vectors(self) -> SessionVectors:
        """The vectors of the tracks, and the numbers of the context.

        Raises:
            InputError: the model has none.
        """
        if not (path := self.folder / FILE).is_file():
            raise self.has_no_vectors
        return SessionVectors.read(path, self.catalog)
