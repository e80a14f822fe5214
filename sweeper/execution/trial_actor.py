"""Tune's trial actor, in its own module, so that its process need not import Train and torch (seconds per actor)."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from sweeper.execution.handles import seal
from sweeper.execution.messages import JobUpdate, SetupError

UPDATE = "update"
"""Key of a result: news of the trial since the last step."""
WARM_UP = "warm-up"
"""Kind of a Tune trial that only starts an actor: it waits until all trial actors have started."""


class TrialActor(tune.Trainable):
    """Actor whose steps return the news of a trial in a slot. It serves trial after trial and may die at any time."""

    def setup(self, config: dict[str, Any], dispatcher: Any = None) -> None:
        self._dispatcher = dispatcher
        self._follow(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._follow(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._name[0] == WARM_UP:
            ray.get(self._dispatcher.wait_at_barrier.remote())
            return {UPDATE: JobUpdate([], None), "done": True}
        update = ray.get(self._dispatcher.follow.remote(self._name, self._seen))
        if isinstance(update, SetupError):
            return {UPDATE: update, "done": True}
        self._seen += len(update.reports)
        return {UPDATE: update, "done": update.outcome is not None}

    def _follow(self, config: dict[str, Any]) -> None:
        self._name = (config["kind"], config["key"])
        self._seen = int(config["seen"])
        if self._name[0] != WARM_UP:
            actor = seal(ray.get_runtime_context().current_actor)
            ray.get(self._dispatcher.register_follower.remote(self._name, actor))
