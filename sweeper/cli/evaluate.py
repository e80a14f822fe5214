"""Commands that measure: any model on any image sets, and two models compared."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli.options import Output, Storage, open_sweep, storage_path
from sweeper.cli.tables import Format, Wide, print_rows
from sweeper.errors import UserError

if TYPE_CHECKING:
    from sweeper.models.evaluate import Data, Weights
    from sweeper.records import FrontPoint
    from sweeper.spec.spec import Spec
    from sweeper.storage.sweep_folder import SweepFolder
    from trainables.evaluation.answers import Answers

MODEL_HELP = (
    "An open_clip name with its tag (ViT-B-32:laion2b_s34b_b79k), a folder, hf-hub:NAME, world, a Python function "
    "(package.module:load), or a file of answers (.csv, .json, .jsonl)."
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
    from sweeper.models.evaluate import Weights, answers_of, rows, rows_for_people

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
        _evaluate_index(models, data, reference, images, seed, device, storage, format, wide)
        return
    seed = 0 if seed is None else seed
    given = _data(data, attack)
    table: list[dict[str, object]] = []
    for model in models:
        recorded = _of_sweep(model, storage)
        if recorded is not None and given is not None:
            raise UserError(f"{model} is a point of a sweep: export it to measure it on other images")
        if given is not None and given.attribute is not None:
            table += _bias(model, given, weights, output, images=images, seed=seed, device=device, storage=storage)
            continue
        answers = recorded or answers_of(
            model,
            given,
            weights=weights,
            cache=_cache(storage),
            echo=_echo,
            count=images,
            seed=seed,
            variants=variants,
            reference=reference,
            device=device,
        )
        if output is not None:
            _write(output, answers)
        table += [{"model": model, **row} for row in rows(answers)]
    if given is not None and given.attribute is not None:
        from sweeper.models.bias import rows_for_people as bias_for_people

        print_rows(
            bias_for_people(table) if format is Format.table else table, format, empty="nothing was measured", wide=wide
        )
        return
    print_rows(
        rows_for_people(table) if format is Format.table else table, format, empty="nothing was answered", wide=wide
    )


def _evaluate_index(
    models: list[str],
    data: list[str] | None,
    reference: str | None,
    images: int | None,
    seed: int | None,
    device: str | None,
    storage: Path | None,
    format: Format,
    wide: bool,
) -> None:
    """Print what queries of each model find among stored embeddings."""
    from sweeper.models.stored_index import pair_of_model, pair_of_point, rows, rows_for_people

    table: list[dict[str, object]] = []
    for model in models:
        of_sweep = _point_of(model, storage)
        if of_sweep is None:
            pair = pair_of_model(model, reference, data or [])
        elif data or reference is not None:
            raise UserError(f"{model} is a point of a sweep: export it to measure it with --data or --reference")
        else:
            pair = pair_of_point(*of_sweep)
        cache = _cache(storage)
        table += [
            {"model": model, **row}
            for row in rows(pair, count=images, seed=seed, cache=cache, device=device, echo=_echo)
        ]
    narrow = rows_for_people(table)
    print_rows(table, format, empty="nothing was measured", narrow=narrow, wide=wide)


def _bias(
    model: str,
    given: Data,
    weights: Weights,
    output: Path | None,
    *,
    images: int | None,
    seed: int,
    device: str | None,
    storage: Path | None,
) -> list[dict[str, object]]:
    """Measure a model's bias about the attribute that the data name."""
    from sweeper.models.bias import answers_in, rows, seen_by

    cache = _cache(storage)
    seen = seen_by(model, given, weights=weights, cache=cache, echo=_echo, count=images, seed=seed, device=device)
    if output is not None:
        _write(output, answers_in(seen))
    return [{"model": model, **row} for row in rows(given, seen)]


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
    from sweeper.models.compare import compare as compared
    from sweeper.models.evaluate import Weights, answers_of

    given = _data(data, attack)

    def answers(model: str) -> list[Answers]:
        recorded = _of_sweep(model, storage)
        if recorded is not None:
            return recorded
        cache = _cache(storage)
        return answers_of(
            model, given, weights=Weights(), cache=cache, echo=_echo, count=images, seed=seed, device=device
        )

    if given is not None and given.attribute is not None:
        from sweeper.models.bias import answers_in, seen_by, skew_comparisons

        cache = _cache(storage)
        seen = [
            seen_by(model, given, weights=Weights(), cache=cache, echo=_echo, count=images, seed=seed, device=device)
            for model in (first, second)
        ]
        comparisons, notes = compared(answers_in(seen[0]), answers_in(seen[1]))
        comparisons += skew_comparisons(given, seen[0], seen[1])
    else:
        comparisons, notes = compared(answers(first), answers(second))
    for note in notes:
        _echo(note)
    if format is Format.json:
        entries = [{**asdict(comparison), "verdict": comparison.verdict} for comparison in comparisons]
        typer.echo(json.dumps(entries, indent=2))
        return
    rows: list[dict[str, object]] = [
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
    print_rows(rows, format, empty="", narrow=narrow, wide=wide)


def _of_sweep(text: str, storage: Path | None) -> list[Answers] | None:
    """Return the answers of a point of a sweep on test; None if ``text`` does not name a sweep."""
    from trainables.evaluation.answers import read_answers

    of_sweep = _point_of(text, storage)
    if of_sweep is None:
        return None
    folder, _, point = of_sweep
    path = folder.answers_path(point.point_name)
    if not path.exists():
        raise UserError(f"{text} was not measured on test; members of the front are, and the untouched model and PAINT")
    return read_answers(path)


def _point_of(text: str, storage: Path | None) -> tuple[SweepFolder, Spec, FrontPoint] | None:
    """Return a point of a sweep; None if ``text`` does not name a sweep."""
    from sweeper.front.load import load_front
    from sweeper.front.pick import pick
    from sweeper.search.study import read_trials
    from sweeper.storage.sweep_folder import SweepFolder

    name, colon, choice = text.partition(":")
    if not colon or not (SweepFolder(storage_path(storage), name).exists() or _is_point(choice)):
        return None
    folder, spec = open_sweep(name, storage)
    front = load_front(folder, spec, read_trials(folder, spec))
    if front is None:
        raise UserError(f"sweep {name} has not measured anything yet; see `{folder.command('status')}`")
    untouched = next(point for point in front.points if point.trial is None)
    return folder, spec, untouched if choice == "untouched" else pick(front, choice)


def _is_point(choice: str) -> bool:
    """Return whether a choice is a point of a front: no tag of open_clip and no function has such a name."""
    from trainables.tasks.known import KINDS

    baselines = {name for kind in KINDS for name in kind.baseline_titles()}
    extremes = {"cleanest", "most robust", "most accurate", "least biased"}
    return choice.isdigit() or choice in ("knee", "untouched") or choice in baselines | extremes


def _data(given: list[str] | None, attack: str | None) -> Data | None:
    from sweeper.models.evaluate import read_data
    from sweeper.spec.set_checks import set_notes

    if attack not in (None, "sign", "defense_prefix"):
        raise UserError(f"--attack {attack}: unknown attack; choose sign or defense_prefix")
    if not given:
        return None
    data = read_data(given, attack)
    for note in set_notes({name: settings for name, (settings, _) in data.sets.items()}):
        _echo(note)
    return data


def _cache(storage: Path | None) -> Path | None:
    root = storage_path(storage)
    return root / "cache" if root.is_dir() else None


def _echo(text: str) -> None:
    typer.echo(text, err=True)
