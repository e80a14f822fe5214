"""JSON Schemas of the output of commands with ``--format json`` and ``--format csv``, and the page docs/formats.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Type = Literal["text", "whole number", "number", "true, false", "any", "numbers", "intervals", "parameters", "rows"]

_TYPES: dict[Type, Json] = {
    "text": {"type": "string"},
    "whole number": {"type": "integer"},
    "number": {"type": "number"},
    "true, false": {"type": "boolean"},
    "any": {},
    "numbers": {"type": "object", "additionalProperties": {"type": "number"}},
    "intervals": {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
    "parameters": {"type": "object"},
}


@dataclass(frozen=True)
class Column:
    """A column of a CSV file and key of the JSON objects; it is there in every row."""

    name: str
    """``GOAL``, ``METRIC``, ``PARAMETER`` and ``SEED`` in a name stand for any: a family of columns."""
    type: Type
    about: str
    empty: str | None = None
    """When the value is missing: null in JSON, nothing in CSV. None: never."""
    optional: str | None = None
    """When the column is there at all; None: always."""
    rows: Sequence[Column] = ()
    """Keys of the objects in a list, for the type ``rows``."""

    @property
    def family(self) -> bool:
        return any(word in self.name for word in _PLACEHOLDERS)


_PLACEHOLDERS = ("GOAL", "METRIC", "PARAMETER", "SEED")


@dataclass(frozen=True)
class Listing:
    """The output of a command."""

    title: str
    about: str
    json: Sequence[Column]
    csv: Sequence[Column] | None = None
    """None: the columns are the keys of the JSON objects."""
    single: bool = False
    """Whether JSON is one object instead of a list of objects."""


_NOT_MEASURED = "not measured"
_SWEEP = (
    Column("name", "text", "name of the sweep"),
    Column("state", "text", "`running`, `unfinished`, `complete` or `unreadable`"),
    Column("finished", "whole number", "searched trials that have ended", "unreadable"),
    Column("trials", "whole number", "searched trials that the spec asks for", "unreadable"),
    Column("failed", "whole number", "failed trials", "unreadable"),
    Column("device", "text", "`gpu` or `cpu`", "no session has begun"),
    Column("device_h", "number", "device hours used", "unreadable"),
    Column("saved_device_h", "number", "device hours that stopped trials would have taken", "unreadable"),
    Column("saved_by_noise_floor_device_h", "number", "device hours that trials left out would have taken",
           "the search did not end at its noise floor"),
    Column("price", "text", "price of a device hour", "no price is known"),
    Column("money", "number", "device hours times price", "no price is known"),
    Column("budget", "text", "limit of the spec, as written", "no limit"),
    Column("forecast_device_h", "number", "device hours of the whole sweep, forecast", "the sweep does not run"),
    Column("forecast_left_s", "number", "seconds until the end, forecast", "the sweep does not run"),
    Column("hypervolume", "number", "of the front on validation", "there is no front"),
    Column("knee_GOAL", "number", "goal of the knee on validation", "there is no front"),
)  # fmt: skip
_TRIAL = (
    Column("trial", "whole number", "number of the trial"),
    Column(
        "state", "text", "`running`, `unfinished` (of a sweep that does not run), `complete`, `stopped` or `failed`"
    ),
    Column("baseline", "text", "name of the baseline, for instance `paint`", "a searched trial"),
    Column("first_point", "text", "what the trial is for, of the first points", "any other trial"),
    Column("confirms", "whole number", "trial that this one trains again with another seed", "any other trial"),
)
_TRIALS = (
    *_TRIAL,
    Column("GOAL", "number", "goal on validation: strength 1, last weights; of a running trial, the last report",
           "no report"),
    Column("epoch", "number", "epochs done", "the trial does not run"),
    Column("duration_s", "number", "seconds of training and evaluation", "the trial has not ended"),
    Column("cost_s", "number", "seconds for which it held a slot, over all attempts", "the trial has not ended"),
    Column("PARAMETER", "any", "a parameter, searched or fixed", "the trial does not have it"),
    Column("reason", "text", "why it failed or was stopped", "neither"),
)  # fmt: skip
_EPOCH = (
    Column("step", "whole number", "updates done"),
    Column("epoch", "number", "epochs done"),
    Column("loss", "number", "mean since the last report; as the next two", "no update was made"),
    Column("preference_loss", "number", "the objective's part of it", "no update was made"),
    Column("reference_kl", "number", "KL from the untouched model on clean training images", "no update was made"),
    Column("METRIC", "number", "metric on validation: strength 1, last weights"),
    Column("train_s", "number", "seconds of training since the trial began; as the next two"),
    Column("evaluation_s", "number", "seconds of evaluation"),
    Column("checkpoint_s", "number", "seconds that training waited for checkpoints"),
)
_POINT = (
    Column("weights", "text", "`last` or `averaged`"),
    Column("strength", "number", "t: 0 is the untouched model, 1 the trained one"),
    Column("member", "true, false", "whether it is on the front"),
    Column("validation", "numbers", "metrics on validation"),
    Column("test", "numbers", "metrics on test", _NOT_MEASURED),
)
_SHOW = (
    *_TRIAL,
    Column("reason", "text", "why it failed or was stopped", "neither"),
    Column("parameters", "parameters", "parameters, searched and fixed"),
    Column("seed", "whole number", "seed of the training"),
    Column("attempts", "whole number", "how often its training was begun or gone on with"),
    Column("folder", "text", "its files"),
    Column("epochs", "rows", "a row for each report", rows=_EPOCH),
    Column("points", "rows", "its points in the table of the front", rows=_POINT),
)
_PICKED = (
    Column("name", "text", "`knee`, `cleanest`, `most robust`, `untouched` or a baseline", "any other point"),
    Column("trial", "whole number", "number of the trial", "the untouched model"),
    Column("weights", "text", "`last` or `averaged`"),
    Column("strength", "number", "t: 0 is the untouched model, 1 the trained one"),
    Column("member", "true, false", "whether it is non-dominated on validation"),
)
_OF_SWEEP = Column("sweep", "text", "name of the sweep", "the untouched model", optional="several sweeps are merged")
_FRONT_JSON = (
    _OF_SWEEP,
    *_PICKED,
    Column("params", "parameters", "parameters, searched and fixed"),
    Column("validation", "numbers", "metrics on validation, on which it was picked"),
    Column("validation_images", "whole number", "images behind them", "not recorded"),
    Column("values", "numbers", "metrics on test, measured once", _NOT_MEASURED),
    Column("intervals", "intervals", "their 95 % intervals", _NOT_MEASURED),
    Column("confirmation", "any", "trainings with other seeds: seeds, failed, stays, means, intervals",
           "not trained again"),
)  # fmt: skip
_CONFIRMED = "members were trained again"
_FRONT_CSV = (
    _OF_SWEEP,
    *_PICKED,
    Column("validation_METRIC", "number", "metric on validation, on which it was picked", _NOT_MEASURED),
    Column("validation_images", "whole number", "images behind them", "not recorded"),
    Column("test_METRIC", "number", "metric on test, measured once", _NOT_MEASURED),
    Column("test_METRIC_low", "number", "lower end of its 95 % interval", _NOT_MEASURED),
    Column("test_METRIC_high", "number", "upper end", _NOT_MEASURED),
    Column("confirmed_seeds", "whole number", "trainings with other seeds that ended well", "not trained again",
           optional=_CONFIRMED),
    Column("confirmed_failed", "whole number", "those that failed", "not trained again", optional=_CONFIRMED),
    Column("confirmed_stays", "true, false", "whether their mean is on the front", "not trained again",
           optional=_CONFIRMED),
    Column("confirmed_validation_GOAL", "number", "mean on validation over the seeds", "not trained again",
           optional=_CONFIRMED),
    Column("confirmed_test_GOAL", "number", "mean on test over the seeds", "fewer than two seeds",
           optional=_CONFIRMED),
    Column("confirmed_test_GOAL_low", "number", "95 % interval with a fresh seed on fresh images; also `_high`, and "
           "`_low_simultaneous`, `_high_simultaneous` for all members at once", "fewer than two seeds",
           optional=_CONFIRMED),
    Column("PARAMETER", "any", "a parameter, searched or fixed", "the trial does not have it"),
)  # fmt: skip
_MEASURES = ("accuracy", "two_way_accuracy", "text_confusion_rate", "reference_kl")
_MEASURE_TEXTS = (
    "over all classes",
    "true class against written class",
    "share answered with the written word",
    "from --reference, on clean images",
)
_WHERE = (
    Column("model", "text", "as given"),
    Column("set", "text", "name of the set; `mean of sets` for the mean"),
)
_BOUNDS = (
    Column("low", "number", "lower end of its 95 % interval", "the metric has none"),
    Column("high", "number", "upper end", "the metric has none"),
)
_EVALUATE = (
    *_WHERE,
    Column("view", "text", "`clean`, `attacked` or a held-out attack"),
    Column("images", "whole number", "number of images"),
    *(
        Column(f"{measure}{end}", "number", what, "not measured in this view")
        for measure, about in zip(_MEASURES, _MEASURE_TEXTS, strict=True)
        for end, what in (("", about), ("_low", "lower end of its 95 % interval"), ("_high", "upper end"))
    ),
)
_BIAS = (
    *_WHERE,
    Column("images", "whole number", "number of images"),
    Column("metric", "text", "name of the metric"),
    Column("value", "number", "its value"),
    *_BOUNDS,
)
_INDEX = (
    *_WHERE,
    Column("view", "text", "`clean`, `attacked` or a held-out attack"),
    Column("images", "whole number", "number of images"),
    Column("measure", "text", "recall, cosine or accuracy"),
    Column("value", "number", "its value"),
    *_BOUNDS,
)
_COMPARE = (
    Column("set", "text", "name of the set; `mean of sets` for the mean"),
    Column("view", "text", "`clean`, `attacked` or a held-out attack"),
    Column("measure", "text", "name of the measure"),
    Column("images", "whole number", "images that both models answered"),
    Column("first", "number", "value of model A"),
    Column("second", "number", "value of model B"),
    Column("difference", "number", "B minus A"),
    Column("low", "number", "lower end of its 95 % paired bootstrap interval"),
    Column("high", "number", "upper end"),
    Column("verdict", "text", "`first is higher`, `second is higher` or `not told apart`"),
)
_RERUN_JSON = (
    Column("sweep", "text", "name of the sweep"),
    Column("trial", "whole number", "number of the trial"),
    Column("state", "text", "its state in the sweep"),
    Column("seed", "whole number", "its seed"),
    Column("recorded", "numbers", "goals on validation in the sweep", "the trial did not finish"),
    Column("intervals", "intervals", "their 95 % intervals"),
    Column("again", "numbers", "goals of the training with the same seed"),
    Column("other_seeds", "parameters", "seed -> goals of the training with it"),
    Column("reproduced", "true, false", "whether all of `again` lies in the intervals", "nothing is recorded"),
    Column("kept_weights", "true, false", "whether the weights were put back", "without --keep-weights"),
    Column("conclusion", "text", "one or two sentences"),
)
_RERUN_CSV = (
    Column("goal", "text", "name of the goal"),
    Column("recorded", "number", "in the sweep", "the trial did not finish"),
    Column("low", "number", "lower end of its 95 % interval", "the trial did not finish"),
    Column("high", "number", "upper end", "the trial did not finish"),
    Column("again", "number", "of the training with the same seed"),
    Column("inside", "true, false", "whether it lies in the interval", "the trial did not finish"),
    Column("seed SEED", "number", "of the training with another seed", optional="with --seeds"),
)
_ENV = (
    Column("name", "text", "of a package, or what is told"),
    Column("value", "text", "version, number or path"),
)

LISTINGS: dict[str, Listing] = {
    "list": Listing("sweeper list", "A row for each sweep.", _SWEEP),
    "status": Listing(
        "sweeper status",
        "One row: that of `list`, and the noise floor.",
        (
            *_SWEEP,
            Column("noise_floor_gain", "number", "expected gain of a further quarter of trials, in hypervolume",
                   "not known yet"),
            Column("noise_floor_standard_error", "number", "standard error of the front's hypervolume",
                   "not known yet"),
            Column("noise_floor_reached", "true, false", "whether the gain is below it", "not known yet"),
        ),
    ),
    "trials": Listing("sweeper trials", "A row for each trial.", _TRIALS),
    "show": Listing("sweeper show", "One trial. CSV: its reports, a row for each.", _SHOW, csv=_EPOCH, single=True),
    "front": Listing(
        "sweeper front (also run, resume)",
        "Members from the best to the worst in the first goal, then the untouched model and baselines.",
        _FRONT_JSON,
        csv=_FRONT_CSV,
    ),
    "evaluate": Listing("sweeper evaluate", "A row for each model, set and view.", _EVALUATE),
    "evaluate, attribute": Listing(
        "sweeper evaluate, data with an attribute", "A row for each model, set and metric.", _BIAS
    ),
    "evaluate --index": Listing(
        "sweeper evaluate --index", "A row for each model, set, view and measure.", _INDEX
    ),
    "compare": Listing("sweeper compare", "A row for each set, view and measure that both models have.", _COMPARE),
    "rerun": Listing("sweeper rerun", "One training again. CSV: a row for each goal.", _RERUN_JSON, csv=_RERUN_CSV,
                     single=True),
    "env": Listing("sweeper env", "Versions and devices.", _ENV),
}  # fmt: skip


def schemas() -> Json:
    """Return a JSON Schema of what each command prints with ``--format json``, by the command's name."""
    return {
        name: _object(listing.json) if listing.single else {"type": "array", "items": _object(listing.json)}
        for name, listing in LISTINGS.items()
    }


