"""One trial alone, without a cluster: ``python -m trainables [TRIAL] [--output FOLDER]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trainables.settings.task import absolute_paths
from trainables.tasks.known import TrialSettings, install_code, kind_of, open_context, read_trial_settings

WORLD_TRIAL: dict[str, Any] = {
    "task": {
        "sets": {"world": {"kind": "world"}},
        "train": {"set": "world", "classes": 0.5},
        "attack": {"recipe": "sign"},
        "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"]}},
        "training": {"epochs": 6, "global_batch_size": 128, "warmup_share": 0.1},
    },
    "parameters": {"objective": "dpo", "beta": 0.4, "lambda_reg": 3.0, "tune": "transform", "learning_rate": 0.02},
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trainables",
        description="Runs one trial and measures it on test. Without TRIAL: DPO of a transform on the generated world.",
    )
    parser.add_argument(
        "trial", nargs="?", type=Path, help="YAML or JSON file with task, parameters, seed (trial.json)"
    )
    parser.add_argument("--output", type=Path, default=Path("trial"), help="folder for weights and records")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one parameter")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1; default: cuda if there is one")
    options = parser.parse_args(arguments)
    from trainables.numerics import flushed_denormals

    try:
        trial = read_trial(options.trial, options.set)
        install_code(trial)
        with flushed_denormals():
            return run(trial, options.output, options.device)
    except ValidationError as error:
        for problem in error.errors():
            print(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']} (is {problem['input']!r})", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
    return 2


def read_trial(path: Path | None, changes: list[str]) -> TrialSettings:
    """Return a trial, or the built-in one, with ``changes`` of its parameters (NAME=VALUE).

    Raises:
        ValueError: the content is invalid (pydantic's error or a plain one).
        OSError: the file cannot be read.
    """
    value: Any = WORLD_TRIAL
    if path is not None:
        value = yaml.safe_load(path.read_text())
        if not isinstance(value, dict):
            raise ValueError(f"{path}: expected a mapping with task, parameters and seed")
        value["task"] = absolute_paths(value.get("task"), path.resolve().parent)
    value = {**value, "parameters": {**value.get("parameters", {})}}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: expected NAME=VALUE")
        value["parameters"][name] = yaml.safe_load(text)
    return read_trial_settings(value)


def run(trial: TrialSettings, output: Path, device_name: str | None) -> int:
    import torch

    from trainables.distributed import WorkerGroup
    from trainables.records import Report
    from trainables.training.hooks import Hooks
    from trainables.training.trial import run_trial
    from trainables.training.trial_folder import TrialFolder

    device = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
    group = WorkerGroup(device=device)
    print(f"preparing {', '.join(trial.task.sets)} for {trial.task.model.architecture} on {device}", file=sys.stderr)
    context = open_context(trial.task, data_seed=trial.data_seed, cache=output / "cache", device=device)
    folder = TrialFolder(output)

    goals = kind_of(trial.task).goals(trial.task)

    def report(report: Report) -> None:
        values = "  ".join(f"{goal.short} {report.values[goal.metric]:.3f}" for goal in goals)
        print(
            f"epoch {report.epoch}/{report.epochs}  loss {report.loss:.4f}  KL {report.reference_kl:.4f}  "
            f"{values} (validation)",
            file=sys.stderr,
        )

    hooks = Hooks(report=report, log=lambda line: print(line, file=sys.stderr))
    result = run_trial(context, trial.parameters, seed=trial.seed, folder=folder, group=group, hooks=hooks)
    policy = context.policy(trial.parameters)
    try:
        policy.set_weights(folder.weights("last"))
        test = context.measures.test(context, policy, group, variants=True)
    finally:
        context.release(policy)
    print(json.dumps({"validation": result.values, "test": test.values, "intervals": test.intervals}, indent=1))
    print(f"weights and records are in {output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
