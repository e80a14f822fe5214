"""The file of trainings at scattered settings: what each trial reported, and its answers image by image.

``benchmarks.search.record`` writes one file per scope; ``benchmarks.search.scattered_problem`` simulates searches over
them. A file is NumPy's ``.npz`` with two arrays: JSON lines as bytes (conditions and untouched model first, then a
training each) and all answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.scattered_space import Scope
from sweeper.spec.domains import Value
from trainables.files import replace_file
from trainables.records import Report, TrialResult

Goals = tuple[float, float]
"""(clean accuracy, robust accuracy)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Images of the world, and how long a trial is."""

    train: int = 2048
    """Every second class gives preference pairs: half as many, each shown clean and attacked."""
    validation: int = 4000
    test: tuple[int, ...] = (6000,)
    """Rising: test goals are recorded over the first so many images."""
    batch: int = 128
    """Pairs per step."""
    epochs: int = 3


@dataclass(frozen=True)
class Conditions:
    """What all trainings of a file share."""

    scope: Scope
    sizes: Sizes
    data_seed: int = 0


@dataclass(frozen=True)
class Untouched:
    """The model before any training."""

    answers: np.ndarray
    """(2, V / 8) uint8: see ``Training.answers``."""
    test: tuple[Goals, ...]
    """Goals per size of the test set."""


@dataclass(frozen=True)
class Training:
    """One trial that was trained for real."""

    number: int
    """Index of the setting in the scope's sequence. Trainings of one setting differ in ``seed``."""
    seed: int
    parameters: dict[str, Value]
    reports: tuple[Report, ...]
    """At rungs and after each epoch: goals on all validation images, seconds of training and evaluation."""
    result: TrialResult | None
    """Of a trial that came to its end; its points are last weights at strength 1, other strengths, averaged weights."""
    failure: str | None
    """Why the trial did not come to its end."""
    answers: np.ndarray
    """(A, 2, V / 8) uint8, bits as ``numpy.packbits`` orders them: whether each of V validation images was answered
    right, clean and attacked. One row per report at a rung, then one per point of the result."""
    test: tuple[tuple[Goals, ...], ...]
    """Goals per point of the result and size of the test set."""

    def rungs(self) -> list[tuple[Report, np.ndarray]]:
        """Return the reports at rungs with their answers (2, V / 8)."""
        reports = [report for report in self.reports if report.rung]
        return list(zip(reports, self.answers, strict=False))

    def point_answers(self) -> np.ndarray:
        """Return the answers (points, 2, V / 8) of the result's points; none for a trial that failed."""
        return self.answers[len(self.rungs()) :]


@dataclass(frozen=True)
class Recording:
    conditions: Conditions
    untouched: Untouched
    trainings: tuple[Training, ...]
    """By number, then seed."""


def goals_on(answers: np.ndarray, images: np.ndarray) -> Goals:
    """Return the goals on some of the validation images.

    Args:
        answers: (2, V / 8) uint8 bits, clean and attacked.
        images: (V / 8,) uint8 bits of the images that count.
    """
    count = int(np.bitwise_count(images).sum())
    clean, robust = np.bitwise_count(answers & images).sum(-1, dtype=int)
    return float(clean) / count, float(robust) / count


def load(path: Path) -> Recording:
    """Raise OSError where the file cannot be read, ValueError where it is no recording."""
    try:
        with np.load(path) as arrays:
            lines, answers = arrays["lines"].tobytes().decode().splitlines(), arrays["answers"]
    except (KeyError, EOFError) as error:
        raise ValueError(f"{path} is no recording of trainings: {error}") from error
    head, *trainings = map(json.loads, lines)
    conditions = _conditions(head["conditions"])
    untouched = Untouched(answers[0], _goals(head["untouched_test"]))
    ends = np.cumsum([1, *(line["answers"] for line in trainings)])
    parts = np.split(answers, ends)[1:-1]
    return Recording(conditions, untouched, tuple(map(_training, trainings, parts)))


def save(path: Path, recording: Recording) -> None:
    """Replace the file in one step. Raises StorageError."""
    head = {"conditions": asdict(recording.conditions), "untouched_test": recording.untouched.test}
    lines = [json.dumps(line) for line in [head, *map(_line, recording.trainings)]]
    arrays = {
        "lines": np.frombuffer("\n".join(lines).encode(), np.uint8),
        "answers": np.concatenate([recording.untouched.answers[None], *(t.answers for t in recording.trainings)]),
    }
    replace_file(path, lambda file: np.savez_compressed(file, **arrays))


def _line(training: Training) -> dict[str, Any]:
    """Everything but the answers."""
    return {
        "number": training.number,
        "seed": training.seed,
        "parameters": training.parameters,
        "reports": [report.to_json() for report in training.reports],
        "result": None if training.result is None else training.result.to_json(),
        "failure": training.failure,
        "test": training.test,
        "answers": len(training.answers),
    }


def _training(line: Mapping[str, Any], answers: np.ndarray) -> Training:
    return Training(
        number=line["number"],
        seed=line["seed"],
        parameters=line["parameters"],
        reports=tuple(map(Report.from_json, line["reports"])),
        result=None if line["result"] is None else TrialResult.from_json(line["result"]),
        failure=line["failure"],
        answers=answers,
        test=tuple(_goals(sizes) for sizes in line["test"]),
    )


def _goals(pairs: Sequence[Sequence[float]]) -> tuple[Goals, ...]:
    return tuple((clean, robust) for clean, robust in pairs)


def _conditions(record: Mapping[str, Any]) -> Conditions:
    sizes = record["sizes"]
    return Conditions(**{**record, "sizes": Sizes(**{**sizes, "test": tuple(sizes["test"])})})
