"""The tasks that a spec may name, and functions that depend on the named task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from trainables.own_code import find_module, install, module_in
from trainables.settings.parameters import Parameters
from trainables.settings.sets import SettingError, Settings
from trainables.settings.task import TaskSettings
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.attribute import AttributeKind
from trainables.tasks.kind import TaskKind
from trainables.tasks.typographic import TypographicKind

if TYPE_CHECKING:
    import torch

    from trainables.context.trial_context import TrialContext

KINDS: tuple[TaskKind, ...] = (TypographicKind(), AttributeKind())
"""The tasks; the first is used if a spec names none."""


def kind_named(name: object) -> TaskKind:
    """Return the task of this name; None: the first task.

    Raises:
        SettingError: the task is unknown.
    """
    if name is None:
        return KINDS[0]
    kind = next((kind for kind in KINDS if kind.name == name), None)
    if kind is None:
        known = ", ".join(kind.name for kind in KINDS)
        raise SettingError(f"task {name!r} is unknown; choose {known}", "task")
    return kind


def kind_of(settings: TaskSettings) -> TaskKind:
    """Return the task of some settings."""
    return kind_named(settings.task)


class TrialSettings(Settings):
    """Settings of a trial that ``python -m trainables`` runs alone."""

    task: TaskSettings
    parameters: Parameters
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the trial: order of the batches."""
    data_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sweep, the same for all its trials: attacks and subsets."""


def read_trial_settings(raw: Mapping[str, Any]) -> TrialSettings:
    """Return the settings of a trial from parsed YAML or JSON data.

    Raises:
        ValueError: the settings are invalid (pydantic's error or SettingError).
    """
    task = raw.get("task")
    kind = kind_named(task.get("task") if isinstance(task, Mapping) else None)
    return _trial_type(kind.name).model_validate(raw)


def install_code(trial: TrialSettings) -> None:
    """Import the modules of the user's own that a trial names functions of.

    Raises:
        ValueError: a module is missing, or has changed since the trial's settings were written, or cannot be imported.
    """
    metrics = trial.task.metrics if isinstance(trial.task, TypographicSettings) else {}
    functions = [trial.parameters.own_objective, *(metric.function for metric in metrics.values())]
    for name in dict.fromkeys(module_in(function) for function in functions if function is not None):
        module = find_module(name)
        digest = trial.task.code.get(name, module.digest)
        if module.digest != digest:
            raise ValueError(
                f"code digest of {name} was {digest[:12]} and is now {module.digest[:12]}: {module.path} has changed"
            )
        install(module)


@cache
def _trial_type(task: str) -> type[TrialSettings]:
    return create_model("TrialSettings", __base__=TrialSettings, task=(kind_named(task).settings, ...))


def open_context(
    settings: TaskSettings, *, data_seed: int, cache: Path, device: torch.device, device_share: float = 1.0
) -> TrialContext:
    """Return the objects that a process keeps between trials of a task.

    Args:
        cache: folder shared by all processes of a node.
        device_share: share of a GPU's memory that this process may use; below 1 other processes use the same GPU.

    Raises:
        ValueError: the model cannot be loaded.
    """
    from trainables.context.trial_context import TrialContext

    kind = kind_of(settings)
    return TrialContext(
        settings,
        kind.load,
        kind.measures(),
        data_seed=data_seed,
        cache=cache,
        device=device,
        device_share=device_share,
    )
