"""The lists of a run are played to the listeners of the world that its logs came from."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.atomic import write_whole
from segue.callbacks.run_context import RunContext, ranker_of
from segue.models.export import Exported
from segue.models.ranker import Ranker
from segue.reports.console import console, warn
from segue.reports.progress import progress
from segue.runs.recommendations import check_k
from segue.settings import settings
from segue.simulation.listening import (
    PARTS,
    Heard,
    ListeningTest,
    NumHits,
    NumNearest,
    NumSessions,
    RunPlayer,
    Seed,
    references,
)
from segue.simulation.mixed_logs import world_of
from segue.simulation.world import World
from segue.statistics.online import SHARE_OF_HITS, SHARE_OF_SAME_ARTIST, TIME, VAL_TIME

_KINDS = {"random": "floor", "popular": "floor", "true_neighbours": "reference"}


@settings("callbacks.listening")
class Listening(Callback):
    """Logs `online/…` after the test, and after each epoch if `monitor=online`; does nothing without a world.

    Every run of a world plays the same sessions with the same random numbers. A track of a list is drawn uniformly.
    With `context=session` it is drawn from as many tracks, those that are best for the session.

    Args:
        world: the world that the logs came from; None for that of `datamodule=simulated`, and none of other logs.
        k: length of the lists where there was no export.
        num_lists: number of last tracks whose lists are searched with `context=session`.
        path: where the mean time of each listener is written (Parquet).
        monitor: the metric that chooses the best epoch.

    Attributes:
        test: plays to listeners; None where there is no world.

    Raises:
        InputError: a setting is out of range, or the logs have tracks that the world does not have.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        world: World | None,
        sessions: NumSessions,
        seed: Seed,
        k: int,
        num_lists: int,
        hits: NumHits,
        neighbours: NumNearest,
        path: str,
        monitor: str,
    ) -> None:
        data = context.datamodule
        self._num_tracks, self._k, self._path = len(data.catalog), k, Path(path)
        self._is_monitored = monitor == VAL_TIME
        self.test: RunPlayer | None = None
        if (world := world or world_of(data.source.prepared_by)) is not None:
            check_k(k, self._num_tracks)
            if world.model:
                warn(world.model.caution)
            self._sessions = ListeningTest(world, sessions=sessions, seed=seed, hits=hits)
            self._references = references(world, hits=hits, neighbours=neighbours)
            self.test = RunPlayer(self._sessions, data.catalog, num_lists=num_lists, profiles=data.profiles())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log VAL_TIME of the epoch if it chooses the best one."""
        if self.test is not None and self._is_monitored:
            heard = self._heard(ranker_of(pl_module), None, ["val"])["val"]
            pl_module.log(VAL_TIME, float(heard.time.mean()), batch_size=1)

    def play(self, ranker: Ranker, exported: Exported | None) -> dict[str, float]:
        """Play the lists to all listeners, and write the mean time of each of them.

        Args:
            exported: its lists; None to search for them.

        Returns:
            The metrics `online/…`.
        """
        with console.status("playing to simulated listeners"):
            heard = self._heard(ranker, exported, PARTS)
            means = {name: self._sessions.play(one, "test").time.mean() for name, one in self._references.items()}
        frame, test, interval = self._sessions.frame(heard), heard["test"], heard["test"].interval
        write_whole(self._path, lambda partial: frame.to_parquet(partial, index=False))
        if num_random := sum(one.fallbacks for one in heard.values()):
            says = f"{num_random:,} recommendations were random tracks, because a list was empty"
            console.print(f"listening test: {says}", soft_wrap=True)
        return {
            TIME: interval.mean,
            f"{TIME}_half_width": interval.upper - interval.mean,
            VAL_TIME: float(heard["val"].time.mean()),
            "online/coverage": test.coverage,
            SHARE_OF_HITS: test.share_of_hits,
            SHARE_OF_SAME_ARTIST: test.share_of_same_artist,
            **{f"online/{name}": value for name, value in test.discovery.items()},
            "online/num_listeners": float(len(test.listeners)),
            "online/num_sessions": float(test.num_sessions),
            **{f"{TIME}_{name}_{_KINDS[name]}": float(mean) for name, mean in means.items()},
        }

    def _heard(self, ranker: Ranker, exported: Exported | None, parts: Sequence[str]) -> dict[str, Heard]:
        """What the listeners of each part hear. Vectors are of a head whose query is the session."""
        assert self.test is not None
        vectors = ranker.session_vectors()
        if vectors is not None and vectors.context == "last":
            vectors = None
        if exported is not None:
            rows = exported.rows
        else:
            with torch.inference_mode(), progress("lists for the listening test", self._num_tracks) as advance:
                rows = ranker.lists(self._k).collect(advance)[0]
        return {part: self.test.play(part, rows, vectors) for part in parts}
