"""Commands that measure: any model on any image sets, and two models compared."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.options import Output, Storage, storage_path
from sweeper.cli.tables import Format, Wide, print_rows
from sweeper.errors import UserError

if TYPE_CHECKING:
    from sweeper.models.evaluate import Data
    from trainables.evaluation.answers import Answers

MODEL_HELP = (
    "An open_clip name with its tag (ViT-B-32:laion2b_s34b_b79k), a folder, hf-hub:NAME, world, a Python function "
    "(package.module:load), or a file of answers (.csv, .tsv, .json, .jsonl)."
)
DATA_HELP = (
    "world, KIND:PATH (image_folder, rta100, paint, disentangling, scam, synthscam, webdataset, food101 and others of "
    "torchvision), or a YAML file with `sets:`, for instance a spec."
)

DataOption = Annotated[list[str] | None, typer.Option("--data", help=DATA_HELP, show_default=False)]
Attack = Annotated[
    str | None, typer.Option(help="Recipe of pasted words: sign or defense_prefix. Default: that of the data.")
]
Images = Annotated[int | None, typer.Option(min=1, help="Largest number of images of each set.")]
Seed = Annotated[int, typer.Option(help="Seed of pasted words and of --images.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. Default: cuda if there is one.")]


def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_HELP)],
    data: DataOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Also write the answers here, image by image (.csv, .csv.gz).")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Also measure KL from this model on clean images.", show_default=False)
    ] = None,
    index: Annotated[
        bool,
        typer.Option(
            "--index",
            help="Measure this model's queries on stored image embeddings: of the untouched model, or of --reference.",
        ),
    ] = False,
    variants: Annotated[bool, typer.Option("--variants", help="Also under held-out attacks.")] = False,
    attack: Attack = None,
    images: Images = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of pasted words and of --images. Default: 0; with --index that of the sweep."),
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="Tag or checkpoint file of an open_clip name.")] = None,
    quick_gelu: Annotated[
        bool | None, typer.Option("--quick-gelu/--no-quick-gelu", help="Activation of a checkpoint file.")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="Preprocessing of a checkpoint file: openai, inception or imagenet.")
    ] = None,
    device: Device = None,
    storage: Storage = None,
    format: Output = Format.table,
    wide: Wide = False,
) -> None:
    """Measure models, made by sweeper or not, on clean and attacked images.

    If the data name an `attribute:`, the bias about it is measured: accuracies, and skew of retrievals.

    One line for each set and view: accuracy over all classes, two-way accuracy (true class against written class),
    share answered with the written word, each with its 95 % interval. Whole sets are scored. For points of a sweep,
    such as NAME:knee, the measurements on its test images are shown.

    With --index, for a point of a sweep, an exported folder or any CLIP: recall, cosine and accuracy where new queries
    meet an old index (docs/cure_costs.md).
    """
    from sweeper.models.bias import rows_for_people as bias_for_people
    from sweeper.models.evaluate import Weights, rows_for_people
    from sweeper.models.measuring import Measuring, measured_rows

    if output is not None and not output.name.endswith((".csv", ".csv.gz")):
        raise UserError(f"--output {output}: name a file that ends in .csv or .csv.gz")
    weights = Weights(pretrained=pretrained, quick_gelu=quick_gelu, preprocess=preprocess)
    if len(models) > 1 and (output is not None or weights != Weights()):
        raise UserError("--output, --pretrained, --quick-gelu and --preprocess are for one model at a time")
    if index:
        if output is not None or variants or attack is not None or weights != Weights():
            raise UserError(
                "--index goes with --data, --reference, --images, --seed and --device; leave the other options out"
            )
        _evaluate_index(models, data, reference, images, seed, device, storage_path(storage), format, wide)
        return
    measuring = Measuring(
        data=_data(data, attack),
        storage=storage_path(storage),
        echo=_echo,
        images=images,
        seed=0 if seed is None else seed,
        device=device,
    )
    write = None if output is None else partial(_write, output)
    table = measured_rows(models, measuring, weights=weights, variants=variants, reference=reference, write=write)
    for_people, empty = rows_for_people, "nothing was answered"
    if measuring.data is not None and measuring.data.attribute is not None:
        for_people, empty = bias_for_people, "nothing was measured"
    print_rows(for_people(table) if format is Format.table else table, format, empty=empty, wide=wide)


def _evaluate_index(
    models: list[str],
    data: list[str] | None,
    reference: str | None,
    images: int | None,
    seed: int | None,
    device: str | None,
    storage: Path,
    format: Format,
    wide: bool,
) -> None:
    """Print what queries of each model find among stored embeddings."""
    from sweeper.models.measuring import named_point
    from sweeper.models.stored_index import pair_of_model, pair_of_point, rows, rows_for_people

    cache = storage / "cache" if storage.is_dir() else None
    table: list[dict[str, object]] = []
    for model in models:
        of_sweep = named_point(model, storage)
        if of_sweep is None:
            pair = pair_of_model(model, reference, data or [])
        elif data or reference is not None:
            raise UserError(f"{model} is a point of a sweep: export it to measure it with --data or --reference")
        else:
            pair = pair_of_point(*of_sweep)
        table += [
            {"model": model, **row}
            for row in rows(pair, count=images, seed=seed, cache=cache, device=device, echo=_echo)
        ]
    narrow = rows_for_people(table)
    print_rows(table, format, empty="nothing was measured", narrow=narrow, wide=wide)


def _write(output: Path, answers: list[Answers]) -> None:
    from trainables.evaluation.answers import write_answers

    try:
        write_answers(output, answers)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}") from error


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=f"{MODEL_HELP} Or a point of a sweep: NAME:knee.")],
    second: Annotated[str, typer.Argument(metavar="B", help="A second model, in the same form.")],
    data: DataOption = None,
    attack: Attack = None,
    images: Images = None,
    seed: Seed = 0,
    device: Device = None,
    storage: Storage = None,
    format: Output = Format.table,
    wide: Wide = False,
) -> None:
    """Compare two models on the same images: differences (B minus A) with 95 % paired bootstrap intervals.

    Points of a sweep are compared on its test images: NAME:knee, NAME:untouched, NAME:7.
    """
    from sweeper.models.measuring import Measuring, compared_models

    measuring = Measuring(
        data=_data(data, attack), storage=storage_path(storage), echo=_echo, images=images, seed=seed, device=device
    )
    comparisons, notes = compared_models(first, second, measuring)
    for note in notes:
        _echo(note)
    rows = [{**asdict(comparison), "verdict": comparison.verdict} for comparison in comparisons]
    if format is not Format.table:
        print_rows(rows, format, empty="")
        return
    full: list[dict[str, object]] = [
        {
            "set": comparison.set,
            "view": comparison.view,
            "measure": comparison.measure.replace("_", " "),
            "images": comparison.images,
            "A": round(comparison.first, 4),
            "B": round(comparison.second, 4),
            "B - A": f"{comparison.difference:+.4f}",
            "95 %": f"[{comparison.low:+.4f}, {comparison.high:+.4f}]",
            "": comparison.verdict.replace("first", "A").replace("second", "B"),
        }
        for comparison in comparisons
    ]
    several = len({comparison.set for comparison in comparisons}) > 1
    narrow: list[dict[str, object]] = [
        {
            **({"set": comparison.set} if several else {}),
            "view": comparison.view,
            "measure": comparison.measure.replace("_", " "),
            "A": f"{comparison.first:.3f}",
            "B": f"{comparison.second:.3f}",
            "B - A (95 %)": f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]",
            "higher": {"first": "A", "second": "B"}.get(comparison.verdict.split()[0], "not told"),
        }
        for comparison in comparisons
    ]
    print_rows(full, format, empty="", narrow=narrow, wide=wide)


def _data(given: list[str] | None, attack: str | None) -> Data | None:
    from sweeper.models.measuring import named_data

    return named_data(given or [], attack, _echo)


def _echo(text: str) -> None:
    typer.echo(text, err=True)
