"""The spec of a sweep: what a user writes in YAML, checked before anything is started."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)

from sweeper.commands import command
from sweeper.errors import UserError
from sweeper.spec.bounds import EXAMPLE, Bound, Bounds, bound_value, is_bound
from sweeper.spec.code_checks import code_problems
from sweeper.spec.domains import AUTO_RATE, Value
from sweeper.spec.middle import anchors
from sweeper.spec.model_checks import embedding_width, model_problems
from sweeper.spec.problems import Problem, ProblemsError, did_you_mean, from_validation
from sweeper.spec.sections import Confirm, GoalSettings, Limits, Resources, Search, Stopping
from sweeper.spec.set_checks import class_problems, set_problems, split_notes, word_problems
from sweeper.spec.space import Placed, Space
from sweeper.spec.yaml_document import Document, Place
from trainables.records import Goals
from trainables.settings.parameters import Parameters
from trainables.settings.sets import SettingError
from trainables.settings.task import TaskSettings, absolute_paths
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.kind import Baseline, TaskKind
from trainables.tasks.known import kind_named, kind_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_RESERVED = ("cache", "mlartifacts", "mlflow.db")

EXTENSION = "x-"
"""Keys at the top that begin so are left alone: a place for anchors (``x-common: &common {...}``)."""

_MISSING = "does not exist"
CHANGEABLE = (
    "search.trials",
    "search.until",
    "confirm",
    "resources",
    "limits",
    "training.checkpoint_every_s",
    "training.micro_batch_size",
)
"""What a resumed sweep may change."""


def _space(raw: Any, info: ValidationInfo) -> Space:
    return raw if isinstance(raw, Space) else Space.parse(raw, (info.context or {}).get("embed_dim"))


class Spec(TaskSettings):
    """Everything about a sweep: what all trials share (TaskSettings), and what is searched and how.

    A spec that was read has the settings of its task too, see ``spec_type``.
    """

    name: str
    """Name of the sweep: its folder in the storage and its run in MLflow. Small letters, digits and ``. _ -``. The
    name of the file, without its suffix, when left out."""
    goals: dict[str, GoalSettings] = {}
    """Bounds of the task's goals, by metric: ``clean_accuracy`` and ``robust_accuracy`` for the task
    ``typographic``."""
    parameters: Annotated[
        Space,
        PlainValidator(_space),
        PlainSerializer(lambda space: space.raw),
        WithJsonSchema({"type": "object", "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}}),
    ]
    """The search space: each parameter with a value, choices or a range."""
    points: list[dict[str, Any]] | Literal["auto"] = "auto"
    """Parameters of the trials that are tried first; fixed parameters may be left out. ``auto``: cross-entropy in
    the middle of the ranges, its learning rate bracketed, then one thing changed at a time (docs/first_points.md);
    ``[]``: none."""
    search: Search = Search()
    """How trials are chosen, and how many."""
    stopping: Stopping = Stopping()
    """Whether hopeless trials end early."""
    confirm: Confirm | None = None
    """Whether members of the front are trained again with new seeds after the search; null or left out: no such
    phase."""
    resources: Resources = Resources()
    """What a trial takes of the machine or the cluster."""
    limits: Limits = Limits()
    """What ends a trial or the sweep: failures, budget, time, silence."""
    _notes: list[str] = PrivateAttr(default_factory=list)
    _placed_points: list[Placed] = PrivateAttr(default_factory=list)
    """``points`` in the space, set by validation."""

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("is no name for a sweep; use small letters, digits and . _ - (a letter or digit first)")
        if value in _RESERVED:
            raise ValueError("is the name of something else in the storage; choose another")
        return value

    @model_validator(mode="after")
    def _points_lie_in_the_space(self) -> Self:
        placed, problems = [], []
        for index, point in enumerate(self.written_points):
            try:
                placed.append(self.parameters.place(point))
            except ValueError as error:
                problems.append(Problem(("points", index), f"this point cannot be tried: {error}"))
        if problems:
            raise ProblemsError(problems)
        self._placed_points = placed
        return self

    @model_validator(mode="after")
    def _parameters_fit_the_task(self) -> Self:
        problems = [problem for name, limit in self.most().items() for problem in self._above_the_task(name, limit)]
        for name in self.kind.unused_parameters():
            for branch in self.parameters.branches.get(name, ()):
                message = f"`{name}` does not apply to the task {self.task}; leave it out"
                problems.append(Problem(("parameters", *branch.path), message, at_key=True))
        refused = {self.kind.refuses(Parameters.model_validate(drawn)): drawn for drawn in self.parameters.examples()}
        for name, message in (reason for reason in refused if reason is not None):
            problems.append(Problem(("parameters", name), f"`{name}`: {message}", at_key=True))
        if problems:
            raise ProblemsError(problems)
        return self

    @model_validator(mode="after")
    def _bounds_are_of_what_is_measured(self) -> Self:
        problems = [*self._goal_problems(), *self._keep_problems()]
        if problems:
            raise ProblemsError(problems)
        whole = {
            goal.metric: self.goals.get(goal.metric, GoalSettings()).model_copy(update={"direction": goal.direction})
            for goal in self.task_goals()
        }
        return self if whole == self.goals else self.model_copy(update={"goals": whole})

    @model_validator(mode="after")
    def _the_goals_have_a_noise_floor(self) -> Self:
        unsuited = [goal for goal in self.task_goals() if goal.view is None]
        if self.search.until == "noise_floor" and unsuited:
            message = (
                f"`search.until`: the task {self.task} has no noise floor, because {unsuited[0].metric} is no share "
                "of correct answers; write trials, or leave it out"
            )
            raise ProblemsError([Problem(("search", "until"), message)])
        return self

    @model_validator(mode="after")
    def _trials_are_those_of_the_plan(self) -> Self:
        if not self.search.planned:
            return self
        if self.search.sampler == "soup" and self.evaluate.front.strengths == [1.0]:
            message = "`evaluate.front.strengths`: a soup interpolates; name others than 1, for instance [0.25, 0.5, 1]"
            raise ProblemsError([Problem(("evaluate", "front", "strengths"), message)])
        auto = [one for one in self.parameters.branches.get("learning_rate", ()) if one.domain == AUTO_RATE]
        if auto and self.search.sampler == "soup":
            message = "`learning_rate`: auto is found by the first trials of a search; give a soup a range or a value"
            raise ProblemsError([Problem(("parameters", *auto[0].path), message)])
        try:
            whole = self.planned_trials()
        except ProblemsError as error:
            raise ProblemsError(problem.below(("parameters",)) for problem in error.problems) from None
        if "trials" not in self.search.model_fields_set:
            return self.model_copy(update={"search": self.search.model_copy(update={"trials": whole})})
        if self.search.trials > whole:
            raise ProblemsError([Problem(("search", "trials"), f"`search.trials`: {self._beyond_plan(whole)}")])
        return self

    @property
    def notes(self) -> list[str]:
        """Return what may be a mistake in the file that the spec was read from, each with its place."""
        return self._notes

    def _above_the_task(self, name: str, limit: int | None) -> Iterator[Problem]:
        for branch in self.parameters.branches.get(name, ()):
            path, most = max(branch.domain.written(), key=lambda written: written[1])
            if limit is not None and int(most) > limit:
                message = f"`{name}`: {most} is above train.{name}, which is {limit}; set train.{name}: {most}"
                yield Problem(("parameters", *branch.path, *path), message)

    def _beyond_plan(self, whole: int) -> str:
        whole_plan = f"the whole {self.search.sampler}, which has {whole} trials ({self._plan_parts()})"
        return f"{self.search.trials} is more than {whole_plan}"

    def _plan_parts(self) -> str:
        parts = [baseline.title for baseline in self.baseline_trials()]
        points = len(self.written_points)
        combinations = len(self.chosen()) - points
        parts += [f"{points} point" + "s" * (points > 1)] * (points > 0)
        return " + ".join([*parts, f"{combinations} {'anchors' if self.search.sampler == 'soup' else 'combinations'}"])

    def chosen(self) -> list[dict[str, Value]]:
        """Return the parameters of the trials before (``tpe``, ``random``) or instead of (``grid``, ``soup``)
        suggestions: the points, then the combinations of a grid or the anchors of a soup that are not among them.

        Raises:
            ProblemsError: as ``Space.grid``.
        """
        points = [placed.parameters for placed in self._placed_points]
        if not self.search.planned:
            return points
        planned = self.parameters.grid() if self.search.sampler == "grid" else anchors(self.parameters)
        return points + [parameters for parameters in planned if parameters not in points]

    def planned_trials(self) -> int:
        """Return the number of trials of a grid or a soup: the baseline, the points and every combination or anchor.

        Raises:
            ProblemsError: as ``Space.grid``.
        """
        return len(self.baseline_trials()) + len(self.chosen())

    def with_trials(self, trials: int) -> Spec:
        """Return the same sweep with another total of trials.

        Raises:
            UserError: a grid or a soup has fewer trials.
        """
        spec = self.model_copy(update={"search": self.search.model_copy(update={"trials": trials})})
        if self.search.planned and trials > (whole := self.planned_trials()):
            raise UserError(spec._beyond_plan(whole))
        return spec

    @property
    def stops(self) -> bool:
        """Whether trials may be stopped early: the few anchors of a soup never are."""
        return self.stopping.kind != "none" and self.search.sampler != "soup"

    def task_settings(self) -> TaskSettings:
        """Return what all trials share."""
        settings = self.kind.settings
        return settings(**{name: getattr(self, name) for name in settings.model_fields})

    @property
    def kind(self) -> TaskKind:
        return kind_of(self)

    def task_goals(self) -> Goals:
        """Return the task's goals: what is to be kept, then what is to be improved."""
        return self.kind.goals(self)

    def baseline_trials(self) -> Sequence[Baseline]:
        """Return the trials that the sweep begins with."""
        return self.kind.baselines(self)

    def prescribed(self) -> int:
        """Return how many trials the spec names: baselines and points, the first of the sweep."""
        return len(self.baseline_trials()) + len(self.written_points)

    @property
    def written_points(self) -> list[dict[str, Any]]:
        """The points that the spec itself names."""
        return [] if self.points == "auto" else self.points

    @property
    def finds_points(self) -> bool:
        """Whether the search begins with points that it finds by itself."""
        return self.points == "auto" and not self.search.planned

    def goal_bounds(self, untouched: Mapping[str, float]) -> Bounds:
        """Return the bounds of the goals, given the untouched model's metrics on validation."""
        written = {goal: self.goals[goal.metric].bound for goal in self.task_goals()}
        return tuple(
            Bound(metric=goal.metric, direction=goal.direction, value=bound_value(bound, untouched[goal.metric]))
            for goal, bound in written.items()
            if bound is not None
        )

    def bounds(self, untouched: Mapping[str, float]) -> Bounds:
        """Return all that a point of the front must keep: bounds of the goals, and those of ``keep``."""
        known = self.kind.metrics(self) if self.keep else {}
        kept = (
            Bound(metric=metric, direction=known[metric].direction, value=bound_value(bound, untouched[metric]))
            for metric, bound in self.keep.items()
        )
        return (*self.goal_bounds(untouched), *kept)

    def _goal_problems(self) -> Iterator[Problem]:
        goals = {goal.metric: goal for goal in self.task_goals()}
        for name, settings in self.goals.items():
            goal = goals.get(name)
            if goal is None:
                message = f"`{name}` is no goal of the task {self.task}{did_you_mean(name, goals)}"
                yield Problem(("goals", name), message, at_key=True)
                continue
            wrong, right = ("ceiling", "floor") if goal.direction == "maximize" else ("floor", "ceiling")
            if getattr(settings, wrong) is not None:
                message = f"`{wrong}`: {name} is {goal.direction}d; write a {right}"
                yield Problem(("goals", name, wrong), message, at_key=True)
            if settings.direction not in (None, goal.direction):
                message = f"`direction`: {name} is always {goal.direction}d; leave it out"
                yield Problem(("goals", name, "direction"), message)
            if goal.view is not None and isinstance(settings.bound, float) and not 0.0 <= settings.bound <= 1.0:
                message = f"`goals.{name}.{right}`: {settings.bound:g} is no accuracy; a {right} is a number from 0 to "
                yield Problem(("goals", name, right), message + "1, or for instance untouched - 0.05")

    def _keep_problems(self) -> Iterator[Problem]:
        if not self.keep:
            return
        known = self.kind.metrics(self)
        for name, bound in self.keep.items():
            if name in self.goals and self.goals[name].bound is not None:
                yield Problem(("keep", name), f"`{name}` has a bound under `goals` already", at_key=True)
            elif name not in known:
                message = f"`{name}` is not measured on validation{did_you_mean(name, known)}"
                yield Problem(("keep", name), message, at_key=True)
            elif not is_bound(bound):
                yield Problem(("keep", name), f"`{name}`: {bound!r} is no bound; {EXAMPLE}")

    def resolved(self) -> dict[str, Any]:
        """Return the spec as JSON data, from which ``from_resolved`` makes the same spec in any folder."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_resolved(cls, resolved: Mapping[str, Any]) -> Spec:
        """Return the spec that ``resolved`` describes.

        Raises:
            UserError: the data are of another version of sweeper.
        """
        try:
            kind = kind_named(resolved.get("task"))
        except SettingError as error:
            raise UserError(f"this spec is damaged, or was resolved by another version of sweeper: {error}") from error
        read = spec_type(kind.name)
        try:
            return read.model_validate_json(json.dumps(resolved), strict=True)
        except ValidationError as error:
            messages = [problem.message for problem in from_validation(error, resolved, read)]
            more = f"; and {len(messages) - 3} more problems" if len(messages) > 3 else ""
            raise UserError(
                f"this spec is damaged, or was resolved by another version of sweeper: {'; '.join(messages[:3])}{more}"
            ) from error


@cache
def spec_type(task: str) -> type[Spec]:
    """Return what a spec of this task is read as: its own settings, and those of every sweep."""
    bases: Any = (kind_named(task).settings, Spec)
    read: type[Spec] = create_model(f"{task.title()}Spec", __base__=bases, __doc__=Spec.__doc__)
    return read


def load_spec(path: Path | str, overrides: Sequence[str] = (), *, may_lack_files: bool = False) -> Spec:
    """Read and check a spec.

    Args:
        overrides: ``dotted.key=value``, the value in YAML.
        may_lack_files: whether the sweep runs on another machine: where a file or folder that the spec names is missing
            here, nothing that needs the files is checked.

    Raises:
        UserError: every problem found, one a line, each with its place in the file.
    """
    document = Document(Path(path))
    for override in overrides:
        document.override(override)
    written = {key: value for key, value in document.data.items() if not key.startswith(EXTENSION)}
    try:
        data = absolute_paths(written, Path(path).parent.absolute())
    except SettingError as error:
        raise UserError(f"{document.place(error.path)}: {error}") from error
    if "name" not in data:
        data["name"] = re.sub(r"[^a-z0-9._-]+", "-", Path(path).stem.lower()).strip("._-")
        if not data["name"]:
            raise UserError(
                f"{path}: a sweep is called like its file, and this name has no small letters (a to z) or digits; add "
                "`name: my-sweep` to the file, or give --name my-sweep"
            )
    try:
        kind = kind_named(data.get("task"))
    except SettingError as error:
        raise UserError("\n".join(_lines([Problem(("task",), f"`task`: {error}")], document))) from error
    problems = model_problems(data.get("model", {}))
    if isinstance(data.get("sets"), dict):
        problems += [problem for name, raw in data["sets"].items() for problem in set_problems(name, raw)]
    lacks_files = may_lack_files and any(_MISSING in problem.message for problem in problems)
    problems = [] if lacks_files else problems
    spec = None
    try:
        context = {"embed_dim": embedding_width(data.get("model", {}))}
        spec = spec_type(kind.name).model_validate_json(json.dumps(data), strict=True, context=context)
    except ValidationError as error:
        problems += from_validation(error, data, spec_type(kind.name))
    digests: dict[str, str] = {}
    if spec is not None and not problems:
        problems, digests = code_problems(spec, spec.parameters)
    if spec is not None and not problems and not lacks_files:
        problems += class_problems(spec.train, spec.sets[spec.train.set.partition("/")[0]])
        if isinstance(spec, TypographicSettings):
            used = [spec.train.set, *spec.evaluate.search.sets, *spec.evaluate.test.sets]
            problems += word_problems(spec.sets, [reference.partition("/")[0] for reference in used])
    if spec is not None and not problems:
        problems += _baseline_problems(spec, context["embed_dim"])
        if not any(override.partition("=")[0].strip() == "search.trials" for override in overrides):
            problems += _plan_problems(spec) + _confirm_problems(spec)
    if problems:
        raise UserError("\n".join([*_lines(problems, document), *_own_images(problems, data, Path(path))]))
    assert spec is not None
    if digests:
        spec = spec.model_copy(update={"code": digests})
    if lacks_files:
        return spec
    notes = [note for name, settings in spec.sets.items() for note in split_notes(name, settings)]
    spec._notes = _lines(notes, document)
    return spec


def relative_paths(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Return the keys of a readable spec whose paths are relative to its folder."""
    document = Document(path)
    for override in overrides:
        document.override(override)
    here, there = (_flat(absolute_paths(document.data, Path(folder))) for folder in ("/here", "/there"))
    return [key for key, value in here.items() if there[key] != value]


