"""Searches over scattered trainings: a trial stands for the nearest recorded one that no trial of the search has had.

``benchmarks.search.record`` trains the settings. The ranges of a search are parts of the recorded ones that differ by
seed, so that the optimum is not in their middle, and so do the validation images that it sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.search.problems import EPOCHS, Goals, MeasuredPoint, Parameters
from benchmarks.search.scattered_file import Recording, Training, load
from benchmarks.search.scattered_space import NUMBERS, SCOPES, shifted_space, unit_box
from sweeper.search.pareto import hypervolume
from sweeper.spec.space import Space

SHIFTED = ("beta", "lambda_reg", "learning_rate")
"""Parameters whose ranges are cut."""
SHARE = 0.7
"""Of a range that is searched, in the logarithm."""
WEIGHTS = {"learning_rate": 3.0}
"""By which differences count in a distance, where not 1: the learning rate decides most."""
SEEN_IMAGES = 1000
"""Validation images that the search sees; the others are left for a second look."""
FLOOR = 0.10
_FAILED: Goals = (0.0, 0.0)
"""Reported by a training that did not come to its end."""

Kind = tuple[object, ...]


@dataclass(frozen=True)
class _Entry:
    """A recorded training as one search sees it."""

    training: Training
    parameters: Parameters
    place: np.ndarray
    """(5,) in the unit box, weighted; 0 for what does not apply."""
    reports: tuple[tuple[float, Goals], ...]
    """(progress, goals) at rungs and at the end."""
    points: tuple[MeasuredPoint, ...]


@dataclass(frozen=True)
class ScatteredProblem:
    """The trainings that a search with one seed may find. ``dataclasses.replace(problem)`` is unused again."""

    name: str
    about: str
    space: Space
    untouched: MeasuredPoint
    attainable: float
    final_evaluations: int
    entries: Mapping[Kind, Sequence[_Entry]]
    """By scope, objective and form: trainings inside the space."""
    evaluation_cost: Mapping[object, float]
    """Scope -> epochs of training."""
    points: Sequence[Parameters] = ()
    _taken: dict[tuple[tuple[str, object], ...], _Entry] = field(default_factory=dict, init=False)
    """By the parameters asked for."""

    @property
    def reference(self) -> Goals:
        return self.untouched.validation[0] - FLOOR, self.untouched.validation[1]

    @property
    def floors(self) -> tuple[float | None, float | None]:
        return self.reference[0], None

    def evaluation_epochs(self, parameters: Parameters) -> float:
        return self.evaluation_cost[parameters["tune"]]

    def at(self, parameters: Parameters, progress: float, seed: int) -> Goals:
        return next(goals for at, goals in self._entry(parameters).reports if at >= progress - 1e-6)

    def front_points(self, parameters: Parameters, seed: int) -> Sequence[Goals]:
        return [point.validation for point in self.measured(parameters)]

    def learned_at(self, parameters: Parameters) -> Parameters:
        return self._entry(parameters).parameters

    def measured(self, parameters: Parameters) -> Sequence[MeasuredPoint]:
        return self._entry(parameters).points

    def everything(self) -> Sequence[MeasuredPoint]:
        return [point for own in self.entries.values() for entry in own for point in entry.points]

    def _entry(self, parameters: Parameters) -> _Entry:
        """Return the training that stands for a trial: of its kind the nearest that stands for no other trial.

        Where all of a kind are taken, the nearest is taken again.
        """
        key = tuple(sorted(parameters.items()))
        if key not in self._taken:
            own, used = self.entries[kind(parameters)], {id(entry) for entry in self._taken.values()}
            free = [entry for entry in own if id(entry) not in used] or own
            place = _place(parameters)
            self._taken[key] = min(free, key=lambda entry: float(((entry.place - place) ** 2).sum()))
        return self._taken[key]


def kind(parameters: Parameters) -> Kind:
    """Return the choices of a point: trainings of one kind differ in numbers only."""
    return parameters["tune"], parameters["objective"], parameters.get("form")


def load_recordings(folder: Path) -> list[Recording]:
    """Return the recordings of a folder, strongest scope last; those of scopes that were not recorded are missing."""
    paths = [folder / f"scattered_{scope}.npz" for scope in SCOPES]
    return [load(path) for path in paths if path.exists()]


def scattered_problem(
    recordings: Sequence[Recording], seed: int, *, seen_images: int = SEEN_IMAGES
) -> ScatteredProblem:
    """Return the problem of one seed. Of settings that were trained with several seeds the first training counts.

    The recordings have one world and untouched model. Test goals are over as many images as all of them have.
    """
    rng = np.random.default_rng(seed)
    scopes = [recording.conditions.scope for recording in recordings]
    sizes = [recording.conditions.sizes for recording in recordings]
    space = shifted_space(scopes, SHIFTED, SHARE, rng)
    images = sizes[0].validation
    seen = np.zeros(images, bool)
    seen[rng.choice(images, seen_images, replace=False)] = True
    masks = np.packbits(seen), np.packbits(np.ones(images, bool))
    size = max(set.intersection(*(set(one.test) for one in sizes)))
    entries: dict[Kind, list[_Entry]] = {}
    for recording in recordings:
        at = recording.conditions.sizes.test.index(size)
        for training in _firsts(recording):
            try:
                parameters = space.place(training.parameters).parameters
            except ValueError:
                continue  # outside the part of the ranges that is searched
            entry = _entry(training, parameters, masks, at)
            entries.setdefault(kind(parameters), []).append(entry)
    first = recordings[0]
    seen_goals, looked_goals = (_goals(first.untouched.answers[None], mask)[0] for mask in masks)
    untouched = MeasuredPoint(seen_goals, looked_goals, first.untouched.test[first.conditions.sizes.test.index(size)])
    costs = {recording.conditions.scope: evaluation_cost(recording, seen_images) for recording in recordings}
    validation = [point.validation for own in entries.values() for entry in own for point in entry.points]
    count = sum(map(len, entries.values()))
    reference = untouched.validation[0] - FLOOR, untouched.validation[1]
    return ScatteredProblem(
        name="scattered " + " ".join(scopes),
        about=f"{count} trainings in the ranges of seed {seed}",
        space=space,
        untouched=untouched,
        attainable=hypervolume(validation, reference),
        final_evaluations=max(len(entry.points) for own in entries.values() for entry in own),
        entries=entries,
        evaluation_cost=costs,
    )


def evaluation_cost(recording: Recording, images: int) -> float:
    """Return what an evaluation of so many images costs, each clean and attacked, in epochs of training (mean)."""
    ended = [training for training in recording.trainings if training.result is not None]
    evaluated_s = sum(training.result.evaluation_s for training in ended if training.result is not None)
    evaluations = sum(len(training.reports) + len(training.test) - 1 for training in ended)
    epoch_s = sum(training.reports[-1].train_s for training in ended) / (EPOCHS * len(ended))
    return evaluated_s / evaluations * images / recording.conditions.sizes.validation / epoch_s


def _firsts(recording: Recording) -> list[Training]:
    """Return the first training of each setting."""
    firsts: dict[int, Training] = {}
    for training in recording.trainings:
        firsts.setdefault(training.number, training)
    return list(firsts.values())


def _entry(training: Training, parameters: Parameters, masks: Sequence[np.ndarray], size: int) -> _Entry:
    place = _place(parameters)
    if training.result is None:
        failed = MeasuredPoint(_FAILED, _FAILED, _FAILED)
        return _Entry(training, parameters, place, ((1.0, _FAILED),), (failed,))
    seen, looked = (_goals(training.answers, mask) for mask in masks)
    rungs = [report.progress for report in training.reports if report.rung]
    first = len(rungs)
    tested = [sizes[size] for sizes in training.test]
    points = tuple(map(MeasuredPoint, seen[first:], looked[first:], tested))
    reports = (*zip(rungs, seen, strict=False), (1.0, seen[first]))
    return _Entry(training, parameters, place, reports, points)


def _goals(answers: np.ndarray, images: np.ndarray) -> list[Goals]:
    """Return the goals of answers (A, 2, V / 8) on the images (V / 8,) that count, both as bits."""
    right = np.bitwise_count(answers & images).sum(-1, dtype=int) / int(np.bitwise_count(images).sum())
    return [(float(clean), float(robust)) for clean, robust in right]


def _place(parameters: Parameters) -> np.ndarray:
    weights = np.array([WEIGHTS.get(name, 1.0) for name in NUMBERS])
    return np.nan_to_num(unit_box(parameters)) * weights
