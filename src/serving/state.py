"""What a worker answers from, and how it takes over a new version."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.errors import InputError
from src.serving.log_writer import EventLogWriter
from src.serving.recommender import Recommender
from src.serving.release import Release
from src.serving.release_store import FolderStore
from src.serving.session_memory import SessionMemory

_log = logging.getLogger("segue.serving")


@dataclass(kw_only=True)
class State:
    """What a worker works with, and what is wrong with it."""

    recommender: Recommender
    sessions: SessionMemory
    log: EventLogWriter
    store_problem: str | None = None

    @property
    def release(self) -> Release:
        """What is served."""
        return self.recommender.release

    def problems(self) -> list[str]:
        """What is wrong; all but a log that cannot be written leaves answers possible."""
        found = [self.log.problem, self.store_problem, getattr(self.sessions, "problem", None)]
        return [problem for problem in found if problem]


async def follow_store(
    state: State, store: FolderStore, fetch: Callable[[], object] | None, *, poll_s: float, rng: np.random.Generator
) -> None:
    """Take over every new version, without a pause; what cannot be taken over leaves what is served as it is.

    Args:
        state: gets the new release.
        store: where versions lie on this machine.
        fetch: brings the current version there from elsewhere, if it must be brought.
        poll_s: seconds between two looks.
        rng: of the recommender.
    """
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(poll_s)
        try:
            if fetch is not None:
                await loop.run_in_executor(None, fetch)
            current = (await loop.run_in_executor(None, store.index)).current
            if current != state.release.version:
                release = await loop.run_in_executor(None, store.open)
                state.recommender = Recommender(release, rng)
                _log.warning("serving version %s", release.version)
            state.store_problem = None
        except (InputError, OSError) as error:  # a full disk, for instance
            if state.store_problem is None:
                _log.warning("the store: %s; version %s stays", error, state.release.version)
            state.store_problem = str(error)
