"""What stands beside an exported model: its record for programs, its card for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sweeper.records import Front, FrontPoint
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.settings.parameters import Parameters

Record = dict[str, Any]

_EXPLAINED = {
    "clean_accuracy": "right answers on images as they are",
    "robust_accuracy": "right answers on images with a wrong class written on them",
    "text_confusion_rate": "attacked images answered with the written class",
    "two_way_accuracy": "attacked images for which the true class scores above the written one",
    "reference_kl": "KL(untouched || this model) on clean images, in nats",
    "sign_reading": "words on images without an object that are read right",
}


def export_record(folder: SweepFolder, spec: Spec, point: FrontPoint, front: Front, trial: Mapping[str, Any]) -> Record:
    """JSON-able: where the point comes from, what it was trained with, what was measured.

    Args:
        trial: ``trial.json`` of the point's trial.
    """
    untouched = next(one for one in front.points if one.trial is None)
    measured = folder.untouched() or {}
    images = measured.get("validation_images") or []
    return {
        "sweep": folder.name,
        "sweep_id": folder.sweep_id,
        "git_commit": folder.git_commit,
        "trial": point.trial,
        "name": point.name,
        "weights": point.weights,
        "strength": point.strength,
        "parameters": {name: value for name, value in point.parameters.items() if value is not None},
        "seed": trial["seed"],
        "data_seed": trial["data_seed"],
        "validation": point.validation,
        "validation_intervals": validation_intervals(point.validation, images),
        "test": point.values,
        "intervals": point.intervals,
        "confirmation": None if point.confirmation is None else asdict(point.confirmation),
        "untouched": {"validation": untouched.validation, "test": untouched.values, "intervals": untouched.intervals},
        "digests": {
            "reference_weights": measured.get("weights_digest"),
            "data": measured.get("data_digest"),
        },
        "trained_with": {**measured.get("versions", {}), "device": measured.get("device")},
        "model": spec.model.model_dump(mode="json", exclude_none=True),
    }


def validation_intervals(values: Mapping[str, float], images: Sequence[int]) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of shares (accuracies and rates), means over sets of ``images`` images each.

    For several sets each is taken at the mean over sets, which can only widen the interval.
    """
    from trainables.evaluation.metrics import bootstrap_interval

    found = {}
    for name, value in values.items():
        if images:
            hits = [np.arange(count) < round(value * count) for count in images]
            found[name] = bootstrap_interval(hits)
    return found


def card(record: Record, spec: Spec, folder: str, merges: str | None) -> str:
    """The model card in Markdown.

    Args:
        folder: where the model lies, as its user writes it.
        merges: name of the tokenizer's merge file in it, where it has one.
    """
    where = f"trial {record['trial']}, {record['weights']} weights at strength {record['strength']:g}"
    name = f" (the front's {record['name']})" if record["name"] else ""
    origin = spec.model.architecture + (f" with {spec.model.pretrained}" if spec.model.pretrained else "")
    parts = [
        f"# {record['sweep']}, trial {record['trial']}",
        f"A CLIP fine-tuned against typographic attacks: words in a picture that name another thing. It is {origin}, "
        f"tuned by `sweeper` in the sweep `{record['sweep']}`: {where}{name}.",
        "## Loading",
        "Plain open_clip loads it; a transform, where one was trained, is folded into the projections.",
        _loading(folder, merges),
        "## What was measured",
        "The point was picked on validation, as the best of many: its values there are too good. Test was measured "
        "afterwards, once, and decided nothing. In brackets 95 % bootstrap intervals over images.",
        *_again(record),
        "\n".join(_metrics(record)),
        "## How it was trained",
        "\n".join(_training(record, spec)),
        "## Use and limits",
        "\n".join(f"- {line}" for line in _limits(record, spec)),
        "## Origin",
        "\n".join(_origin(record)),
        "## Licence",
        "The licence of the original weights applies to these, and that of the images they were tuned on may too. "
        "Words were written in Aileron (CC0 1.0) and DejaVu (Bitstream Vera and Arev licences).",
    ]
    return "\n\n".join(parts) + "\n"


def _loading(folder: str, merges: str | None) -> str:
    bpe = f', bpe_path=f"{{folder}}/{merges}"' if merges is not None else ""
    return f"""\
```python
import open_clip

folder = "{folder}"
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{{folder}}")
model.eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{{folder}}"{bpe})
```"""


