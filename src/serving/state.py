"""What a worker answers from, and how it changes to a new version."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from segue.errors import InputError
from segue.serving.log_writer import EventLogWriter
from segue.serving.recommender import Recommender
from segue.serving.settings import ProfileSettings
from segue.serving.stores import ProfileStore, Sessions, Store
from segue.serving.worker_table import WorkerTable

_LOOK_S = 2.0  # longest wait for a look, in seconds; Redis may hang, or the service may stop
_BETWEEN_S = 0.1  # least time between two looks: requests with invented ids want many

_log = logging.getLogger("segue.serving")


@dataclass(kw_only=True)
class State:
    """What a worker answers from.

    Args:
        recommender: answers from the current release.
        sessions: remembers what each user has played.
        last_plays: remembers the last plays of each user, over sessions.
        remember: whose plays profiles keep.
        profiles: remembers what each listener has heard in all sessions; None where it is switched off.
        log: the event log of this worker.
        workers: the state of all workers of this service.
        store_problem: why the current release cannot be served, if it cannot.
    """

    recommender: Recommender
    sessions: Sessions
    last_plays: Sessions
    remember: ProfileSettings
    log: EventLogWriter
    workers: WorkerTable
    profiles: ProfileStore | None = None
    store_problem: str | None = None
    _is_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _looked: asyncio.Event | None = None  # set after the next look that begins; None where nothing follows a store

    async def look_again(self) -> None:
        """Wait until the store was looked at again and a new version is in use, or too long.

        Of several workers one may answer from a new version shortly before another, which then gets a
        track that it does not know.
        """
        if self._looked is not None:
            self._is_wanted.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._looked.wait(), _LOOK_S)

    async def wait_for_look(self, poll_s: float) -> asyncio.Event:
        """Wait until a look is due, or wanted.

        Args:
            poll_s: seconds after which one is due.

        Returns:
            The event to set after the look.
        """
        self._looked = self._looked or asyncio.Event()
        await asyncio.sleep(min(_BETWEEN_S, poll_s))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_wanted.wait(), poll_s)
        self._is_wanted.clear()
        looked, self._looked = self._looked, asyncio.Event()
        return looked

    def problems(self) -> list[str]:
        """A line for each problem; requests are still answered unless the event log cannot be written."""
        memories = [getattr(one, "problem", None) for one in (self.sessions, self.profiles)]
        return [line for line in [self.log.problem, self.store_problem, *memories] if line] + self.workers.problems()


async def follow_store(state: State, store: Store, *, poll_s: float, rng: np.random.Generator) -> None:
    """Change to every new version without interrupting the service; a damaged one leaves the present one in use.

    Args:
        state: gets the new release.
        store: says which version is current.
        poll_s: seconds between two looks for a new version.
        rng: random numbers of the recommender.
    """
    while True:
        looked = await state.wait_for_look(poll_s)
        try:
            if await asyncio.to_thread(store.fetch) != state.recommender.release.version:
                release = await asyncio.to_thread(store.local.open)
                recommender = Recommender(release, rng, state.recommender.policies)
                if recommender.knows_listeners and state.profiles is not None:
                    await state.profiles.open()
                state.recommender = recommender
                _log.warning("serving version %s", release.version)
            state.store_problem = None
        except (InputError, OSError) as error:  # a full disk, for instance
            if state.store_problem is None:
                _log.warning("the store: %s; version %s stays in use", error, state.recommender.release.version)
            state.store_problem = str(error)
        finally:
            looked.set()
