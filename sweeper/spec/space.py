"""The search space: the domain of each parameter, and the condition on the others under which it applies.

A parameter is a plain value, ``{choices: [...]}``, ``{low, high, log, step}`` or a list of these, each with its own
``when``. Every branch of a list has its own name in the study (``beta[dpo,kto]``), so that the sampler never mixes two
ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sweeper.spec.branches import Branch, Branches, all_branches, parse_branches
from sweeper.spec.domains import Choices, Fixed, Range, Value
from sweeper.spec.problems import KeyPath, Problem, ProblemsError, did_you_mean, rule, shown
from trainables.settings.parameters import InapplicableParameterError, MissingParameterError, Parameters

Suggest = Callable[[str, Choices | Range], Value]
"""Function of a name in the study and a domain; returns the value."""

GRID_LIMIT = 100_000
"""Largest number of combinations of a grid: far above the size of any real grid."""

SHAPING = ("objective", "tune", "target", "form", "start", "towers")
"""Parameters that decide which others ``trainables.settings.parameters.Parameters`` needs."""


@dataclass(frozen=True)
class Placed:
    """A point with its place in a space: the parameters of a trial, and the values that a sampler learns from."""

    parameters: dict[str, Value]
    """The point's values in the types of their domains, and the fixed parameters."""
    located: dict[str, Value]
    """The searched parameters among them by name in the study; empty for a point outside the space."""


@dataclass(frozen=True)
class Space:
    """The search space of a sweep: the branches of every parameter that a trial may have."""

    raw: dict[str, Any]
    """The space as in the spec, ``embed_dim`` replaced by its number; ``Space.parse(raw)`` gives the same space."""
    branches: Branches = field(compare=False, repr=False)

    @classmethod
    def parse(cls, raw: object, embed_dim: int | None = None) -> Space:
        """Read and check a space.

        Args:
            embed_dim: the model's embedding width; None if not known.

        Raises:
            ProblemsError: the space is invalid. It has all problems, with paths relative to ``raw``: unknown
                parameters, invalid ranges, conditions that cannot be evaluated, and combinations that could be drawn
                but are not valid Parameters.
        """
        if not isinstance(raw, Mapping) or not raw:
            raise ProblemsError([Problem((), "must be a mapping from parameter names to their values")])
        raw = {name: _with_width(value, embed_dim) if name == "rank" else value for name, value in raw.items()}
        space = cls(raw=raw, branches=parse_branches(raw, embed_dim))
        problems = list(space._combination_problems())
        if problems:
            raise ProblemsError(problems)
        return space

    def draw(self, suggest: Suggest) -> dict[str, Value]:
        """Ask for each searched parameter that applies; return these and the fixed ones, ready for Parameters."""
        drawn: dict[str, Value] = {}
        for name in self.branches:
            branch = self._branch(name, drawn)
            if branch is not None:
                domain = branch.domain
                drawn[name] = domain.value if isinstance(domain, Fixed) else suggest(branch.name, domain)
        return drawn

    def place(self, point: Mapping[str, Any]) -> Placed:
        """Return a point's place in the space; the point may leave fixed parameters out.

        Raises:
            ValueError: the space could not have drawn the point.
        """
        for name in point:
            if name not in Parameters.model_fields and name not in self.branches:
                raise ValueError(f"unknown parameter `{name}`" + did_you_mean(name, self.branches))
            if name not in self.branches:
                raise ValueError(f"`{name}` is not among `parameters`; add it there, for instance as a plain value")
        parameters: dict[str, Value] = {}
        located: dict[str, Value] = {}
        for name in self.branches:
            branch = self._branch(name, parameters)
            if branch is None:
                if name in point:
                    deciding = {key for other in self.branches[name] for key in other.when}
                    given = ", ".join(f"{key} {shown(parameters.get(key))}" for key in sorted(deciding))
                    raise ValueError(f"`{name}` does not apply with {given}; leave it out of this point")
            elif name in point:
                value = branch.domain.match(point[name])
                if value is None:
                    raise ValueError(f"`{branch.name}` is {branch.domain}, not {shown(point[name])}")
                parameters[name] = value
                if not isinstance(branch.domain, Fixed):
                    located[branch.name] = value
            elif isinstance(branch.domain, Fixed):
                parameters[name] = branch.domain.value
            else:
                raise ValueError(f"needs a value for `{name}` ({branch.domain})")
        return Placed(parameters, located)

    def domains(self, names: Iterable[str]) -> dict[str, Choices | Range]:
        """Return the domain of each of these names in the study, in the order of the space."""
        wanted = set(names)
        return {
            branch.name: branch.domain
            for branch in all_branches(self.branches)
            if branch.name in wanted and not isinstance(branch.domain, Fixed)
        }

    def grid(self) -> list[dict[str, Value]]:
        """Return every combination of choices once, each as ``draw`` returns it; the first parameter changes slowest.

        Raises:
            ProblemsError: a range could be drawn, or there are more than ``GRID_LIMIT`` combinations.
        """
        ranges: dict[str, Branch] = {}
        for combination in self._combinations(list(self.branches), {}, self._deciding()):
            assert not isinstance(combination, Problem), "checked when the space was parsed"
            applying = (self._branch(name, combination) for name in combination)
            ranges |= {
                branch.name: branch for branch in applying if branch is not None and isinstance(branch.domain, Range)
            }
        if ranges:
            message = "is a range; a grid tries choices: write {choices: [...]}, or take the sampler tpe"
            raise ProblemsError(Problem(branch.path, f"`{name}` {message}") for name, branch in ranges.items())
        combinations = islice(self._combinations(list(self.branches), {}, set(self.branches)), GRID_LIMIT + 1)
        grid = [combination for combination in combinations if not isinstance(combination, Problem)]
        if len(grid) > GRID_LIMIT:
            raise ProblemsError([Problem((), f"this grid has more than {GRID_LIMIT} combinations; name fewer choices")])
        return grid

    def examples(self) -> Iterator[dict[str, Value]]:
        """Yield a point for every combination of the values that decide which others are drawn."""
        for combination in self._combinations(list(self.branches), {}, self._deciding()):
            assert not isinstance(combination, Problem), "checked when the space was parsed"
            yield combination

    def narrowed(self, parts: Mapping[str, tuple[float, float]]) -> Space:
        """Return the space with some ranges reduced to a part (low, high), by name in the study."""

        def cut(branch: Branch) -> Branch:
            if branch.name not in parts or not isinstance(branch.domain, Range):
                return branch
            return replace(branch, domain=branch.domain.cut(*parts[branch.name]))

        return replace(self, branches={name: tuple(map(cut, own)) for name, own in self.branches.items()})

    def holds(self, located: Mapping[str, Value]) -> bool:
        """Return whether the space could have drawn these values, by name in the study."""
        domains = self.domains(located)
        return all(name in domains and domains[name].match(value) is not None for name, value in located.items())

    def _branch(self, name: str, parameters: Mapping[str, Value]) -> Branch | None:
        return next((branch for branch in self.branches[name] if branch.applies(parameters)), None)

    def _deciding(self) -> set[str]:
        """Return the parameters whose values decide which others are drawn."""
        return {name for branch in all_branches(self.branches) for name in branch.when} | set(SHAPING)

    def _combination_problems(self) -> Iterator[Problem]:
        """Yield the problems of all combinations of the values that decide which others are drawn.

        Each combination must be valid Parameters.
        """
        deciding = self._deciding()
        reported: set[str] = set()
        for combination in self._combinations(list(self.branches), {}, deciding):
            if isinstance(combination, Problem):
                problems, drawn_with = [combination], ""
            else:
                problems = _invalid(combination)
                drawn_with = f" (drawn with {self._described(combination, deciding)})"
            for problem in problems:
                if problem.message not in reported:
                    reported.add(problem.message)
                    yield Problem(problem.path, problem.message + drawn_with)

    def _combinations(
        self, names: Sequence[str], drawn: dict[str, Value], deciding: set[str]
    ) -> Iterator[dict[str, Value] | Problem]:
        """Yield every combination of the examples of ``deciding`` parameters, with the first example of every other
        one.

        A problem is yielded if two branches of a parameter apply.
        """
        if not names:
            yield drawn
            return
        name, *rest = names
        applying = [branch for branch in self.branches[name] if branch.applies(drawn)]
        if len(applying) > 1:
            first, second = applying[0].name, applying[1].name
            yield Problem(
                applying[1].path, f"`{second}` and `{first}` can apply at once; make their `when` exclude each other"
            )
            return
        if not applying:
            yield from self._combinations(rest, drawn, deciding)
            return
        values = applying[0].domain.examples()
        for value in values if name in deciding else values[:1]:
            yield from self._combinations(rest, {**drawn, name: value}, deciding)

    def _described(self, combination: Mapping[str, Value], deciding: set[str]) -> str:
        searched = {
            name
            for name in deciding & set(self.branches)
            if name in ("objective", "tune") or any(not isinstance(one.domain, Fixed) for one in self.branches[name])
        }
        return ", ".join(f"{name} {value}" for name, value in combination.items() if name in searched) or "any value"


