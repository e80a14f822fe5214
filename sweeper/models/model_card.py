"""The model card (README.md) of an exported model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sweeper.front.export_record import ExportRecord
from sweeper.records import Confirmation
from sweeper.spec.spec import Spec
from trainables.markdown import plain
from trainables.models.validity import ADVICE, INDEX_MAP_FILE, stored_embeddings
from trainables.records import Goals
from trainables.settings.parameters import Parameters
from trainables.tasks.kind import CardText, TestedValues

if TYPE_CHECKING:
    from trainables.models.export import ModelFormat


def validation_intervals(
    values: Mapping[str, float], images: Sequence[int], goals: Goals
) -> dict[str, tuple[float, float]]:
    """Return 95 % bootstrap intervals of the goals that are shares of correct answers.

    With several sets each set is taken to have the mean over sets, which can only widen the interval.

    Args:
        values: means over sets.
        images: number of images of each set.
    """
    from trainables.evaluation.metrics import bootstrap_interval

    if not images:
        return {}
    return {
        metric: bootstrap_interval([np.arange(count) < round(value * count) for count in images])
        for metric, value in values.items()
        if any(goal.metric == metric and goal.view is not None for goal in goals)
    }


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Stored embeddings that ``index_map.npz`` converted, against the exported model."""

    old_width: int
    new_width: int
    images: int
    """Number of images of noise that were compared."""
    prompts: int
    difference: float
    """Largest difference of a component, of normalised embeddings."""


def model_card(
    record: ExportRecord,
    spec: Spec,
    folder: str,
    merges: str | None,
    model_format: ModelFormat = "open_clip",
    converted: Converted | None = None,
) -> str:
    """Return the model card in Markdown.

    Args:
        folder: path of the model, as its user writes it.
        merges: name of the tokenizer's merge file in it; None if it has none.
        converted: a check of ``index_map.npz``; None if the folder has none.
    """
    where = f"trial {record.trial}, {record.weights} weights at strength {record.strength:g}"
    name = f" (the front's {record.name})" if record.name else ""
    origin = plain(spec.model.architecture + (f" with {spec.model.pretrained}" if spec.model.pretrained else ""))
    values = TestedValues(parameters=record.parameters, test=record.test or {}, untouched=record.untouched.test or {})
    text = spec.kind.card(spec, values)
    parts = [
        f"# {record.sweep}, trial {record.trial}",
        f"{text.summary} It is {origin}, tuned by `sweeper` in the sweep `{record.sweep}`: {where}{name}.",
        "## Loading",
        f"Plain {model_format} loads it; a trained transform is folded into its projections.",
        _loading_by_transformers(folder) if model_format == "transformers" else _loading(folder, merges),
        "## Stored embeddings",
        *_stored(record, spec, folder, converted),
        "## What was measured",
        "The point was picked on validation, as the best of many: its values there are too good. Test was measured "
        "afterwards, once, and decided nothing. In brackets 95 % bootstrap intervals over images.",
        *([] if record.confirmation is None else [_retraining(record.confirmation)]),
        *_kept(record, spec),
        "\n".join(_metrics(record, spec)),
        "## How it was trained",
        "\n".join(_training(record, spec, text)),
        "## Use and limits",
        "\n".join(f"- {line}" for line in text.limits),
        "## Origin",
        "\n".join(_origin(record, spec)),
        "## Licence",
        "The licence of the original weights applies to these, and that of the images they were tuned on may too. "
        + text.licence,
    ]
    return "\n\n".join(parts) + "\n"


def _loading(folder: str, merges: str | None) -> str:
    bpe = f', bpe_path=f"{{folder}}/{merges}"' if merges is not None else ""
    return f"""\
```python
import open_clip

folder = {json.dumps(folder, ensure_ascii=False)}
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{{folder}}")
model.eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{{folder}}"{bpe})
```"""


