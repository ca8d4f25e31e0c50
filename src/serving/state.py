"""What a worker answers from, and how it changes to a new version."""

import asyncio
import logging
from dataclasses import dataclass

import numpy as np

from segue.errors import InputError
from segue.serving.log_writer import EventLogWriter
from segue.serving.recommender import Recommender
from segue.serving.stores import Sessions, Store
from segue.serving.worker_table import WorkerTable

_log = logging.getLogger("segue.serving")


@dataclass(kw_only=True)
class State:
    """What a worker answers from.

    Args:
        recommender: answers from the current release.
        sessions: remembers what each user has played.
        log: the event log of this worker.
        workers: the state of all workers of this service.
        store_problem: why the current release cannot be served, if it cannot.
    """

    recommender: Recommender
    sessions: Sessions
    log: EventLogWriter
    workers: WorkerTable
    store_problem: str | None = None

    def problems(self) -> list[str]:
        """A line for each problem; requests are still answered unless the event log cannot be written."""
        lines = [self.log.problem, self.store_problem, getattr(self.sessions, "problem", None)]
        return [line for line in lines if line] + self.workers.problems()


async def follow_store(state: State, store: Store, *, poll_s: float, rng: np.random.Generator) -> None:
    """Change to every new version without interrupting the service; a damaged one leaves the present one in use.

    Args:
        state: gets the new release.
        store: says which version is current.
        poll_s: seconds between two looks for a new version.
        rng: random numbers of the recommender.
    """
    while True:
        await asyncio.sleep(poll_s)
        try:
            if await asyncio.to_thread(store.fetch) != state.recommender.release.version:
                release = await asyncio.to_thread(store.local.open)
                state.recommender = Recommender(release, rng)
                _log.warning("serving version %s", release.version)
            state.store_problem = None
        except (InputError, OSError) as error:  # a full disk, for instance
            if state.store_problem is None:
                _log.warning("the store: %s; version %s stays in use", error, state.recommender.release.version)
            state.store_problem = str(error)