def _invalid(combination: Mapping[str, Value]) -> list[Problem]:
    """Return why a combination is not valid Parameters, with the change to make in the space."""
    try:
        Parameters.model_validate(combination)
    except ValidationError as error:
        return [_invalid_parameter(detail) for detail in error.errors()]
    return []


def _invalid_parameter(detail: ErrorDetails) -> Problem:
    path: KeyPath = detail["loc"]
    if detail["type"] == "missing":
        name = str(path[0])
        return Problem(path, f"`{name}` has no value; add one, or a branch of `{name}` for this case")
    cause = (detail.get("ctx") or {}).get("error")
    if isinstance(cause, InapplicableParameterError):
        return Problem((cause.parameter,), f"{cause}; add a `when` that draws it only where it applies")
    if isinstance(cause, MissingParameterError) and cause.parameter in ("learning_rate", "objective"):
        name = cause.parameter
        return Problem((name,), f"`{name}` has no value; add one, or a branch of `{name}` for this case")
    if isinstance(cause, MissingParameterError):
        return Problem((), f"{cause}; add it, or a branch of it for this case")
    return Problem(path, rule(detail))


def _with_width(value: Any, embed_dim: int | None) -> Any:
    """Replace the word ``embed_dim`` by its number; unchanged if the width is not known."""
    if isinstance(value, Mapping):
        return {key: item if key == "when" else _with_width(item, embed_dim) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_width(item, embed_dim) for item in value]
    return embed_dim if value == "embed_dim" and embed_dim is not None else value
