"""Measurement of stored image embeddings: what a tuned model's queries find in an index of the untouched model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import ValidationError

from sweeper.environment import device_named
from sweeper.errors import UserError
from sweeper.front.export_record import RECORD_FILE, ExportRecord
from sweeper.models.evaluate import Weights, model_settings, read_data
from sweeper.models.export import SPEC_FILE
from sweeper.models.trained_point import load_point
from sweeper.records import FrontPoint
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.settings.sets import Split
from trainables.settings.task import ModelSettings, split_of

if TYPE_CHECKING:
    from trainables.evaluation.stored import Encoder
    from trainables.settings.sets import ImageSetSettings as SetSettings

Sets = Mapping[str, tuple["SetSettings", Split]]
"""Name in tables -> set and split."""


@dataclass(frozen=True, kw_only=True)
class IndexImages:
    """Images that stand for those of an index."""

    sets: Sets
    count: int | None
    """Largest number of images of each set; None: all."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The model of the stored embeddings and the model of the queries, with the images to measure on."""

    old: Encoder
    new: Encoder
    images: IndexImages


def images_of(spec: Spec) -> IndexImages:
    """Return the test images of a spec."""
    test = spec.evaluate.test
    sets = {reference: split_of(reference, "test") for reference in test.sets}
    named = {reference: (spec.sets[name], cast(Split, split)) for reference, (name, split) in sets.items()}
    return IndexImages(sets=named, count=test.images, seed=spec.search.seed)


def pair_of_point(folder: SweepFolder, spec: Spec, point: FrontPoint) -> Pair:
    """Return the untouched model and a point of a sweep, with its test images.

    Raises:
        UserError: the point is the untouched model, its weights are missing, or W cannot be folded into this
            architecture.
    """
    from trainables.evaluation.stored import Encoder
    from trainables.models.export import tuned_model

    if point.trial is None:
        raise UserError("--index: the untouched model is the one that stored embeddings come from; name another point")
    try:
        trained = load_point(folder, spec, point)
        tuned = tuned_model(trained.clip, trained.policy, trained.weights, point.strength)
    except ValueError as error:
        raise UserError(f"--index: trial {point.trial} cannot be loaded: {error}") from error
    width = tuned.config["model_cfg"]["embed_dim"]
    old = Encoder(trained.clip, trained.clip.model, trained.clip.embed_dim)
    return Pair(old=old, new=Encoder(trained.clip, tuned.model, width), images=images_of(spec))


def pair_of_model(model: str, reference: str | None, data: Sequence[str]) -> Pair:
    """Return the models that two MODEL arguments name, on the images that ``data`` names.

    Args:
        model: the model of the queries.
        reference: the model of the index; None: that which an exported folder was tuned from.
        data: --data arguments; empty: the test images of an exported folder's sweep.

    Raises:
        UserError: a model or the images are missing or invalid.
    """
    record, spec = _exported(model)
    if reference is None and record is None:
        raise UserError(
            f"--index: {model} is neither a point of a sweep nor an exported folder; name the model that the stored "
            "embeddings come from with --reference"
        )
    if not data and spec is None:
        raise UserError(
            f"--index: {model} is neither a point of a sweep nor an exported folder; name images with --data"
        )
    try:
        origin = None if record is None else ModelSettings.model_validate(record.model)
    except ValidationError as error:
        raise UserError(f"{model}/{RECORD_FILE}: {error.errors()[0]['msg']}") from error
    old = _encoder(reference, origin)
    new = _encoder(model, None)
    if spec is not None and not data:
        return Pair(old=old, new=new, images=images_of(spec))
    return Pair(old=old, new=new, images=IndexImages(sets=read_data(data, None).sets, count=None, seed=0))


