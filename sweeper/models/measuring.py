"""Models measured and compared by name: models of any kind on image sets, and points of sweeps on their test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from sweeper.front.load import load_front
from sweeper.front.pick import pick
from sweeper.models.bias import answers_in, seen_by, skew_comparisons
from sweeper.models.bias import rows as bias_rows
from sweeper.models.compare import Comparison, compare
from sweeper.models.evaluate import Data, Echo, Weights, answers_of, read_data, rows
from sweeper.records import FrontPoint
from sweeper.search.study import read_trials
from sweeper.spec.set_checks import set_notes
from sweeper.spec.spec import Spec
from sweeper.storage.opening import sweep_folder
from sweeper.storage.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from trainables.evaluation.answers import Answers
    from trainables.evaluation.bias import Seen

_EXTREMES = ("cleanest", "most robust", "most accurate", "least biased")
"""Names of the best points in a goal, over all tasks."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Images to measure on, and the way of doing so."""

    data: Data | None
    storage: Path
    """Folder of the sweeps whose points may be named; prepared images are kept there if it exists."""
    echo: Echo
    images: int | None = None
    """Largest number of images of each set."""
    seed: int = 0
    """Seed of pasted words and of the choice of images."""
    device: str | None = None

    @property
    def cache(self) -> Path | None:
        """Return the folder for prepared images; None without a storage."""
        return self.storage / "cache" if self.storage.is_dir() else None


def named_data(given: Sequence[str], attack: str | None, echo: Echo) -> Data | None:
    """Return the sets that arguments name; None for no argument.

    Raises:
        UserError: an argument, a file or the attack is invalid.
    """
    if attack not in (None, "sign", "defense_prefix"):
        raise UserError(f"--attack {attack}: unknown attack; choose sign or defense_prefix")
    if not given:
        return None
    data = read_data(given, attack)
    for note in set_notes({name: settings for name, (settings, _) in data.sets.items()}):
        echo(note)
    return data


def measured_rows(
    models: Sequence[str],
    measuring: Measuring,
    *,
    weights: Weights | None = None,
    variants: bool = False,
    reference: str | None = None,
    write: Callable[[list[Answers]], None] | None = None,
) -> list[dict[str, object]]:
    """Return a row for each model, set and view; for data with an attribute, for each model, set and metric of bias.

    Args:
        weights: settings of bare checkpoints.
        variants: whether to measure under held-out attacks too.
        reference: a model; KL from it is measured too.
        write: takes the answers of each model.

    Raises:
        UserError: a model, images or answers cannot be loaded.
    """
    data, weights = measuring.data, weights or Weights()
    table: list[dict[str, object]] = []
    for model in models:
        recorded = recorded_answers(model, measuring.storage)
        if recorded is not None and data is not None:
            raise UserError(f"{model} is a point of a sweep: export it to measure it on other images")
        if data is not None and data.attribute is not None:
            seen = _seen(model, data, measuring, weights)
            if write is not None:
                write(answers_in(seen))
            table += [{"model": model, **row} for row in bias_rows(data, seen)]
            continue
        answers = recorded or _answers(model, measuring, weights, variants, reference)
        if write is not None:
            write(answers)
        table += [{"model": model, **row} for row in rows(answers)]
    return table


def compared_models(first: str, second: str, measuring: Measuring) -> tuple[list[Comparison], list[str]]:
    """Return the differences of two models, and notes on what only one of them has.

    Raises:
        UserError: a model, images or answers cannot be loaded, or the models share no image.
    """
    data = measuring.data
    if data is not None and data.attribute is not None:
        seen = [_seen(model, data, measuring, Weights()) for model in (first, second)]
        comparisons, notes = compare(answers_in(seen[0]), answers_in(seen[1]))
        return comparisons + skew_comparisons(data, seen[0], seen[1]), notes
    sides = []
    for model in (first, second):
        recorded = recorded_answers(model, measuring.storage)
        sides.append(_answers(model, measuring, Weights()) if recorded is None else recorded)
    return compare(sides[0], sides[1])


def recorded_answers(text: str, storage: Path) -> list[Answers] | None:
    """Return the answers of a point of a sweep on test; None if ``text`` does not name a sweep.

    Raises:
        UserError: the sweep or the point does not exist, or the point was not measured.
    """
    from trainables.evaluation.answers import read_answers

    named = named_point(text, storage)
    if named is None:
        return None
    folder, _, point = named
    path = folder.answers_path(point.point_name)
    if not path.exists():
        raise UserError(f"{text} was not measured on test; members of the front are, and the untouched model and PAINT")
    return read_answers(path)


def named_point(text: str, storage: Path) -> tuple[SweepFolder, Spec, FrontPoint] | None:
    """Return a point of a sweep; None if ``text`` does not name a sweep.

    Raises:
        UserError: the sweep or the point does not exist.
    """
    name, colon, choice = text.partition(":")
    is_point = _is_point(choice) and name not in ("local-dir", "hf-hub")
    if not colon or not (SweepFolder(storage, name).exists() or is_point):
        return None
    folder = sweep_folder(storage, name)
    spec = folder.spec()
    front = load_front(folder, spec, read_trials(folder, spec))
    if front is None:
        raise UserError(f"sweep {name} has not measured anything yet; see `{folder.command('status')}`")
    untouched = next(point for point in front.points if point.trial is None)
    return folder, spec, untouched if choice == "untouched" else pick(front, choice)


def _is_point(choice: str) -> bool:
    """Return whether a choice is a point of a front: no tag of open_clip and no function has such a name."""
    from trainables.tasks.known import KINDS

    baselines = {name for kind in KINDS for name in kind.baseline_titles()}
    return choice.isdigit() or choice in ("knee", "untouched", *_EXTREMES) or choice in baselines


def _answers(
    model: str, measuring: Measuring, weights: Weights, variants: bool = False, reference: str | None = None
) -> list[Answers]:
    return answers_of(
        model,
        measuring.data,
        weights=weights,
        cache=measuring.cache,
        echo=measuring.echo,
        count=measuring.images,
        seed=measuring.seed,
        variants=variants,
        reference=reference,
        device=measuring.device,
    )


def _seen(model: str, data: Data, measuring: Measuring, weights: Weights) -> dict[str, Seen]:
    return seen_by(
        model,
        data,
        weights=weights,
        cache=measuring.cache,
        echo=measuring.echo,
        count=measuring.images,
        seed=measuring.seed,
        device=measuring.device,
    )
