"""The profiles of some listeners, as an array."""

import numpy as np
from jaxtyping import Int64

from segue.runs.profiles import Profiles, padded


def lines_of(profiles: Profiles, keys: Int64[np.ndarray, "S"]) -> np.ndarray:
    """The profiles of some listeners, S × P.

    Args:
        profiles: of all listeners.
        keys: of the listeners; one without a profile has empty entries only.
    """
    found = np.searchsorted(profiles.listeners, keys)
    is_known = np.append(profiles.listeners, 0)[found] == keys if len(profiles.listeners) else np.zeros(len(keys), bool)
    is_known &= found < len(profiles.listeners)
    place = np.where(is_known, found, 0)
    ends = np.append(0, profiles.ends)
    length = np.where(is_known, ends[np.minimum(place + 1, len(profiles.ends))] - ends[place], 0)
    owner = np.arange(len(keys)).repeat(length)
    nth = np.arange(len(owner)) - (length.cumsum() - length).repeat(length)
    return padded(owner, profiles.entries[ends[place].repeat(length) + nth], len(keys))
