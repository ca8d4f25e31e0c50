"""LightFM with artists and tags, fitted in a Python of its own; `study.py` starts it with two files.

Every pair of the training data is an interaction: the previous track is its user, the next track its item. Both have
features: the track itself where training plays it, its artist and its tags. It imports nothing of `src/`.
"""

import sys
import time

import numpy as np
from lightfm import LightFM
from scipy.sparse import coo_matrix, csr_matrix

DIM, EPOCHS = 64, 20
"""Width as that of the heads; the other settings are LightFM's own."""


def main(given: str, found: str) -> None:
    """Fit and write the vectors.

    Args:
        given: `.npz` with the pairs `previous` and `following`, the features of each track as the parts `data`,
            `columns` and `starts` of a sparse matrix with `width` columns, and `seed`.
        found: `.npz` for `queries` and `items`, whose inner product is the score, and `fit_s`.
    """
    with np.load(given) as file:
        task = dict(file)
    num = len(task["starts"]) - 1
    parts = (task["data"].astype(np.float32), task["columns"], task["starts"])
    features = csr_matrix(parts, shape=(num, int(task["width"])))
    ones = np.ones(len(task["previous"]), np.float32)
    pairs = coo_matrix(
        (ones, (task["previous"], task["following"])), shape=(num, num)
    )  # a pair as often as it is there
    model, started = LightFM(no_components=DIM, loss="warp", random_state=int(task["seed"])), time.perf_counter()
    model.fit(pairs, user_features=features, item_features=features, epochs=EPOCHS)
    _, queries = model.get_user_representations(features)  # the bias of a query changes no rank
    bias, items = model.get_item_representations(features)
    np.savez(
        found,
        queries=np.column_stack([queries, np.ones(num)]).astype(np.float32),
        items=np.column_stack([items, bias]).astype(np.float32),
        fit_s=time.perf_counter() - started,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
