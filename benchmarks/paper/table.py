"""The paper's Table 1 and the real typographic sets, from downloaded weights and sets: docs/paper_table.md.

    python -m benchmarks.paper.table --data FOLDER --until list       what to fetch, what is there, what is damaged
    python -m benchmarks.paper.table --data FOLDER --seeds 3          everything, to the table
    python -m benchmarks.paper.table --stand-in                       the same on drawn images and a small model

Four steps, each of which says what it does: the list of sources, the forecast, the sweeps, the table. A run that was
interrupted goes on with the same command.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sweeper.errors import SweepFailed, SweepStopped, UnavailableError, UserError

if TYPE_CHECKING:
    from sweeper.spec.spec import Spec

SPEC = Path(__file__).parents[2] / "search_spaces" / "paper_table.yaml"
PREDICTIONS = Path(__file__).parent / "predictions.yaml"
STEPS = ("list", "forecast", "sweep", "table")
TITLES = {
    "list": "what is there, and what is missing",
    "forecast": "what it will cost",
    "sweep": "the trainings",
    "table": "the table",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for."""

    data: Path
    """Folder of all sets."""
    weights: Path | None
    """Checkpoint of OpenAI's ViT-B/32; None: open_clip finds or fetches it."""
    output: Path
    seeds: tuple[int, ...]
    gpus: float | None
    left_out: tuple[str, ...]
    """Sets that are not measured."""
    changes: tuple[str, ...]
    """Entries of the spec to change, KEY=VALUE."""
    predictions: Path
    stand_in: bool

    @property
    def spec(self) -> Path:
        """Return the file of the spec as it is run."""
        return self.output / "paper_table.yaml"

    @property
    def storage(self) -> Path:
        return self.output / "sweeps"


def main(words: Sequence[str] | None = None) -> int:
    """Run the steps and return the exit code: 0, 2 for what the user can mend, else that of ``sweeper run``."""
    arguments = _parser().parse_args(words)
    try:
        order = order_of(arguments)
        for step in STEPS[: STEPS.index(arguments.until) + 1]:
            _say(f"\n{STEPS.index(step) + 1} of {len(STEPS)}: {TITLES[step]}")
            {"list": _list, "forecast": _forecast, "sweep": _sweep, "table": _table}[step](order)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 3
    except SweepFailed as error:
        print(error, file=sys.stderr)
        return 1
    except (SweepStopped, KeyboardInterrupt):
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def order_of(arguments: argparse.Namespace) -> Order:
    """Return what the arguments ask for.

    Raises:
        UserError: they contradict each other.
    """
    if arguments.stand_in and arguments.data is not None:
        raise UserError("--stand-in makes its own sets: leave --data (DATA) out")
    if not arguments.stand_in and arguments.data is None:
        raise UserError("name the folder of all sets: --data FOLDER (make paper DATA=FOLDER), or try --stand-in first")
    if arguments.stand_in and arguments.weights is not None:
        raise UserError("--stand-in brings its own weights: leave --weights (WEIGHTS) out")
    if arguments.seeds < 1:
        raise UserError(f"--seeds {arguments.seeds}: at least 1 is needed")
    output = arguments.output or Path("paper_table_stand_in" if arguments.stand_in else "paper_table")
    return Order(
        data=(output / "data" if arguments.stand_in else arguments.data).absolute(),
        weights=None if arguments.weights is None else arguments.weights.absolute(),
        output=output.absolute(),
        seeds=tuple(range(arguments.seeds)),
        gpus=arguments.gpus,
        left_out=tuple(arguments.without),
        changes=tuple(arguments.set),
        predictions=arguments.predictions,
        stand_in=arguments.stand_in,
    )


