"""The branches of a search space: the ways to draw a parameter, read from a spec and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeper.spec.domains import Domain, Range, Value, field_problem, legal_values, parse_domain, same
from sweeper.spec.problems import KeyPath, Problem, ProblemsError, did_you_mean, dotted, shown
from trainables.own_code import names_function
from trainables.settings.parameters import Parameters

Conditions = dict[str, tuple[Value, ...]]
"""Parameter -> values, of which this parameter must have one."""


@dataclass(frozen=True)
class Branch:
    """A domain of a parameter and the condition under which the parameter is drawn from it."""

    parameter: str
    name: str
    """Name in the study: the parameter's name, followed by the condition in brackets if there are several branches."""
    domain: Domain
    when: Conditions
    """The branch applies if each of these parameters has one of these values; always if empty."""
    path: KeyPath = ()
    """Path from the top of the space to the branch."""

    def applies(self, parameters: Mapping[str, Value]) -> bool:
        """Return whether the branch applies, given the parameters it depends on.

        A parameter that itself does not apply is missing in ``parameters``; a condition on it is false.
        """
        return all(
            name in parameters and any(same(parameters[name], value) for value in values)
            for name, values in self.when.items()
        )


Branches = dict[str, tuple[Branch, ...]]
"""The branches of each parameter of a space; a parameter stands after those that its conditions name."""


def parse_branches(raw: Mapping[str, Any], embed_dim: int | None) -> Branches:
    """Return the branches of a space in the form of the spec, dependencies first.

    Raises:
        ProblemsError: a branch or condition is invalid; it has every problem, with paths relative to ``raw``.
    """
    functions = _functions(raw)
    unknown = [name for name in raw if name not in Parameters.model_fields and not functions]
    problems = [_unknown(name) for name in unknown]
    branches = {name: _branches(name, value, problems) for name, value in raw.items() if name not in unknown}
    problems += _own_problems(branches, functions)
    for branch in all_branches(branches):
        problems += _value_problems(branch, embed_dim)
        problems += _condition_problems(branch, branches)
    if problems:
        raise ProblemsError(problems)
    return _in_order(branches | _rate_by_scope(branches))


def all_branches(branches: Mapping[str, Sequence[Branch]]) -> Iterator[Branch]:
    """Yield the branches of all parameters."""
    for branches_of_parameter in branches.values():
        yield from branches_of_parameter


def _branches(parameter: str, raw: Any, problems: list[Problem]) -> tuple[Branch, ...]:
    path: KeyPath = (parameter,)
    if not isinstance(raw, list):
        domain, when = _domain_and_when(raw, path, problems)
        return (Branch(parameter, parameter, domain, when, path),) if domain is not None else ()
    if not raw or not all(isinstance(item, Mapping) and "when" in item for item in raw):
        message = f"`{parameter}`: a list holds branches, each with its own `when`; to choose write {{choices: [...]}}"
        problems.append(Problem(path, message))
        return ()
    parsed = [(index, *_domain_and_when(item, (*path, index), problems)) for index, item in enumerate(raw)]
    deciding = {name for _, _, when in parsed for name in when}
    return tuple(
        Branch(parameter, f"{parameter}[{_label(when, short=len(deciding) == 1)}]", domain, when, (*path, index))
        for index, domain, when in parsed
        if domain is not None
    )


def _functions(raw: Mapping[str, Any]) -> list[str]:
    """Return the objectives of a space that are functions of the user's own."""
    objectives = _branches("objective", raw["objective"], []) if "objective" in raw else ()
    values = [value for branch in objectives for value in branch.domain.examples()]
    return [value for value in values if isinstance(value, str) and names_function(value)]


def _own_problems(branches: Branches, functions: Sequence[str]) -> Iterator[Problem]:
    """Yield the problems of parameters that are no fields of Parameters: they belong to functions alone."""
    every = [value for branch in branches.get("objective", ()) for value in branch.domain.examples()]
    for name in sorted(branches.keys() - Parameters.model_fields.keys()):
        for branch in branches[name]:
            if not name.isidentifier() or not set(branch.when.get("objective", every)) <= set(functions):
                hint = f"; a parameter of a function of your own needs `when: {{objective: {functions[0]}}}`"
                yield _unknown(name, hint)
                break


