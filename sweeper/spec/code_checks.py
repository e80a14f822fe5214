"""Checks of the functions of a user's own that a spec names: each is called on a small batch before anything starts.

PyTorch is imported only for a spec that names such a function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from sweeper.spec.branches import all_branches
from sweeper.spec.domains import Value
from sweeper.spec.middle import middle_point
from sweeper.spec.problems import KeyPath, Problem, did_you_mean
from sweeper.spec.space import Space
from trainables.own_code import OwnModule, find_module, install, module_in, names_function
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.settings.typographic import TypographicSettings

if TYPE_CHECKING:
    from trainables.row_function import RowFunction


def code_problems(task: TaskSettings, space: Space) -> tuple[list[Problem], dict[str, str]]:
    """Return the problems of the functions that a spec names, and the digest of each module that holds one."""
    named = _named(task, space)
    problems: list[Problem] = []
    digests: dict[str, str] = {}
    for name, path in named.items():
        module_name = module_in(name)
        if module_name in digests:
            continue
        try:
            module = find_module(module_name)
            install(module)
        except ValueError as error:
            problems.append(Problem(path, str(error)))
            continue
        digests[module_name] = module.digest
    problems += _pinned_problems(task.code, digests, {module_in(name) for name in named})
    if problems or not named:
        return problems, digests
    return [*_objective_problems(space), *_metric_problems(task)], digests


def read_code(code: Mapping[str, str], sweep: str) -> tuple[OwnModule, ...]:
    """Return the modules of a sweep as they are now, which are those that the sweep began with.

    Args:
        code: module -> digest, of the sweep's spec.

    Raises:
        UserError: a module is missing or has changed.
    """
    modules = []
    for name, digest in code.items():
        try:
            module = find_module(name)
        except ValueError as error:
            raise UserError(f"sweep {sweep} names functions of {name}: {error}") from error
        if module.digest != digest:
            raise UserError(
                f"code digest of {name} in sweep {sweep} was {digest[:12]} and is now {module.digest[:12]}: "
                f"{module.path} has changed; restore it, or start a new sweep for it"
            )
        modules.append(module)
    return tuple(modules)


def _named(task: TaskSettings, space: Space) -> dict[str, KeyPath]:
    """Return the functions that a spec names, each with the first place that names it."""
    named: dict[str, KeyPath] = {}
    for branch in space.branches.get("objective", ()):
        for path, value in branch.domain.written():
            if isinstance(value, str) and names_function(value):
                named.setdefault(value, ("parameters", *branch.path, *path))
    metrics = task.metrics if isinstance(task, TypographicSettings) else {}
    for name, metric in metrics.items():
        named.setdefault(metric.function, ("metrics", name, "function"))
    return named


def _pinned_problems(code: Mapping[str, str], digests: Mapping[str, str], named: set[str]) -> Iterator[Problem]:
    for module, digest in code.items():
        if module not in named:
            yield Problem(
                ("code", module), f"`code`: the spec names no function of {module}; leave it out", at_key=True
            )
        elif module in digests and digests[module] != digest:
            message = f"`code`: the file of {module} has the digest {digests[module]}; it has changed"
            yield Problem(("code", module), message)


def _objective_problems(space: Space) -> Iterator[Problem]:
    from trainables.row_function import row_function
    from trainables.training.own_objective import check_own_objective

    told: set[str] = set()
    for point in _own_points(space):
        parameters = Parameters.model_validate(point)
        assert parameters.own_objective is not None
        beta = 1.0 if parameters.beta_m0 is not None else parameters.beta
        try:
            unknown = _unknown_parameter(row_function(parameters.own_objective), point)
            if unknown is None:
                check_own_objective(parameters, beta)
                continue
        except ValueError as error:
            unknown = Problem(_path_of(space, parameters.own_objective), str(error))
        if unknown.message not in told:
            told.add(unknown.message)
            yield unknown


def _unknown_parameter(function: RowFunction, point: Mapping[str, Value]) -> Problem | None:
    """Return the problem of a parameter that is drawn for a function which does not take it."""
    from trainables.training.own_objective import SHARED

    for name in point:
        known = name in Parameters.model_fields
        if (known and name not in (*SHARED, "beta_m0")) or name.removesuffix("_m0") in function.arguments:
            continue
        message = f"`{name}` is no parameter of {function.name}{did_you_mean(name, function.arguments)}"
        hint = "; add a `when` that draws it only where it applies" if known else ""
        return Problem(("parameters", name), message + hint, at_key=True)
    return None


def _own_points(space: Space) -> Iterator[dict[str, Value]]:
    """Yield points with objectives of the user's own: both ends of all ranges, for each combination that decides."""
    deciding = {name for branch in all_branches(space.branches) for name in branch.when} | {"objective"}
    for example in space.examples():
        if names_function(str(example.get("objective"))):
            kept = {name: (value,) for name, value in example.items() if name in deciding}
            for end in (0.0, 1.0):
                yield middle_point(space, kept, positions=dict.fromkeys(space.branches, end))


def _path_of(space: Space, objective: str) -> KeyPath:
    return next(
        ("parameters", *branch.path, *path)
        for branch in space.branches["objective"]
        for path, value in branch.domain.written()
        if value == objective
    )


def _metric_problems(task: TaskSettings) -> Iterator[Problem]:
    from trainables.evaluation.own_metric import check_own_metric

    for name, metric in (task.metrics if isinstance(task, TypographicSettings) else {}).items():
        try:
            check_own_metric(metric)
        except ValueError as error:
            yield Problem(("metrics", name, "function"), str(error))
