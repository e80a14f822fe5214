"""Measurement of any model on any image sets: of open_clip, a folder, a Python function, or a file of its answers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import TypeAdapter, ValidationError

from sweeper.environment import device_named
from sweeper.errors import UserError
from sweeper.spec.model_checks import model_problems
from sweeper.spec.problems import from_validation
from sweeper.spec.set_checks import set_problems
from sweeper.spec.yaml_document import Document
from trainables.settings.attribute import AttributeSection
from trainables.settings.sets import ImageSetSettings, SettingError, Settings, Split, TorchvisionName
from trainables.settings.task import ModelSettings, absolute_paths, split_of
from trainables.settings.typographic import AttackSettings

if TYPE_CHECKING:
    from trainables.evaluation.answers import Answers
    from trainables.evaluation.scoring import Scorer
    from trainables.settings.sets import ImageSetSettings as SetSettings

MODEL_FORMS = (
    "a model is an open_clip name with its tag (ViT-B-32:laion2b_s34b_b79k), a folder, hf-hub:NAME, world, a Python "
    "function (package.module:load) or a file of answers (.csv, .tsv, .json, .jsonl)"
)
DATA_FORMS = (
    "data are `world`, KIND:PATH (image_folder, rta100, paint, disentangling, scam, synthscam, webdataset, or one of "
    f"{', '.join(get_args(TorchvisionName))}), or a YAML file with `sets:`"
)
MEASURES = ("accuracy", "two_way_accuracy", "text_confusion_rate", "reference_kl")
Echo = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Settings of a bare checkpoint that its file does not state."""

    pretrained: str | None = None
    quick_gelu: bool | None = None
    preprocess: str | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """The image sets to measure on."""

    sets: dict[str, tuple[SetSettings, Split]]
    """Name in tables -> set and split."""
    attack: AttackSettings
    attribute: AttributeSection | None = None
    """If given, bias about this attribute is measured, and no words are pasted."""


class _DataFile(Settings):
    sets: dict[str, ImageSetSettings]
    attack: AttackSettings = AttackSettings()
    attribute: AttributeSection | None = None


def answers_of(
    model: str,
    data: Data | None,
    *,
    weights: Weights,
    cache: Path | None,
    echo: Echo,
    count: int | None = None,
    seed: int = 0,
    variants: bool = False,
    reference: str | None = None,
    device: str | None = None,
) -> list[Answers]:
    """Return the answers of ``model`` (see ``MODEL_FORMS``) on ``data``; for a file of answers its content.

    Raises:
        UserError: the model, images or answers cannot be loaded.
    """
    from trainables.evaluation.answers import read_answers, refuse_strange

    if model.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".json", ".jsonl")):
        try:
            answers = read_answers(Path(model))
            refuse_strange(Path(model), answers)
            return answers
        except OSError as error:
            raise UserError(f"{model}: {error.strerror or error}") from error
        except ValueError as error:
            raise UserError(str(error)) from error
    if Path(model).is_file():
        raise UserError(
            f"{model} is a file, but no file of answers by its suffix (.csv, .tsv, .json, .jsonl); a checkpoint file "
            "is named by --pretrained"
        )
    if data is None:
        raise UserError(f"{model} needs images: name them with --data; {DATA_FORMS}")
    from trainables.numerics import flushed_denormals

    with ExitStack() as stack:
        stack.enter_context(flushed_denormals())
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-")))
        try:
            return _scored(model, data, folder, weights, echo, count, seed, variants, reference, device)
        except ValueError as error:
            raise UserError(str(error)) from error


def _scored(
    model: str,
    data: Data,
    cache: Path,
    weights: Weights,
    echo: Echo,
    count: int | None,
    seed: int,
    variants: bool,
    reference: str | None,
    device: str | None,
) -> list[Answers]:
    from trainables.data.cache import Store
    from trainables.evaluation.scoring import score_set

    scorer = scorer_of(model, weights, device)
    reference_scorer = None if reference is None else scorer_of(reference, Weights(), device)
    if reference_scorer is not None and reference_scorer.geometry != scorer.geometry:
        raise UserError(f"--reference {reference} takes images of another size or cropping than {model}")
    all_answers: list[Answers] = []
    for name, (settings, split) in data.sets.items():
        echo(f"{name}: {model}")
        answers, broken = score_set(
            scorer,
            name,
            settings,
            split,
            attack=data.attack,
            store=Store(cache),
            seed=seed,
            count=count,
            variants=variants,
            reference=reference_scorer,
        )
        for image in broken:
            echo(f"{name}: left out, cannot be read: {image}")
        all_answers += answers
    return all_answers


