"""What the listeners of a source have heard, as profiles."""

from segue.catalog import keys_of
from segue.datamodules.split_datamodule import SplitDataModule
from segue.runs.profiles import Profiles, entries_of_events


def profiles_of(data: SplitDataModule) -> Profiles | None:
    """The profiles of all listeners of a source, with keys of listeners and tracks; None without a clock.

    Args:
        data: the source, set up.
    """
    sessions, listens = data.sessions, data.sessions.listens
    if not sessions.has_clock:
        return None
    listeners = keys_of(sessions.user)[listens.session]
    tracks = data.catalog.keys[listens.track]
    return Profiles.of(*entries_of_events(listeners, tracks, listens.played_ratio, sessions.timestamp))