def rows(
    pair: Pair,
    *,
    count: int | None,
    seed: int | None,
    cache: Path | None,
    device: str | None,
    echo: Callable[[str], None],
) -> list[dict[str, object]]:
    """Return a row for each set and measure, with its 95 % interval; with several sets of a view also their mean.

    Args:
        count: largest number of images of each set; None: that of the pair.
        seed: of the draw of images; None: that of the pair.
        cache: folder of decoded images; None: a temporary one.

    Raises:
        UserError: the models do not fit each other, or the images cannot be read.
    """
    from trainables.data.cache import Store
    from trainables.evaluation.stored import index_measures, score_index
    from trainables.numerics import flushed_denormals

    _check_widths(pair)
    images = pair.images
    images = replace(images, count=images.count if count is None else count, seed=images.seed if seed is None else seed)
    where, all_scores = device_named(device), []
    with ExitStack() as stack:
        stack.enter_context(flushed_denormals())
        store = Store(cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-"))))
        try:
            old, new = pair.old.to(where), pair.new.to(where)
            for name, (settings, split) in images.sets.items():
                echo(f"{name}: stored embeddings")
                scores, broken = score_index(
                    old, new, name.partition("/")[0], settings, split, store=store, seed=images.seed, count=images.count
                )
                for image in broken:
                    echo(f"{name}: left out, cannot be read: {image}")
                all_scores.append(scores)
        except ValueError as error:
            raise UserError(str(error)) from error
    groups = [(scores.set, scores.view, [scores]) for scores in all_scores]
    for view in dict.fromkeys(scores.view for scores in all_scores):
        sharing = [scores for scores in all_scores if scores.view == view]
        if len(sharing) > 1:
            groups.append(("mean of sets", view, sharing))
    return [
        {"set": name, "view": view, "images": sum(scores.images for scores in sets), **vars(measure)}
        for name, view, sets in groups
        for measure in index_measures(sets)
    ]


def rows_for_people(table: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows with value and interval in one column; model and view only where there are several."""
    several = len({row["model"] for row in table}) > 1
    lines: list[dict[str, object]] = []
    for row in table:
        value = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        place = str(row["set"]) if row["view"] == "clean" else f"{row['set']}, {row['view']}"
        line: dict[str, object] = {"model": row["model"]} if several else {}
        measure = str(row["measure"]).replace("_at_", "@").replace("_", " ")
        lines.append(line | {"set": place, "measure": measure, "value": value, "images": row["images"]})
    return lines


def _exported(model: str) -> tuple[ExportRecord | None, Spec | None]:
    """Return record and spec of an exported folder; None for other models.

    Raises:
        UserError: the files of the folder are damaged.
    """
    folder = Path(model.removeprefix("local-dir:"))
    if not (folder / RECORD_FILE).is_file() or not (folder / SPEC_FILE).is_file():
        return None, None
    try:
        return ExportRecord.read(folder), load_spec(folder / SPEC_FILE)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / RECORD_FILE} is not the record of an exported model: {error}") from error


def _encoder(model: str | None, origin: ModelSettings | None) -> Encoder:
    """Return the model of a MODEL argument, or without one of these settings.

    Raises:
        UserError: the model has no embeddings or cannot be loaded.
    """
    from trainables.evaluation.stored import Encoder
    from trainables.models.clip import load_clip

    settings = origin if model is None else model_settings(model, Weights())
    if settings is None:
        raise UserError(f"--index: {model} is a Python function; embeddings are those of a CLIP of open_clip")
    try:
        clip = load_clip(settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Encoder(clip, clip.model, clip.embed_dim)


def _check_widths(pair: Pair) -> None:
    """Check that queries of the new model can be compared with stored embeddings.

    Raises:
        UserError: widths or images differ.
    """
    if pair.old.clip.geometry != pair.new.clip.geometry:
        raise UserError("--index: the two models take images of another size or cropping")
    if pair.old.width != pair.new.width:
        raise UserError(
            f"--index: queries have width {pair.new.width} and stored embeddings {pair.old.width}, so no query can be "
            "compared with them; a transform converts the index: `sweeper export NAME DIR --index-map`"
        )