def _loading_by_transformers(folder: str) -> str:
    return f"""\
```python
from transformers import CLIPModel, CLIPProcessor

folder = {json.dumps(folder, ensure_ascii=False)}
model = CLIPModel.from_pretrained(folder).eval()
processor = CLIPProcessor.from_pretrained(folder)
```"""


def _stored(record: ExportRecord, spec: Spec, folder: str, converted: Converted | None) -> list[str]:
    """Return paragraphs on embeddings of the untouched model that an index holds."""
    stored = stored_embeddings(
        Parameters.model_validate(record.parameters),
        model_trains_text=spec.model.text == "trained",
        strength=record.strength,
    )
    sides = (("images", stored.images), ("texts", stored.texts))
    rows = ["| stored by the untouched model | with this model | |", "| --- | --- | --- |"]
    rows += [f"| {side} | {validity} | {ADVICE[validity]} |" for side, validity in sides]
    parts = ["\n".join(rows)]
    if stored.images == "embed again":
        parts.append(
            "Old and new embeddings must not stand in one index. `sweeper evaluate DIR --index`, with this folder as "
            "DIR, measures what this model's queries find among stored embeddings."
        )
    if stored.images == "one matrix product" and converted is None:
        parts.append("`sweeper export` with `--index-map` writes the matrices, and how to use them.")
    return parts if converted is None else [*parts, *_conversion(folder, converted)]


def _conversion(folder: str, converted: Converted) -> list[str]:
    """Return paragraphs on ``index_map.npz``, with code in NumPy and for FAISS."""
    widths = f"{converted.new_width} x {converted.old_width}"
    path = json.dumps(f"{folder}/{INDEX_MAP_FILE}", ensure_ascii=False)
    return [
        f"`{INDEX_MAP_FILE}` holds the matrices `image` and `text` ({widths}, float32) of these weights at this "
        "strength. The product has to be normalised; the stored embeddings may be normalised or not. On "
        f"{converted.images} images of noise and {converted.prompts} prompts no component was more than "
        f"{converted.difference:.0e} from the embedding that this model itself computes. Of a mean over prompts, each "
        "prompt is converted before the mean is taken.",
        f"""\
```python
import numpy as np

maps = np.load({path})


def converted(old, side="image"):  # (N, {converted.old_width}) stored embeddings; side: "image" or "text"
    new = np.asarray(old, np.float32) @ maps[side].T
    return new / np.linalg.norm(new, axis=1, keepdims=True).clip(1e-12)
```""",
        "An index of FAISS that keeps whole vectors, part by part:",
        f"""\
```python
import faiss

old = faiss.read_index("old.index")
new = faiss.IndexFlatIP({converted.new_width})
for start in range(0, old.ntotal, 65536):
    new.add(converted(old.reconstruct_n(start, min(65536, old.ntotal - start))))
faiss.write_index(new, "new.index")
```""",
        "Positions stay as they are. An index that compresses its vectors gives back approximations of them: convert "
        "the embeddings that it was built from, and build it from the result.",
    ]


def _kept(record: ExportRecord, spec: Spec) -> list[str]:
    """Return a sentence about the bounds that points of the front had to keep; empty without bounds."""
    bounds = spec.bounds(record.untouched.validation)
    if not bounds:
        return []
    missed = [
        str(bound) for bound in bounds if bound.metric in record.validation and bound.missed_by(record.validation)
    ]
    told = f"Points of the front had to keep, on validation, {', '.join(map(str, bounds))}"
    return [f"{told}; this point does not keep {', '.join(missed)}." if missed else f"{told}; this point does."]