def scorer_of(model: str, weights: Weights, device: str | None) -> Scorer:
    """Return the model, ready to be asked.

    Raises:
        UserError: the model does not exist.
        ValueError: the model cannot be loaded.
    """
    from trainables.evaluation.scoring import ClipScorer, load_callable
    from trainables.models.clip import load_clip

    settings = model_settings(model, weights)
    if settings is None:
        return load_callable(model)
    where = device_named(device)
    return ClipScorer(load_clip(settings).to(where))


def model_settings(model: str, weights: Weights) -> ModelSettings | None:
    """Return the CLIP that a MODEL argument names; None for a Python function.

    Raises:
        UserError: the argument names neither.
    """
    given: dict[str, Any] = {name: value for name, value in vars(weights).items() if value is not None}
    name, colon, rest = model.partition(":")
    if model == "world" or model.startswith(("local-dir:", "hf-hub:")):
        given["architecture"] = model
    elif Path(model).is_dir():
        given["architecture"] = f"local-dir:{model}"
    elif not model_problems({"architecture": name}):
        given = {**({"pretrained": rest} if colon else {}), **given, "architecture": name}
    elif colon and all(part.isidentifier() for part in (*name.split("."), rest)):
        return None
    else:
        raise UserError(f"no model {model!r}: there is no such folder, and open_clip has no such name; {MODEL_FORMS}")
    problems = model_problems(given)
    if problems:
        raise UserError("\n".join(problem.message for problem in problems))
    try:
        return ModelSettings.model_validate(given)
    except ValidationError as error:
        raise UserError("\n".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())) from error


def read_data(given: Sequence[str], attack: str | None) -> Data:
    """Return the sets that --data arguments name (see ``DATA_FORMS``), on their test splits unless a spec names others.

    Raises:
        UserError: an argument or a file is invalid; the message has every problem of a file.
    """
    sets: dict[str, tuple[SetSettings, Split]] = {}
    recipes: list[AttackSettings] = []
    attributes: list[AttributeSection | None] = []
    for argument in given:
        named: dict[str, tuple[SetSettings, Split]]
        if argument.lower().endswith((".yaml", ".yml")):
            file, chosen = _from_file(Path(argument))
            recipes.append(file.attack)
            attributes.append(file.attribute)
            named = {reference: (file.sets[name], split) for reference, (name, split) in chosen.items()}
        else:
            kind, settings = _from_argument(argument)
            recipes.append(AttackSettings(recipe="sign" if kind == "world" else "defense_prefix"))
            named = {kind: (settings, "test")}
            attributes.append(None)
        for name, entry in named.items():
            number, free = 1, name
            while free in sets:
                number, free = number + 1, f"{name}-{number + 1}"
            sets[free] = entry
    if attack is not None:
        recipes = [AttackSettings.model_validate({"recipe": attack})]
    if len({recipe.recipe for recipe in recipes}) > 1:
        raise UserError("these sets are attacked in different ways by default; choose one with --attack")
    if any(attribute != attributes[0] for attribute in attributes):
        raise UserError("these data do not all name the same attribute; measure them in separate calls")
    return Data(sets=sets, attack=recipes[0], attribute=attributes[0])


