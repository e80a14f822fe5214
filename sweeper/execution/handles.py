"""Handles of actors as bytes, for a process that only passes them on.

Reading a handle imports the module of the actor's class: the job queue's process would import all of Train and Tune,
seconds of CPU and hundreds of megabytes.
"""

from __future__ import annotations

from typing import Any, NewType

Sealed = NewType("Sealed", bytes)
"""A handle as bytes."""


def seal(handle: Any) -> Sealed:
    """Return the handle of an actor as bytes. It does not keep the actor alive: its owner does."""
    import ray

    return Sealed(ray.cloudpickle.dumps(handle))


def unseal(sealed: Sealed) -> Any:
    """Return the handle of the actor."""
    import ray

    return ray.cloudpickle.loads(sealed)