def _metrics(record: ExportRecord, spec: Spec) -> list[str]:
    if not record.validation and not record.test:
        return ["This strength was not measured."]
    confirmation, untouched = record.confirmation, record.untouched
    confirmed = None if confirmation is None else confirmation.values
    confirmed_intervals = None if confirmation is None else confirmation.intervals
    columns: dict[str, tuple[dict[str, float], dict[str, tuple[float, float]]]] = {
        "validation": (record.validation, {}),  # picked as the best of many: an interval would not hold for it
        "validation, untouched": (untouched.validation, {}),
        "test": (record.test or {}, record.intervals or {}),
        "test, trained again": (confirmed or {}, confirmed_intervals or {}),
        "test, untouched": (untouched.test or {}, untouched.intervals or {}),
    }
    shown = {name: column for name, column in columns.items() if column[0]}
    metrics = dict.fromkeys(metric for values, _ in shown.values() for metric in values)
    lines = ["| metric | " + " | ".join(shown) + " |", "| --- |" + " ---: |" * len(shown)]
    for metric in metrics:
        cells = [_cell(values.get(metric), intervals.get(metric)) for values, intervals in shown.values()]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    if not record.test:
        lines += ["", "It was not measured on test: only members of the front, the untouched model and baselines are."]
    on_validation = {name: metric.about for name, metric in spec.kind.metrics(spec).items()}
    about = {metric: spec.kind.about(metric) or on_validation.get(metric) for metric in metrics}
    by_text: dict[str, list[str]] = {}
    for metric, words in about.items():
        if words:
            by_text.setdefault(words, []).append(f"`{metric}`")
    explained = [f"{', '.join(names)}: {words}" for words, names in by_text.items()]
    return [*lines, "", "; ".join(explained) + "."]


def _retraining(confirmation: Confirmation) -> str:
    stays = "stays" if confirmation.stays else "does not stay"
    failed = f" ({confirmation.failed} more failed)" if confirmation.failed else ""
    return (
        f"The same parameters were trained again with {confirmation.seeds} new seeds{failed}: by their means on "
        f"validation the point {stays} on the front. `test, trained again` is their mean, its interval what to expect "
        "of one more seed on other images: of the recipe, not of these weights."
    )


def _cell(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _training(record: ExportRecord, spec: Spec, text: CardText) -> list[str]:
    train, training = spec.train, spec.training
    classes = {"all": "all classes"}.get(str(train.classes), f"classes {plain(str(train.classes))}")
    rows = {"preference data": f"{spec.sets[train.set].kind} set `{train.set}`, {classes}", **text.data}
    regularised = {"lambda_reg": Parameters.model_fields["lambda_reg"].default}
    rows |= {name: plain(str(value)) for name, value in {**regularised, **record.parameters}.items()}
    if spec.model.text == "trained" and record.parameters["tune"] in ("last_blocks", "visual"):
        rows["text tower"] = "trained too"
    rows |= {"epochs": str(record.parameters.get("epochs", training.epochs))}
    rows |= {"global batch size": str(training.global_batch_size)}
    rows |= {"optimizer": training.optimizer, "precision": training.precision}
    rows |= {"seed of the trial": str(record.seed), "seed of the data": str(record.data_seed)}
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    return [*lines, "", "The whole spec is in `spec.yaml`: `sweeper run spec.yaml` searches again."]


def _origin(record: ExportRecord, spec: Spec) -> list[str]:
    digests = record.digests
    rows = {
        "sweep": f"{record.sweep} ({record.sweep_id})",
        "commit of the spec": record.git_commit or "not in a git repository",
        "trained with": ", ".join(f"{name} {value}" for name, value in record.trained_with.items() if value),
        "exported with": ", ".join(f"{name} {value}" for name, value in record.exported_with.items()),
        "sha256 of the original weights (names, shapes, values)": digests.reference_weights,
        "sha256 of the data trained and searched on": digests.data,
        "sha256 of the file of exported weights": digests.exported_weights,
        **{f"sha256 of the code in {module}": digest for module, digest in spec.code.items()},
    }
    return ["| | |", "| --- | --- |", *(f"| {name} | {plain(value or 'unknown')} |" for name, value in rows.items())]
