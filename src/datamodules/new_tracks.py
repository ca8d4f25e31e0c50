"""New tracks: those that training does not play, because they are hidden from it or were first heard later.

N tracks in the catalogue.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from segue.catalog import Catalog
from segue.errors import InputError, check_number


def check_cold_settings(*, cold_share: int | float, cold_seed: int, split: str) -> None:
    """Refuse settings that cannot hide tracks.

    Args:
        cold_share: share of the tracks played in training that are hidden from it.
        cold_seed: decides which.
        split: as `PairDataModule` takes it.

    Raises:
        InputError: a number is out of range, or sessions are torn apart by `split=pair`.
    """
    check_number("datamodule.cold_share", cold_share, least=0, most=0.9, hint="0 hides no track, 0.1 is usual")
    check_number("datamodule.cold_seed", cold_seed, whole=True, least=0, most=2**32 - 1)
    if cold_share and split == "pair":
        raise InputError(
            f"datamodule.cold_share={cold_share} leaves tracks out of training sessions, but split=pair puts pairs of "
            "one session into every split; use datamodule.split=session, or split=time"
        )


def hidden_tracks(
    catalog: Catalog, plays: Int64[np.ndarray, "N"], *, cold_share: int | float, cold_seed: int
) -> Bool[np.ndarray, "N"]:
    """Choose the tracks that are hidden from training: a random share of those that training plays.

    A hash of the id decides. Longer logs of the same tracks therefore hide nearly the same ones.

    Args:
        catalog: the catalogue.
        plays: number of training plays of each track.
        cold_share: share of the played tracks, in [0, 0.9].
        cold_seed: enters the hash, in [0, 2³²).

    Returns:
        True for each hidden track. Their number is the share, rounded.

    Raises:
        InputError: the share is not 0, and so small that it hides no track.
    """
    ids = catalog.track_ids.astype(str) if catalog.source_ids is None else catalog.source_ids
    hashes = pd.util.hash_array(np.asarray(ids, object), hash_key=f"{cold_seed:016d}", categorize=False)
    played = np.flatnonzero(plays)
    if cold_share and not round(cold_share * len(played)):
        raise InputError(
            f"datamodule.cold_share={cold_share} hides none of the {len(played):,} tracks that training plays; raise it"
        )
    chosen = played[np.argsort(hashes[played], kind="stable")[: round(cold_share * len(played))]]
    hidden = np.zeros(len(plays), bool)
    hidden[chosen] = True
    return hidden