def working_spec(order: Order, stand_in_changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the spec as it is run: ``paper_table.yaml`` with paths, weights and changes.

    Raises:
        UserError: a set to leave out is not in it, or a change is not KEY=VALUE.
    """
    from sweeper.spec.yaml_document import Document

    spec: dict[str, Any] = _placed(Document(SPEC).data, str(order.data))
    spec["name"] = "paper_table"
    sets, tested = spec["sets"], spec["evaluate"]["test"]["sets"]
    for name in order.left_out:
        if name not in tested or name == spec["train"]["set"]:
            others = ", ".join(other for other in tested if other != spec["train"]["set"])
            raise UserError(f"--without {name}: sets that can be left out are {others}")
        tested.remove(name)
        del sets[name]
    if order.weights is not None:
        weights = {"pretrained": str(order.weights), "quick_gelu": True, "preprocess": "openai"}
        spec["model"] = {**spec["model"], **weights}
    for key, value in stand_in_changes.items():
        if key.split(".")[0] != "sets" or key.split(".")[1] in sets:
            _change(spec, key, value)
    for change in order.changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: write KEY=VALUE, for instance --set model.text=trained")
        _change(spec, key, yaml.safe_load(value))
    return spec


def _list(order: Order) -> None:
    from benchmarks.paper import sources, stand_in

    changes: dict[str, Any] = {}
    if order.stand_in:
        _say(f"stand-ins of all sets and weights are drawn into {order.data}")
        stand_in.write_stand_ins(order.data, changes)
    spec = working_spec(order, changes)
    told: list[str] = []
    problems: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        _say(line)

    for source in sources.sources():
        if source.name in order.left_out:
            tell(f"{source.name}: left out")
            continue
        state, fetch = sources.state_of(source, order.data), sources.fetch_lines(source)
        tell(f"{source.name} ({source.size}; licence: {source.licence})")
        for line in (*state.lines, *fetch):
            tell(f"  {line}")
        if state.missing:
            problems.append(f"{source.name}: {order.data / source.folder} is not there; {fetch[0]}")
        if not order.stand_in:  # drawn files have other digests
            problems += [f"{source.name}: {name} is damaged or another file; fetch it again" for name in state.damaged]
    if order.stand_in:
        tell("weights: the small CLIP of the generated world")
    else:
        lines, usable = sources.weights_lines(order.weights)
        for line in lines:
            tell(f"weights: {line}")
        problems += [] if usable else lines
    if problems:
        missing = [name for name in spec["sets"] if any(problem.startswith(f"{name}: ") for problem in problems)]
        without = " ".join(f"--without {name}" for name in missing if name != spec["train"]["set"])
        advice = f"\nor leave sets out, and have a table without them: ARGS={shlex.quote(without)}" if without else ""
        raise UserError("not ready:\n" + "\n".join(problems) + advice)
    _write_spec(order, spec)
    (order.output / "sources.txt").write_text("\n".join(told) + "\n", encoding="utf-8")


def _forecast(order: Order) -> None:
    import torch

    from benchmarks.paper import forecast, measure
    from sweeper.run.child import call
    from sweeper.spec.spec import load_spec
    from sweeper.storage.sweep_folder import SweepFolder

    spec = load_spec(order.spec, [])
    images = forecast.images_of(spec, [name.partition("/")[0] for name in spec.evaluate.test.sets])
    total = sum(number for name, number in images.items() if name.endswith("/test"))
    trained, tested = images[f"{spec.train.set}/train"], len(spec.evaluate.test.sets)
    _say(f"{trained} images for training, {total} for test in {tested} sets")
    if not order.stand_in:
        for line in forecast.count(spec, images, len(order.seeds)).lines(len(order.seeds)):
            _say(line)
    begun = [name for name in map(measure.sweep_name, order.seeds) if SweepFolder(order.storage, name).exists()]
    if begun:
        status = shlex.join(["sweeper", "status", begun[-1], "--storage", str(order.storage)])
        _say(f"not timed again: trainings have begun, and `{status}` has what is left of them")
    elif order.stand_in or torch.cuda.is_available():
        _say("sweeper check --probe times a slot; its forecast is of one seed, without the measuring of the table:")
        words = ["check", str(order.spec), "--probe", "--probe-seconds", "10" if order.stand_in else "120"]
        words += ["--storage", str(order.storage), *(["--gpus", f"{order.gpus:g}"] if order.gpus is not None else [])]
        for line in call(words, look=lambda: None).splitlines():
            if line.startswith(("probe:", "forecast", "  ", "visual")):
                _say(f"  {line}")


def _sweep(order: Order) -> None:
    from benchmarks.paper import measure

    for seed in order.seeds:
        _say(f"seed {seed}: sweep {measure.sweep_name(seed)} in {order.storage}")
        measure.run_sweep(order.spec, seed, storage=order.storage, gpus=order.gpus, echo=lambda line: _say(f"  {line}"))


def _table(order: Order) -> None:
    from benchmarks.paper import measure, results, writing
    from benchmarks.paper.rows import ROWS, columns
    from sweeper.spec.spec import load_spec

    predictions = results.read_predictions(order.predictions)
    spec = load_spec(order.spec, [])
    measure.measure(order.spec, order.seeds, storage=order.storage, output=order.output, device=None, echo=_say)
    answers = {row.key: measure.answers_of(row, order.seeds, order.output) for row in ROWS}
    shown = columns([name.partition("/")[0] for name in spec.evaluate.test.sets])
    cells = {}
    for row in ROWS:
        for column in shown:
            predicted = predictions.rows.get(row.key, {}).get(column.key) if column.whole else None
            cells[row.key, column.key] = results.cell(row.key, column, answers[row.key], predicted)
    by_key = {column.key: column for column in shown}
    statements = [
        (one, results.difference(one, by_key[one.column], answers[one.row], answers[one.minus]))
        for one in predictions.statements
        if one.column in by_key and by_key[one.column].whole
    ]
    table = writing.Table(
        rows=ROWS,
        columns=shown,
        cells=cells,
        statements=statements,
        predicted=predictions.date,
        facts=_facts(order, spec),
        left_out=order.left_out,
        stand_in=order.stand_in,
    )
    for file in writing.write_table(table, order.output):
        _say(f"written: {file}")


def _facts(order: Order, spec: Spec) -> list[str]:
    """Return lines on how the table was made."""
    from benchmarks.common.machine import environment
    from benchmarks.paper.measure import sweep_name
    from sweeper.storage.sweep_folder import SweepFolder

    model = "the small CLIP of the generated world" if order.stand_in else spec.model.architecture
    untouched = SweepFolder(order.storage, sweep_name(order.seeds[0])).untouched()
    seeds = ", ".join(map(str, order.seeds))
    intervals = "over images" if len(order.seeds) == 1 else "over images and seeds"
    facts = [
        f"model {model}, seeds {seeds}; 95 % intervals {intervals}",
        environment("torch", "open_clip_torch", "ray"),
    ]
    if untouched is not None:
        device = untouched.device or "not recorded"
        facts.append(
            f"trained on {device}; digests: weights {untouched.weights_digest}, images {untouched.data_digest}"
        )
    return [*facts, *(f"changed in the spec: {change}" for change in order.changes)]


def _write_spec(order: Order, spec: Mapping[str, Any]) -> None:
    """Write the spec as it is run, with a heading.

    Raises:
        UserError: the folder has results of another spec.
    """
    if order.spec.exists() and yaml.safe_load(order.spec.read_text(encoding="utf-8")) != spec:
        raise UserError(
            f"{order.output} has results of other sets, weights or settings ({order.spec.name} there says which); "
            "name another --output"
        )
    order.output.mkdir(parents=True, exist_ok=True)
    heading = f"# Written by {shlex.join(['python', '-m', 'benchmarks.paper.table'])} from search_spaces/{SPEC.name}.\n"
    order.spec.write_text(heading + yaml.safe_dump(dict(spec), sort_keys=False), encoding="utf-8")


def _placed(value: Any, data: str) -> Any:
    """Return a value of the spec with the folder of all sets in the place of ``$DATA``."""
    if isinstance(value, dict):
        return {key: _placed(one, data) for key, one in value.items()}
    if isinstance(value, list):
        return [_placed(one, data) for one in value]
    return value.replace("$DATA", data) if isinstance(value, str) else value


def _change(spec: dict[str, Any], key: str, value: Any) -> None:
    """Change an entry, ``training.epochs``; sections that are missing are made."""
    *sections, last = key.split(".")
    for section in sections:
        inner = spec.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {key}: {section} is no section of the spec")
        spec = inner
    spec[last] = value


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of all sets")
    parser.add_argument("--weights", type=Path, help="OpenAI's ViT-B-32.pt; default: open_clip finds or fetches it")
    parser.add_argument("--output", type=Path, help="folder of sweeps, answers and table; default: paper_table")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds; one sweep each")
    parser.add_argument("--gpus", type=float, help="GPUs of a sweep; default: all")
    parser.add_argument("--until", choices=STEPS, default="table", help="the last step")
    parser.add_argument(
        "--without", action="append", default=[], metavar="SET", help="leave a set out; may be repeated"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change an entry of the spec")
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS, help="another file of predictions")
    parser.add_argument("--stand-in", action="store_true", help="drawn images and a small model; minutes on two cores")
    return parser


if __name__ == "__main__":
    sys.exit(main())