def spec_difference(old: Spec, new: Spec) -> list[str]:
    """Return what differs and must not differ when a sweep is resumed, as ``key: old -> new``; empty where it can be
    resumed."""
    before, after = _flat(old.resolved()), _flat(new.resolved())
    return [
        f"{key}: {before.get(key, 'nothing')} -> {after.get(key, 'nothing')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
        and not any(key == changeable or key.startswith(changeable + ".") for changeable in CHANGEABLE)
    ]


def _baseline_problems(spec: Spec, embed_dim: int | None) -> list[Problem]:
    ranks = {baseline.name: baseline.parameters.get("rank") for baseline in spec.baseline_trials()}
    return [
        Problem((name, "rank"), f"`{name}.rank`: {rank} is above {embed_dim}, the model's embedding width")
        for name, rank in ranks.items()
        if rank is not None and embed_dim is not None and rank > embed_dim
    ]


def _plan_problems(spec: Spec) -> list[Problem]:
    """A file plans the whole grid or soup; fewer trials can be asked for on the command line only, to try it out."""
    if not spec.search.planned or spec.search.trials == (whole := spec.planned_trials()):
        return []
    message = (
        f"`search.trials`: {spec.search.trials} is less than the whole {spec.search.sampler}, which has {whole} "
        f"trials ({spec._plan_parts()}); leave it out, or run the first ones with --trials {spec.search.trials}"
    )
    return [Problem(("search", "trials"), message)]