def _unknown(name: str, hint: str = "") -> Problem:
    return Problem(
        (name,), f"unknown parameter `{name}`{did_you_mean(name, Parameters.model_fields)}{hint}", at_key=True
    )


def _rate_by_scope(branches: Branches) -> Branches:
    """Return a branch of ``learning_rate`` for each ``tune``, in place of a single ``auto``.

    Good rates for the transform differ widely from those for a tower.
    """
    rate, *others = branches.get("learning_rate", [None])
    tunes = list(dict.fromkeys(value for branch in branches.get("tune", ()) for value in branch.domain.examples()))
    if rate is None or others or rate.when or not isinstance(rate.domain, Range) or not rate.domain.auto:
        return {}
    if len(tunes) < 2:
        return {}
    return {
        "learning_rate": tuple(replace(rate, name=f"learning_rate[{tune}]", when={"tune": (tune,)}) for tune in tunes)
    }


def _label(when: Conditions, short: bool) -> str:
    if short:
        return ",".join(str(value) for values in when.values() for value in values)
    return ";".join(f"{name}={','.join(str(value) for value in values)}" for name, values in when.items())


def _domain_and_when(raw: Any, path: KeyPath, problems: list[Problem]) -> tuple[Domain | None, Conditions]:
    when: Conditions = {}
    if isinstance(raw, Mapping) and "when" in raw:
        raw = dict(raw)
        conditions = raw.pop("when")
        if not isinstance(conditions, Mapping) or not conditions:
            problems.append(Problem((*path, "when"), "`when` is a mapping such as {tune: transform}"))
        else:
            when = {
                name: tuple(values) if isinstance(values, list) else (values,) for name, values in conditions.items()
            }
    try:
        return parse_domain(raw, dotted(path)), when
    except ProblemsError as error:
        problems += [problem.below(path) for problem in error.problems]
        return None, when


def _value_problems(branch: Branch, embed_dim: int | None) -> Iterator[Problem]:
    for path, value in branch.domain.written():
        message = field_problem(branch.parameter, value)
        if message is None and branch.parameter == "rank" and embed_dim is not None and int(value) > embed_dim:
            message = f"{value} is above {embed_dim}, the model's embedding width; write embed_dim"
        if message is not None and value == "embed_dim":
            message = "the model's embedding width is not known here; write the number"
        if message is not None:
            # A plain value stands at the branch itself, not under a `value` key.
            inner = path if len(branch.path) > 1 or branch.when or path != ("value",) else ()
            yield Problem((*branch.path, *inner), f"`{branch.parameter}`: {message}")


def _condition_problems(branch: Branch, branches: Mapping[str, Sequence[Branch]]) -> Iterator[Problem]:
    for name, values in branch.when.items():
        path = (*branch.path, "when", name)
        if name not in branches:
            message = f"`when` looks at `{name}`, which is not a parameter here" + did_you_mean(name, branches)
            yield Problem(path, message, at_key=True)
            continue
        if any(isinstance(other.domain, Range) for other in branches[name]):
            yield Problem(path, f"`when` can look at choices and fixed values only; `{name}` is a range", True)
            continue
        drawn = [value for other in branches[name] for value in other.domain.examples()]
        possible = list(dict.fromkeys([*legal_values(name), *drawn]))
        for value in values:
            if not any(same(value, other) for other in possible):
                yield Problem(path, f"`{name}` is never {shown(value)}" + did_you_mean(value, possible))


def _in_order(branches: Branches) -> Branches:
    """Return the branches with dependencies first, otherwise in the order of the spec.

    Raises:
        ProblemsError: conditions depend on each other.
    """
    ordered: Branches = {}
    waiting = dict(branches)
    while waiting:
        ready = [
            name
            for name, own in waiting.items()
            if all(dependency in ordered for branch in own for dependency in branch.when)
        ]
        if not ready:
            needed = {dependency for own in waiting.values() for branch in own for dependency in branch.when}
            circle = [name for name in waiting if name in needed]
            names = ", ".join(f"`{name}`" for name in circle)
            raise ProblemsError([Problem((circle[0],), f"the conditions of {names} depend on each other", True)])
        ordered[ready[0]] = waiting.pop(ready[0])
    return ordered
