"""The search space: what each parameter may be, and under which condition on the others.

A parameter is a plain value, ``{choices: [...]}``, ``{low, high, log, step}`` or a list of these, each with its own
``when``. Every branch of a list has a name of its own in the study (``beta[dpo,kto]``), so that the sampler never mixes
two ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from pydantic import ValidationError

from sweeper.spec.domains import Choices, Domain, Fixed, Range, Value, field_problem, legal_values, parse_domain, same
from sweeper.spec.problems import Problem, ProblemsError, did_you_mean, dotted, rule, shown
from trainables.settings.parameters import Parameters

Suggest = Callable[[str, Choices | Range], Value]
"""Called with a name in the study and what may be drawn; returns the value."""

GRID_LIMIT = 100_000
"""Combinations of a grid: far above what anybody trains."""

SHAPING = ("objective", "tune")
"""Parameters that decide which others ``trainables.settings.Parameters`` wants."""


@dataclass(frozen=True)
class Branch:
    """One way a parameter is drawn."""

    parameter: str
    name: str
    """In the study."""
    domain: Domain
    when: Mapping[str, tuple[Value, ...]]
    """Applies where each of these parameters has one of these values; always where empty."""
    path: tuple[str | int, ...] = ()

    def applies(self, parameters: Mapping[str, Value]) -> bool:
        """Whether it applies, given the parameters it depends on (one that itself does not apply is not there)."""
        return all(
            name in parameters and any(same(parameters[name], value) for value in values)
            for name, values in self.when.items()
        )


@dataclass(frozen=True)
class Space:
    """All parameters of a sweep, in an order in which each comes after those it depends on."""

    raw: dict[str, Any]
    """As written, ``embed_dim`` replaced by its number; ``Space.parse(raw)`` gives the same space."""
    branches: dict[str, tuple[Branch, ...]] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, raw: object, embed_dim: int | None = None) -> Space:
        """Reads and checks a space. ``embed_dim`` is the model's embedding width, None where it is not known.

        Raises ProblemsError with everything found, paths relative to ``raw``: unknown parameters, ranges that make no
        sense, conditions that cannot be evaluated, and combinations that could be drawn but are no valid Parameters.
        """
        if not isinstance(raw, Mapping) or not raw:
            raise ProblemsError([Problem((), "must be a mapping from parameter names to what they may be")])
        problems = [
            Problem((name,), f"unknown parameter `{name}`" + did_you_mean(name, Parameters.model_fields), at_key=True)
            for name in raw
            if name not in Parameters.model_fields
        ]
        raw = {name: _with_width(value, embed_dim) if name == "rank" else value for name, value in raw.items()}
        known = {name: value for name, value in raw.items() if name in Parameters.model_fields}
        branches = {name: _branches(name, value, problems) for name, value in known.items()}
        for branch in _each(branches):
            problems += _value_problems(branch, embed_dim)
            problems += _condition_problems(branch, branches)
        if problems:
            raise ProblemsError(problems)
        space = cls(raw=raw, branches=_in_order(branches))
        problems = list(space._combination_problems())
        if problems:
            raise ProblemsError(problems)
        return space

    def draw(self, suggest: Suggest) -> dict[str, Value]:
        """Asks for each searched parameter that applies; returns these and the fixed ones, ready for Parameters."""
        drawn: dict[str, Value] = {}
        for name in self.branches:
            branch = self._branch(name, drawn)
            if branch is not None:
                domain = branch.domain
                drawn[name] = domain.value if isinstance(domain, Fixed) else suggest(branch.name, domain)
        return drawn

    def grid(self) -> list[dict[str, Value]]:
        """Every combination of choices, each once, as ``draw`` returns it; the first parameter changes slowest.

        Raises ProblemsError for a range that could be drawn and for more than ``GRID_LIMIT`` combinations.
        """
        ranges: dict[str, Branch] = {}
        for combination in self._combinations(list(self.branches), {}, self._deciding()):
            assert not isinstance(combination, Problem), "checked when the space was parsed"
            applying = (self._branch(name, combination) for name in combination)
            ranges |= {b.name: b for b in applying if b is not None and isinstance(b.domain, Range)}
        if ranges:
            message = "is a range; a grid tries choices: write {choices: [...]}, or take the sampler tpe"
            raise ProblemsError(Problem(branch.path, f"`{name}` {message}") for name, branch in ranges.items())
        walk = self._combinations(list(self.branches), {}, set(self.branches))
        found = [one for one in islice(walk, GRID_LIMIT + 1) if not isinstance(one, Problem)]
        if len(found) > GRID_LIMIT:
            raise ProblemsError([Problem((), f"this grid has more than {GRID_LIMIT} combinations; name fewer choices")])
        return found

    def anchors(self) -> list[dict[str, Value]]:
        """For each ``tune`` three points, as ``draw`` returns them: cross-entropy (or else the space's first objective)
        with everything in the middle, then with the most and the least of ``lambda_reg``."""
        found: list[dict[str, Value]] = []
        scopes = {value for branch in self.branches["tune"] for value in branch.domain.examples()}
        for tune in sorted(scopes, key=str):
            for place in (0.5, 1.0, 0.0):
                anchor = self.draw(partial(_anchored, tune=tune, place=place))
                if anchor not in found:
                    found.append(anchor)
        return found

    def complete(self, parameters: Mapping[str, Any]) -> dict[str, Value]:
        """A point that lies in the space, with the fixed parameters added where it leaves them out.

        Raises ValueError for a point that the space could not have drawn.
        """
        for name in parameters:
            if name not in Parameters.model_fields:
                raise ValueError(f"unknown parameter `{name}`" + did_you_mean(name, self.branches))
            if name not in self.branches:
                raise ValueError(f"`{name}` is not among `parameters`; add it there, for instance as a plain value")
        completed: dict[str, Value] = {}
        for name in self.branches:
            branch = self._branch(name, completed)
            if branch is None:
                if name in parameters:
                    deciding = {key for other in self.branches[name] for key in other.when}
                    given = ", ".join(f"{key} {shown(completed.get(key))}" for key in sorted(deciding))
                    raise ValueError(f"`{name}` does not apply with {given}; leave it out of this point")
            elif name in parameters:
                value = branch.domain.match(parameters[name])
                if value is None:
                    raise ValueError(f"`{branch.name}` is {branch.domain}, not {shown(parameters[name])}")
                completed[name] = value
            elif isinstance(branch.domain, Fixed):
                completed[name] = branch.domain.value
            else:
                raise ValueError(f"needs a value for `{name}` ({branch.domain})")
        return completed

    def locate(self, parameters: Mapping[str, Any]) -> dict[str, Value]:
        """Names in the study and values of a point's searched parameters. Raises ValueError as ``complete`` does."""
        return {branch.name: value for branch, value in self._searched(parameters)}

    def domains(self, parameters: Mapping[str, Any]) -> dict[str, Choices | Range]:
        """What each name that ``locate`` returns may be drawn from."""
        return {b.name: b.domain for b, _ in self._searched(parameters) if not isinstance(b.domain, Fixed)}

    def contains(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the space could have drawn this point."""
        try:
            self.complete(parameters)
        except ValueError:
            return False
        return True

    def _searched(self, parameters: Mapping[str, Any]) -> Iterator[tuple[Branch, Value]]:
        completed = self.complete(parameters)
        for name, value in completed.items():
            branch = self._branch(name, completed)
            assert branch is not None, "complete() keeps only what applies"
            if not isinstance(branch.domain, Fixed):
                yield branch, value

    def _branch(self, name: str, parameters: Mapping[str, Value]) -> Branch | None:
        return next((branch for branch in self.branches[name] if branch.applies(parameters)), None)

    def _deciding(self) -> set[str]:
        """The parameters whose values decide what else is drawn."""
        return {name for branch in _each(self.branches) for name in branch.when} | set(SHAPING)

    def _combination_problems(self) -> Iterator[Problem]:
        """Walks every combination of the values that decide what else is drawn; each must be valid Parameters."""
        deciding = self._deciding()
        seen: set[str] = set()
        for combination in self._combinations(list(self.branches), {}, deciding):
            if isinstance(combination, Problem):
                found = [combination]
            else:
                found = [
                    Problem(path, f"{message} (drawn with {self._described(combination, deciding)})")
                    for path, message in _invalid(combination)
                ]
            for problem in found:
                reason = problem.message.split(" (drawn with")[0]
                if reason not in seen:
                    seen.add(reason)
                    yield problem

    def _combinations(
        self, names: Sequence[str], drawn: dict[str, Value], deciding: set[str]
    ) -> Iterator[dict[str, Value] | Problem]:
        if not names:
            yield drawn
            return
        name, *rest = names
        applying = [branch for branch in self.branches[name] if branch.applies(drawn)]
        if len(applying) > 1:
            first, second = applying[0].name, applying[1].name
            yield Problem(applying[1].path, f"`{second}` and `{first}` can apply at once; make `when` tell them apart")
            return
        if not applying:
            yield from self._combinations(rest, drawn, deciding)
            return
        values = applying[0].domain.examples()
        for value in values if name in deciding else values[:1]:
            yield from self._combinations(rest, {**drawn, name: value}, deciding)

    def _described(self, combination: Mapping[str, Value], deciding: set[str]) -> str:
        return ", ".join(f"{name} {value}" for name, value in combination.items() if name in deciding) or "any value"


def _anchored(name: str, domain: Choices | Range, *, tune: Value, place: float) -> Value:
    """What ``Space.anchors`` takes for a searched parameter, ``name`` being that in the study."""
    parameter = name.partition("[")[0]
    for wanted in (tune, "cross_entropy"):
        if parameter in SHAPING and isinstance(domain, Choices) and domain.match(wanted) is not None:
            return wanted
    place = place if parameter == "lambda_reg" else 0.5
    if isinstance(domain, Range):
        return domain.at(place)
    return domain.values[0] if parameter in SHAPING else domain.values[round(place * (len(domain.values) - 1))]


def _invalid(combination: Mapping[str, Value]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    try:
        Parameters.model_validate(combination)
    except ValidationError as error:
        for detail in error.errors():
            if detail["type"] == "missing":
                name = str(detail["loc"][0])
                yield (name,), f"`{name}` has no value; add one, or a branch of `{name}` for this case"
            else:
                message = rule(detail)
                if "applies to" in message or "has no" in message:
                    message += "; add a `when` that draws it only where it applies"
                elif "needs" in message:
                    message += "; add it, or a branch of it for this case"
                path = next(((name,) for name in combination if f"`{name}`" in message), ())
                yield path, message


def _each(branches: Mapping[str, Sequence[Branch]]) -> Iterator[Branch]:
    for several in branches.values():
        yield from several


def _with_width(value: Any, embed_dim: int | None) -> Any:
    """Replaces the word ``embed_dim`` wherever a number may stand; left alone where the width is not known."""
    if isinstance(value, Mapping):
        return {key: item if key == "when" else _with_width(item, embed_dim) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_width(item, embed_dim) for item in value]
    return embed_dim if value == "embed_dim" and embed_dim is not None else value


def _branches(parameter: str, raw: Any, problems: list[Problem]) -> tuple[Branch, ...]:
    path: tuple[str | int, ...] = (parameter,)
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


def _label(when: Mapping[str, tuple[Value, ...]], short: bool) -> str:
    if short:
        return ",".join(str(value) for values in when.values() for value in values)
    return ";".join(f"{name}={','.join(str(value) for value in values)}" for name, values in when.items())


def _domain_and_when(
    raw: Any, path: tuple[str | int, ...], problems: list[Problem]
) -> tuple[Domain | None, dict[str, tuple[Value, ...]]]:
    when: dict[str, tuple[Value, ...]] = {}
    if isinstance(raw, Mapping) and "when" in raw:
        raw = dict(raw)
        conditions = raw.pop("when")
        if not isinstance(conditions, Mapping) or not conditions:
            problems.append(Problem((*path, "when"), "`when` is a mapping such as {tune: transform}"))
        else:
            when = {name: tuple(v) if isinstance(v, list) else (v,) for name, v in conditions.items()}
    try:
        return parse_domain(raw, dotted(path)), when
    except ProblemsError as error:
        problems += [Problem((*path, *p.path), p.message, p.at_key) for p in error.problems]
        return None, when


def _value_problems(branch: Branch, embed_dim: int | None) -> Iterator[Problem]:
    for path, value in branch.domain.located():
        message = field_problem(branch.parameter, value)
        if message is None and branch.parameter == "rank" and embed_dim is not None and int(value) > embed_dim:
            message = f"{value} is above {embed_dim}, the model's embedding width; write embed_dim"
        if message is not None and value == "embed_dim":
            message = "the model's embedding width is not known here; write the number"
        if message is not None:
            # A plain value stands at the branch itself, not under a `value` key.
            located = path if len(branch.path) > 1 or branch.when or path != ("value",) else ()
            yield Problem((*branch.path, *located), f"`{branch.parameter}`: {message}")


def _condition_problems(branch: Branch, branches: Mapping[str, Sequence[Branch]]) -> Iterator[Problem]:
    for name, values in branch.when.items():
        path = (*branch.path, "when", name)
        if name not in branches:
            message = f"`when` looks at `{name}`, which is no parameter here" + did_you_mean(name, branches)
            yield Problem(path, message, at_key=True)
            continue
        if any(isinstance(other.domain, Range) for other in branches[name]):
            yield Problem(path, f"`when` can look at choices and fixed values only; `{name}` is a range", True)
            continue
        possible = legal_values(name) or [value for other in branches[name] for value in other.domain.examples()]
        for value in values:
            if not any(same(value, other) for other in possible):
                yield Problem(path, f"`{name}` is never {shown(value)}" + did_you_mean(value, possible))


def _in_order(branches: dict[str, tuple[Branch, ...]]) -> dict[str, tuple[Branch, ...]]:
    """Dependencies first, otherwise as written. Raises ProblemsError where conditions go in a circle."""
    ordered: dict[str, tuple[Branch, ...]] = {}
    waiting = dict(branches)
    while waiting:
        ready = [n for n, several in waiting.items() if all(d in ordered for b in several for d in b.when)]
        if not ready:
            needed = {dependency for several in waiting.values() for branch in several for dependency in branch.when}
            circle = [name for name in waiting if name in needed]
            names = ", ".join(f"`{name}`" for name in circle)
            raise ProblemsError([Problem((circle[0],), f"the conditions of {names} wait for each other", True)])
        ordered[ready[0]] = waiting.pop(ready[0])
    return ordered