def _confirm_problems(spec: Spec) -> list[Problem]:
    """As for a grid, the command line may ask for fewer trials, to try a sweep out."""
    confirm, trials = spec.confirm, spec.search.trials
    if confirm is None or spec.limits.budget is not None or (most := confirm.most_trainings(trials)) >= confirm.seeds:
        return []
    enough = math.ceil(100 * confirm.seeds / (trials + confirm.seeds)) / 100
    message = (
        f"`confirm.share`: {confirm.share:g} allows {most} re-training{'s' * (most != 1)} after {trials} trials, but "
        f"one member takes {confirm.seeds}; write {enough:g} or more, or raise search.trials"
    )
    return [Problem(("confirm", "share"), message)]


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {key: text for name, item in value.items() for key, text in _flat(item, f"{prefix}.{name}").items()}
    return {prefix.lstrip("."): json.dumps(value)}


def _own_images(problems: Iterable[Problem], data: Mapping[str, Any], file: Path) -> Iterator[str]:
    """Yield how to go on where images that a spec names are not there: with others, or without any."""
    missing = {problem.path[1] for problem in problems if problem.path[:1] == ("sets",) and _MISSING in problem.message}
    used, train = data.get("sets"), data.get("train")
    if not missing or not isinstance(used, dict) or not isinstance(train, dict):
        return
    name = str(train.get("set"))
    own = (
        f"{{{name}: {{kind: image_folder, train: DIR/train, test: DIR/test, validation: {{from: train, share: 0.1}}}}}}"
    )
    options = f"--set {shlex.quote(f'sets={own}')}"
    if len(used) > 1:
        options += f" --set {shlex.quote(f'evaluate.test.sets=[{name}]')}"
    written = command("run", "--images", "DIR")
    yield f"  with images of your own, a folder per class: {options} (or {written}, which writes a spec)"
    reduced = file.parent / "reduced" / file.name
    if reduced.is_file():
        yield f"  without any images, on those that ship with sweeper: {command('run', str(reduced))}"


def _lines(problems: Iterable[Problem], document: Document) -> list[str]:
    """Return a line for each problem, in the order of the file; problems of overrides come first."""
    places: dict[str, Place] = {}
    for problem in problems:
        place = document.place(problem.path, problem.at_key)
        places[f"{place}: {problem.message}"] = place
    return sorted(places, key=lambda line: (places[line].line, places[line].column, line))