def csv_schema(name: str) -> Json:
    """Return a JSON Schema of a row of ``--format csv``, in the types that its texts stand for."""
    listing = LISTINGS[name]
    return _object(listing.json if listing.csv is None else listing.csv)


def _object(columns: Sequence[Column]) -> Json:
    families = [column for column in columns if column.family]
    others: bool | Json = False
    for column in families:
        if column.name in _PLACEHOLDERS:  # any key that is none of the others
            others = {} if column.type == "any" or others == {} else _value(column)
    return {
        "type": "object",
        "properties": {column.name: _value(column) for column in columns if not column.family},
        "patternProperties": {
            _pattern(column.name): _value(column) for column in families if column.name not in _PLACEHOLDERS
        },
        "additionalProperties": others,
        "required": _required(columns),
    }


def _required(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns if not column.family and column.optional is None]


def _value(column: Column) -> Json:
    if column.type == "rows":
        value: Json = {"type": "array", "items": _object(column.rows)}
    else:
        value = dict(_TYPES[column.type])
    if column.empty is not None and "type" in value:
        value["type"] = [value["type"], "null"]
    return value | {"description": column.about}


def _pattern(name: str) -> str:
    for word in _PLACEHOLDERS:
        name = name.replace(word, ".+")
    return f"^{name}$"


