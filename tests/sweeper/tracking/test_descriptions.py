"""What MLflow says of sweeps and trials."""

from __future__ import annotations

from pathlib import Path

from sweeper.records import TrialRecord
from sweeper.spec.spec import load_spec
from sweeper.tracking.descriptions import SweepLine, experiment_note, image_set_inputs, main_settings, trial_line

SPACES = Path(__file__).parents[3] / "search_spaces"
GOALS = ["clean_accuracy", "robust_accuracy"]


def test_the_main_settings_are_what_a_resumed_sweep_may_not_change() -> None:
    spec = load_spec(SPACES / "quickstart.yaml", [])
    settings = main_settings(spec.resolved())
    assert settings["model"] == "world" and settings["train_set"] == "world" and settings["test_sets"] == "world"
    assert settings["objective"] == "dpo, ipo, kto, cross_entropy" and settings["tune"] == "transform, visual"
    assert "beta" in settings["searched"] and settings["epochs"] == "3"
    more = load_spec(SPACES / "quickstart.yaml", ["search.trials=40", "limits.budget=3cpu-h"])
    assert main_settings(more.resolved()) == settings


def test_weights_are_named_with_the_model() -> None:
    assert main_settings({"model": {"architecture": "ViT-B-32", "pretrained": "openai"}}) == {
        "model": "ViT-B-32:openai"
    }


def test_image_sets_say_what_they_are_used_for_and_change_with_the_data() -> None:
    spec = {
        "sets": {"mine": {"kind": "image_folder"}, "signs": {"kind": "rta100"}},
        "train": {"set": "mine"},
        "evaluate": {"search": {"sets": ["mine"]}, "test": {"sets": ["mine", "signs"]}},
    }
    inputs = image_set_inputs(spec, "digest")
    assert [(given.name, given.kind, given.context) for given in inputs] == [
        ("mine", "image_folder", "training, search, test"),
        ("signs", "rta100", "test"),
    ]
    assert image_set_inputs(spec, "digest") == inputs
    assert all(a.digest != b.digest for a, b in zip(inputs, image_set_inputs(spec, "other"), strict=True))


def test_trials_in_a_line() -> None:
    values = {"clean_accuracy": 0.9381, "robust_accuracy": 0.6133, "text_confusion_rate": 0.2}
    complete = TrialRecord(number=4, state="complete", parameters={}, seed=0, values=values, first_point="middle")
    assert trial_line(complete, GOALS) == (
        "first point (middle), complete: clean accuracy 0.938, robust accuracy 0.613 on validation, last weights at "
        "strength 1"
    )
    failed = TrialRecord(number=5, state="failed", parameters={}, seed=0, reason="out of memory", confirms=4)
    assert trial_line(failed, GOALS) == "trains trial 4 again, failed: out of memory"


def test_the_experiment_lists_its_newest_sweeps_and_links_to_them_in_the_first_line() -> None:
    sweeps = [
        SweepLine(
            name=f"sweep-{number}",
            state="complete",
            hypervolume=0.04,
            links={"sweep": f"/#/runs/{number}", "front": f"/#/front/{number}", "all trials": f"/#/all/{number}"},
        )
        for number in range(40)
    ]
    note = experiment_note(sweeps).splitlines()
    assert "[sweep-0](/#/runs/0) ([front](/#/front/0))" in note[0]
    assert "| [sweep-0](/#/runs/0) | complete | 0.0400 | [front](/#/front/0), [all trials](/#/all/0) |" in note
    assert sum(line.startswith("| [sweep-") for line in note) == 30
    assert experiment_note([]).startswith("Each top-level run is a sweep.")
