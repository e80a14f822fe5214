"""Trials whose objective is a function of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny import parameters, world_task, write_clip
from trainables.__main__ import main
from trainables.context.trial_context import TrialContext
from trainables.own_code import find_module
from trainables.tasks.known import open_context
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

CONSERVATIVE = "examples.objectives:conservative_dpo"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    folder = tmp_path_factory.mktemp("own")
    task = world_task(write_clip(folder / "model", "vit"))
    return open_context(task, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))


def trained(context: TrialContext, folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    result = run_trial(context, parameters(**changes), seed=3, folder=TrialFolder(folder))
    assert result.epochs == 2
    return TrialFolder(folder).weights("last")


def test_conservative_dpo_trains_as_the_built_in_one_with_label_smoothing(
    context: TrialContext, tmp_path: Path
) -> None:
    ours = trained(context, tmp_path / "own", objective=CONSERVATIVE, beta=0.7, label_smoothing=0.2)
    built_in = trained(context, tmp_path / "dpo", objective="dpo", beta=0.7, label_smoothing=0.2)
    plain = trained(context, tmp_path / "plain", objective="dpo", beta=0.7)
    torch.testing.assert_close(ours, built_in, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours["w"], plain["w"], atol=1e-4)


def test_beta_may_be_relative_to_the_margin_of_the_untouched_model(context: TrialContext, tmp_path: Path) -> None:
    margin = context.mean_margin()
    if margin <= 0:  # the sign of an untrained model's margin is chance
        with pytest.raises(ValueError, match="give `beta` itself"):
            trained(context, tmp_path, objective=CONSERVATIVE, beta=None, beta_m0=0.5, label_smoothing=0.1)
        return
    relative = trained(context, tmp_path / "m0", objective=CONSERVATIVE, beta=None, beta_m0=0.5, label_smoothing=0.1)
    beta = trained(context, tmp_path / "beta", objective=CONSERVATIVE, beta=0.5 / margin, label_smoothing=0.1)
    torch.testing.assert_close(relative, beta)


def test_parameters_of_its_own_change_the_training(context: TrialContext, tmp_path: Path) -> None:
    own = {"objective": "examples.objectives:slic_hinge", "beta": None}
    near, far = (trained(context, tmp_path / str(delta), delta=delta, **own) for delta in (0.01, 20.0))
    assert not torch.allclose(near["w"], far["w"], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "examples.objectives:simpo"}, "examples.objectives:simpo needs `gamma`, which has no value"),
        ({"objective": "examples.objectives:simpo", "beta": None, "gamma": 1.0}, "needs `beta`"),
        (
            {"objective": CONSERVATIVE, "label_smoothing": 0.1, "gamma": 1.0},
            "has no `gamma`; its parameters: beta, label_",
        ),
        ({"objective": "examples.objectives:slic_hinge", "delta": 1.0}, "has no `beta`; its parameters: delta"),
        ({"objective": "examples.objectives:nothing"}, "examples.objectives has no function nothing"),
        ({"objective": "no_such_module:loss"}, "no_such_module:loss: the module cannot be imported"),
        ({"objective": "dpo", "gamma": 1.0}, "objective dpo has no `gamma`"),
        ({"objective": "examples-objectives:simpo"}, "is no function of the form package.module:function"),
        ({"objective": CONSERVATIVE, "target": "neutral"}, "target neutral has no loss with objective examples."),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    context: TrialContext, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_trial(context, parameters(**changes), seed=0, folder=TrialFolder(tmp_path))
    assert not TrialFolder(tmp_path).reports()


def test_one_trial_alone_names_its_loss_and_refuses_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"alone_{tmp_path.name.replace('-', '_')}"
    margin = "(p.gather(1, c[:, None]) - p.gather(1, w[:, None]))[:, 0]"
    source = f"def loss(p, r, c, w, *, delta):\n    return (delta - {margin})"
    (tmp_path / f"{name}.py").write_text(source + ".clamp(min=0)\n")
    task = world_task(write_clip(tmp_path / "model", "vit"), epochs=1).model_dump(mode="json", by_alias=True)
    task["code"] = {name: find_module(name).digest}
    given = {"objective": f"{name}:loss", "delta": 2.0, "tune": "transform", "learning_rate": 0.01}
    (tmp_path / "trial.json").write_text(json.dumps({"task": task, "parameters": given}))
    assert main(["trial.json", "--output", "one", "--device", "cpu"]) == 0
    assert "robust_accuracy" in json.loads(capsys.readouterr().out)["test"]
    assert main(["trial.json", "--output", "two", "--device", "cpu", "--set", "delta=.inf"]) == 2
    assert "delta" in capsys.readouterr().err
    (tmp_path / f"{name}.py").write_text(source + ".square()\n")
    assert main(["trial.json", "--output", "three", "--device", "cpu"]) == 2
    assert f"code digest of {name} was" in capsys.readouterr().err and not (tmp_path / "three").exists()
