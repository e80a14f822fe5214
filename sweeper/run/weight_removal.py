"""Removes the weights of trials that the front cannot need any more, so that the disk holds those of a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeper.records import TrialRecord


class WeightRemoval:
    """Removes weights while trials end. A trial that is not needed stays so, so only the others are compared again."""

    def __init__(
        self,
        trials: Sequence[TrialRecord],
        *,
        needed: Callable[[Sequence[TrialRecord]], set[int]],
        remove: Callable[[int], None],
    ) -> None:
        """Begin with the trials of earlier sessions, of which a kill may have left weights.

        Args:
            needed: returns the numbers of trials whose weights may be needed.
            remove: removes the weights of a trial, if they are there.
        """
        self._needed, self._remove = needed, remove
        self._kept = {trial.number: trial for trial in trials if trial.state == "complete"}
        self._remove_others()

    def trial_ended(self, trial: TrialRecord) -> None:
        if trial.state == "complete":
            self._kept[trial.number] = trial
            self._remove_others()

    def _remove_others(self) -> None:
        needed = self._needed(list(self._kept.values()))
        for number in self._kept.keys() - needed:
            self._remove(number)
            del self._kept[number]
