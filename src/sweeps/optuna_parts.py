"""The parts of Optuna that Segue uses and that Optuna does not document for users.

Optuna gives a trial object only to the process that asked for it, but Segue runs a trial in another process. The
methods used here are public, and every storage and pruner has them. Tested with Optuna 5.0.0.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage


class RunningTrial:
    """A trial that another process has asked for, accessed through the storage that both processes share.

    Args:
        storage: the storage that keeps the study.
        study: name of the study.
        number: number of the trial.
        pruner: decides whether a trial is pruned.
    """

    def __init__(self, *, storage: "BaseStorage", study: str, number: int, pruner: "BasePruner") -> None:
        import optuna

        self._storage, self._pruner = storage, pruner
        self._study = optuna.load_study(study_name=study, storage=storage)
        study_id = storage.get_study_id_from_name(study)
        self._id = storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def report(self, value: float, step: int) -> bool:
        """Report a value. If a step is reported twice, the first value counts.

        Args:
            value: value of the objective so far.
            step: number of the epoch, counted from 1.

        Returns:
            Whether the trial is to be pruned.
        """
        if step not in self._storage.get_trial(self._id).intermediate_values:
            self._storage.set_trial_intermediate_value(self._id, step, value)
        return bool(self._pruner.prune(self._study, self._storage.get_trial(self._id)))

    def note(self, key: str, value: int) -> None:
        """Store a user attribute of the trial, which the process that asked for it can read.

        Args:
            key: name of the attribute.
            value: its value.
        """
        self._storage.set_trial_user_attr(self._id, key, value)
