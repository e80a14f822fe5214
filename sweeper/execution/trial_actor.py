"""Tune's trial actor. Of its own module, so that its process need not import Train and torch: seconds per actor."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from sweeper.execution.job_queue import SetupError

NEWS = "news"
"""Key of a result: what came in of the trial."""
WARM_UP = "standby"
"""Kind of what is no trial: it waits until all relays have started."""


class TrialActor(tune.Trainable):
    """One step is the next news of a trial that runs in a slot. It serves trial after trial and may die any time."""

    def setup(self, config: dict[str, Any], desk: Any = None) -> None:
        self._desk = desk
        self._follow(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._follow(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._name[0] == WARM_UP:
            ray.get(self._desk.stand_by.remote())
            return {NEWS: ([], None), "done": True}
        news = ray.get(self._desk.follow.remote(self._name, self._seen))
        if isinstance(news, SetupError):
            return {NEWS: news, "done": True}
        notes, outcome = news
        self._seen += len(notes)
        return {NEWS: news, "done": outcome is not None}

    def _follow(self, config: dict[str, Any]) -> None:
        self._name = (config["kind"], config["key"])
        self._seen = int(config["seen"])