_HEAD = """\
# What commands print for scripts

`--format json` and `--format csv` of every command that lists something. Data go to standard output, messages to
standard error. A value that is missing is `null` in JSON and nothing in CSV, as is a number that is not finite. Columns
are added with new versions, and renamed or removed only with a line in the [changelog](../CHANGELOG.md): take them by
name. Hours, seconds and hypervolume are rounded, as are values of `list`, `status` and `trials` (to four decimals);
those of `front` and `show` are not.

`sweeper schema output` prints the same as JSON Schemas, one for each command. This page is made by
`sweeper schema output --markdown > docs/formats.md`. The [Python API](api.md) gives the columns of CSV as a DataFrame.

`GOAL`, `METRIC`, `PARAMETER` and `SEED` in a name stand for any: `knee_GOAL` is `knee_clean` and `knee_robust`.
"""


def page() -> str:
    """Return the page docs/formats.md."""
    parts = [_HEAD]
    for listing in LISTINGS.values():
        parts.append(f"\n## {listing.title}\n\n{listing.about}\n")
        form = "One object" if listing.single else "A list of objects"
        parts.append(
            f"\n{'JSON and CSV' if listing.csv is None else f'JSON: {form.lower()}'}\n\n{_table(listing.json)}"
        )
        parts += [
            f"\nEach of `{column.name}`:\n\n{_table(column.rows)}" for column in listing.json if column.type == "rows"
        ]
        if listing.csv is not None:
            parts.append(f"\nCSV\n\n{_table(listing.csv)}")
    return "".join(parts)


_WORDS: dict[Type, str] = {
    "any": "text or number",
    "numbers": "object, name -> number",
    "intervals": "object, name -> [low, high]",
    "parameters": "object",
    "rows": "list of objects",
}


def _table(columns: Sequence[Column]) -> str:
    lines = ["| name | type | what | missing |", "| --- | --- | --- | --- |"]
    for column in columns:
        missing = column.empty or "-"
        if column.optional is not None:
            missing = f"no such column unless {column.optional}" + (f"; {column.empty}" if column.empty else "")
        lines.append(f"| `{column.name}` | {_WORDS.get(column.type, column.type)} | {column.about} | {missing} |")
    return "\n".join(lines) + "\n"
