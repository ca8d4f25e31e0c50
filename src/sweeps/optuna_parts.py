"""What Segue uses of Optuna that its documentation does not offer to users.

Optuna hands a trial only to the process that asked for it, but a trial runs in another one. The names used here are
public, and every storage and pruner has them; Optuna just does not promise them. Tried on Optuna 5.0.0.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage


class RunningTrial:
    """A trial that another process has asked for, reached through the storage that both share.

    Args:
        storage: where the study is kept.
        study: its name.
        number: of the trial.
        pruner: judges what is reported.
    """

    def __init__(self, *, storage: "BaseStorage", study: str, number: int, pruner: "BasePruner") -> None:
        import optuna

        self._storage, self._pruner = storage, pruner
        self._study = optuna.load_study(study_name=study, storage=storage)
        study_id = storage.get_study_id_from_name(study)
        self._id = storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def report(self, value: float, step: int) -> bool:
        """Report a value, of which the first for a step counts; returns whether the trial is to be given up."""
        if step not in self._storage.get_trial(self._id).intermediate_values:
            self._storage.set_trial_intermediate_value(self._id, step, value)
        return bool(self._pruner.prune(self._study, self._storage.get_trial(self._id)))

    def note(self, key: str, value: int) -> None:
        """Keep something with the trial, where the process that asked for it finds it."""
        self._storage.set_trial_user_attr(self._id, key, value)