def _from_argument(text: str) -> tuple[str, SetSettings]:
    kind, colon, path = text.partition(":")
    raw: dict[str, Any]
    if text == "world":
        raw = {"kind": "world"}
    elif colon and path and kind in ("rta100", "paint", "disentangling", "scam"):
        raw = {"kind": kind, "path": path}
    elif colon and path and kind == "synthscam":
        raw = {"kind": "scam", "path": path, "attack": "SynthSCAM"}
    elif colon and path and kind in ("image_folder", "webdataset"):
        raw = {"kind": kind, "test": path}
    elif colon and path and kind in get_args(TorchvisionName):
        raw = {"kind": "torchvision", "dataset": kind, "root": path}
    else:
        raise UserError(f"--data {text}: {DATA_FORMS}")
    try:
        raw = absolute_paths({"sets": {kind: raw}}, Path.cwd())["sets"][kind]
    except SettingError as error:
        raise UserError(f"--data {text}: {error}") from error
    problems = set_problems(kind, raw)
    if problems:
        raise UserError("\n".join(f"--data {text}: {problem.message}" for problem in problems))
    settings: SetSettings = TypeAdapter(ImageSetSettings).validate_python(raw)
    return kind, settings


def _from_file(path: Path) -> tuple[_DataFile, dict[str, tuple[str, Split]]]:
    document = Document(path)
    try:
        data = absolute_paths(document.data, path.parent.absolute())
    except SettingError as error:
        raise UserError(f"{document.place(error.path)}: {error}") from error
    if not isinstance(data.get("sets"), dict):
        raise UserError(f"{path}: has no `sets:`, the image sets by name")
    sections = {key: data[key] for key in ("sets", "attack", "attribute") if key in data}
    problems = [problem for name, raw in sections["sets"].items() for problem in set_problems(name, raw)]
    file = None
    try:
        file = _DataFile.model_validate(sections)
    except ValidationError as error:
        problems += from_validation(error, sections, _DataFile)
    if problems or file is None:
        lines = [f"{document.place(problem.path, problem.at_key)}: {problem.message}" for problem in problems]
        raise UserError("\n".join(dict.fromkeys(lines)))
    named = ((data.get("evaluate") or {}).get("test") or {}).get("sets")
    references = named if named is not None else [name for name, settings in file.sets.items() if settings.has("test")]
    chosen: dict[str, tuple[str, Split]] = {}
    for reference in references:
        name, split = split_of(str(reference), "test")
        if name not in file.sets or split not in get_args(Split) or not file.sets[name].has(cast(Split, split)):
            raise UserError(f"{path}: evaluate.test.sets names {reference!r}, which `sets` does not have")
        chosen[str(reference)] = (name, cast(Split, split))
    if not chosen:
        raise UserError(f"{path}: no set has a test split")
    return file, chosen


def rows(answers: Sequence[Answers]) -> list[dict[str, object]]:
    """Return a row for each set and view: every measure with its 95 % bootstrap interval.

    If several sets share a view, a row has their mean.
    """
    from trainables.evaluation.metrics import bootstrap_interval, mean_score

    measured = [(of_set.set, of_set.view, len(of_set.images), of_set.measures()) for of_set in answers]
    groups = [(name, view, images, [measures]) for name, view, images, measures in measured]
    for shared_view in dict.fromkeys(of_set.view for of_set in answers):
        sharing = [(images, measures) for _, view, images, measures in measured if view == shared_view]
        if len(sharing) > 1:
            images = sum(images for images, _ in sharing)
            groups.append(("mean of sets", shared_view, images, [measures for _, measures in sharing]))
    table: list[dict[str, object]] = []
    for name, view, images, sets in groups:
        row: dict[str, object] = {"set": name, "view": view, "images": images}
        for measure in MEASURES:
            scores = [measures[measure] for measures in sets if measure in measures]
            known = len(scores) == len(sets)
            low, high = bootstrap_interval(scores) if known else (None, None)
            row |= {measure: mean_score(scores) if known else None, f"{measure}_low": low, f"{measure}_high": high}
        table.append(row)
    return table


def rows_for_people(table: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows with their ``model``, each measure and its interval in a column."""
    lines = []
    for row in table:
        line: dict[str, object] = {name: row[name] for name in ("model", "set", "view", "images")}
        for measure in MEASURES:
            value, low, high = row[measure], row[f"{measure}_low"], row[f"{measure}_high"]
            line[measure.replace("_", " ")] = None if value is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(line)
    return lines
