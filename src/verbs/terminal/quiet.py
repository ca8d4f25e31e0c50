"""Keeps libraries from printing about themselves."""

import logging
import warnings


def silence_libraries() -> None:
    """Silence what Lightning and MLflow print about themselves on every run; call before they are imported."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)
    # prints a traceback where a store is locked; the run logger reports what a store did not take. A filter, since
    # MLflow sets levels of its own
    logging.getLogger("mlflow.store.db.utils").addFilter(lambda _: False)
    # prints a traceback where Ctrl-C closed a connection of MLflow's store in the middle of a query
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    for message in (
        ".*does not have many workers.*",  # batches are cut from tensors, there is nothing for workers to do
        ".*smaller than the logging interval.*",  # metrics are per epoch
        ".*sync_dist=True.*",  # the processes of trainer=ddp validate on the same pairs
        ".*LeafSpec.*deprecated.*",  # inside Lightning
        ".*Checkpoint directory .* exists and is not empty.*",  # a refit puts its checkpoint beside those of the run
    ):
        warnings.filterwarnings("ignore", message=message)