def _metrics(record: Record) -> list[str]:
    if not record["validation"] and not record["test"]:
        return ["This strength was not measured."]
    again = record["confirmation"] or {}
    columns = {
        "validation": (record["validation"], {}),  # an interval would be about a point that nobody picked
        "validation, untouched": (record["untouched"]["validation"], {}),
        "test": (record["test"] or {}, record["intervals"] or {}),
        "test, trained again": (again.get("values") or {}, again.get("intervals") or {}),
        "test, untouched": (record["untouched"]["test"] or {}, record["untouched"]["intervals"] or {}),
    }
    shown = {name: column for name, column in columns.items() if column[0]}
    metrics = dict.fromkeys(metric for values, _ in shown.values() for metric in values)
    lines = ["| metric | " + " | ".join(shown) + " |", "| --- |" + " ---: |" * len(shown)]
    for metric in metrics:
        cells = [_cell(values.get(metric), intervals.get(metric)) for values, intervals in shown.values()]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    if not record["test"]:
        lines += ["", "It was not measured on test: only members of the front, the untouched model and PAINT are."]
    explained = [f"`{name}`: {text}" for name, text in _EXPLAINED.items() if name in metrics]
    if any(metric.startswith("robust_accuracy/") for metric in metrics):
        explained.append("`robust_accuracy/...`: under an attack that was never trained on")
    return [*lines, "", "; ".join(explained) + "."]


def _again(record: Record) -> list[str]:
    again = record["confirmation"]
    if again is None:
        return []
    seeds, stays = again["seeds"], "stays" if again["stays"] else "does not stay"
    failed = f" ({again['failed']} more failed)" if again["failed"] else ""
    return [
        f"The same parameters were trained again with {seeds} new seeds{failed}: by their means on validation the "
        f"point {stays} on the front. `test, trained again` is their mean, its interval what to expect of one more "
        "seed on other images: of the recipe, not of these weights."
    ]


def _cell(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _training(record: Record, spec: Spec) -> list[str]:
    train, training = spec.train, spec.training
    classes = {"all": "all classes"}.get(str(train.classes), f"classes {train.classes}")
    data = f"{spec.sets[train.set].kind} set `{train.set}`, {classes}, {train.copies} attacked "
    data += "copy per image" if train.copies == 1 else "copies per image"
    rows = {"preference data": data, "attack": f"recipe `{spec.attack.recipe}`"}
    regularised = {"lambda_reg": Parameters.model_fields["lambda_reg"].default}
    rows |= {name: str(value) for name, value in {**regularised, **record["parameters"]}.items()}
    if spec.model.text == "trained" and record["parameters"]["tune"] in ("last_blocks", "visual"):
        rows["text tower"] = "trained too"
    rows |= {"epochs": str(training.epochs), "global batch size": str(training.global_batch_size)}
    rows |= {"optimizer": training.optimizer, "precision": training.precision}
    rows |= {"seed of the trial": str(record["seed"]), "seed of the data": str(record["data_seed"])}
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    return [*lines, "", "The whole spec is in `spec.yaml`: `sweeper run spec.yaml` searches again."]


def _limits(record: Record, spec: Spec) -> list[str]:
    test, before = record["test"] or {}, record["untouched"]["test"] or {}
    held_out = [name.partition("/")[2] for name in test if name.startswith("robust_accuracy/")]
    sets = ", ".join(f"`{name}`" for name in spec.evaluate.test.sets)
    lines = [
        "For zero-shot classification where words in the picture must not decide the answer.",
        f"Robustness is shown for words written by recipe `{spec.attack.recipe}`"
        + (f", and was measured under {', '.join(held_out)}" if held_out else "")
        + "; other attacks (adversarial noise, logos, many words) were not looked at.",
        f"The accuracies hold for the test sets ({sets}), their class names and their prompts.",
    ]
    if "sign_reading" in test:
        from_untouched = f"{before['sign_reading']:.3f} before, " if "sign_reading" in before else ""
        lines.append(
            f"It reads words less, also where they are what one asks for: of words alone on an image it gets "
            f"right {from_untouched}{test['sign_reading']:.3f} now. Do not use it to read signs."
        )
    else:
        lines.append("It reads words less, also where they are what one asks for; how much less was not measured.")
    return lines


def _origin(record: Record) -> list[str]:
    digests = record["digests"]
    rows = {
        "sweep": f"{record['sweep']} ({record['sweep_id']})",
        "commit of the spec": record["git_commit"] or "not in a git repository",
        "trained with": ", ".join(f"{name} {value}" for name, value in record["trained_with"].items() if value),
        "exported with": ", ".join(f"{name} {value}" for name, value in record["exported_with"].items()),
        "sha256 of the original weights (names, shapes, values)": digests["reference_weights"],
        "sha256 of the data trained and searched on": digests["data"],
        "sha256 of the file of exported weights": digests["exported_weights"],
    }
    return ["| | |", "| --- | --- |", *(f"| {name} | {value or 'unknown'} |" for name, value in rows.items())]
