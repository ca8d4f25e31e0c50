"""The last plays of each user, over sessions, days and restarts: for arms of one's own (`policy=`)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from segue.picking.arm import MOST_PLAYS
from segue.serving.settings import RedisSettings, ServiceSettings, SessionSettings
from segue.serving.stores import Sessions, make_sessions

_FOLDER = "last_plays"
_FOREVER_S = 40 * 365 * 86_400.0  # a session without an end: its last tracks are the last plays of the user


def make_last_plays(settings: ServiceSettings) -> Sessions:
    """The memory of last plays: a session of each user that never ends. It lies in the folder of the store.

    Args:
        settings: of the service; `sessions.capacity` is the number of users.

    Raises:
        InputError: the disk has no room for the file.
    """
    folder = Path(settings.store.folder, _FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    own = SessionSettings(capacity=settings.sessions.capacity, max_tracks=MOST_PLAYS, idle_s=_FOREVER_S)
    store: dict[str, Any] = {}
    if isinstance(settings.store, RedisSettings):
        store["store"] = replace(settings.store, name=f"{settings.store.name}lastplays"[-64:])
    return make_sessions(replace(settings, run_dir=str(folder), sessions=own, **store))
