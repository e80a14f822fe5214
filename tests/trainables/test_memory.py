"""Out of memory: smaller micro-batches, the same step; and what the background writer of checkpoints promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.tiny import memory_for, parameters
from tests.trainables.training.test_trial import OBJECTIVES, losses_by_step, make_context, one_thread
from trainables.context.trial_context import TrialContext
from trainables.memory import OutOfMemory, in_batches
from trainables.records import Report
from trainables.settings.parameters import Parameters
from trainables.training.checkpoint import CheckpointWriter
from trainables.training.hooks import Hooks
from trainables.training.trial import run_trial
from trainables.training.trial_folder import Superseded, TrialFolder

assert one_thread  # a fixture

VISUAL: dict[str, Any] = {"tune": "visual", "learning_rate": 1e-3}
SCOPES: list[dict[str, Any]] = [
    *({**VISUAL, **objective} for objective in OBJECTIVES),
    {"tune": "last_blocks", "blocks": 1, "learning_rate": 1e-3, "objective": "kto", "beta": 1.0},
]


@torch.no_grad()
def embedded(context: TrialContext, trial: Parameters, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the attacked images: the weights themselves differ where only rounding moves them (biases of keys)."""
    policy = context.policy(trial)
    policy.set_weights(weights)
    embeddings = policy.image_embeddings(context.inputs.whole_view(policy, context.data.pairs.attacked))
    policy.restore()
    return embeddings


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture
def context(cached: Path) -> TrialContext:
    """Has not run out of memory yet."""
    return make_context(cached, "vit", epochs=1)


@pytest.mark.parametrize("choice", SCOPES, ids=lambda choice: f"{choice['tune']}-{choice['objective']}")
def test_smaller_micro_batches_train_the_same(choice: dict[str, Any], context: TrialContext, tmp_path: Path) -> None:
    trial, folder, said = parameters(**choice), TrialFolder(tmp_path / "short"), list[str]()
    whole = run_trial(context, trial, seed=7, folder=TrialFolder(tmp_path / "whole"))
    with memory_for(context, 15) as sizes:  # 16 pairs a step: 32 images, then 16, 8
        result = run_trial(context, trial, seed=7, folder=folder, hooks=Hooks(log=said.append))
    assert max(sizes) <= 15 and [re.findall(r"of (\d+) pairs", line) for line in said] == [["8"], ["4"]]
    for kind in ("last", "averaged"):
        first, second = (
            embedded(context, trial, TrialFolder(tmp_path / name).weights(kind)) for name in ("whole", "short")
        )
        torch.testing.assert_close(second, first, atol=1e-6, rtol=0)
    assert result.values == whole.values
    for step, losses in losses_by_step(TrialFolder(tmp_path / "whole")).items():
        assert losses_by_step(folder)[step] == pytest.approx(losses, abs=1e-6)


def test_what_fitted_is_remembered_for_the_scope(context: TrialContext, tmp_path: Path) -> None:
    trial, said = parameters(**VISUAL), list[str]()
    hooks = Hooks(log=said.append)
    with memory_for(context, 16):
        run_trial(context, trial, seed=7, folder=TrialFolder(tmp_path / "a"), hooks=hooks)
        run_trial(context, trial, seed=8, folder=TrialFolder(tmp_path / "b"), hooks=hooks)
    assert len(said) == 1 and "step 1 of 4: micro-batches of 8 pairs" in said[0]
    assert context.batch_sizes.micro(trial) == 8
    assert context.batch_sizes.micro(parameters(tune="last_blocks", blocks=1)) is None


def test_an_attempt_begins_with_what_an_earlier_one_found(context: TrialContext, tmp_path: Path) -> None:
    folder, said = TrialFolder(tmp_path / "trial"), list[str]()
    folder.claim()
    folder.save_micro_batch_size(3)
    with memory_for(context, 6):
        run_trial(context, parameters(**VISUAL), seed=7, folder=folder, hooks=Hooks(log=said.append))
    assert said == []


def test_one_pair_that_does_not_fit_fails_with_what_to_do(context: TrialContext, tmp_path: Path) -> None:
    with memory_for(context, 1), pytest.raises(OutOfMemory, match="gradient_checkpointing"):
        run_trial(context, parameters(**VISUAL), seed=7, folder=TrialFolder(tmp_path / "trial"))


def test_batches_keep_their_order() -> None:
    def work(rows: torch.Tensor) -> list[int]:
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        return rows.tolist()

    batches, size = in_batches(torch.arange(20), 16, work, "counting rows")
    assert sum(batches, []) == list(range(20)) and size <= 3


def test_checkpoint_holds_the_state_at_its_time(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    folder.claim()
    writer, weights = CheckpointWriter(folder), torch.zeros(1000)
    writer.save({"policy": {"w": weights}, "optimizer": {"state": [{"a": weights}]}, "step": 1})
    weights.fill_(1.0)  # training goes on
    writer.wait()
    state = folder.load_checkpoint()
    assert state is not None and state["step"] == 1
    assert not state["policy"]["w"].any() and not state["optimizer"]["state"][0]["a"].any()


def test_an_error_of_the_background_is_raised_in_the_trial(cached: Path, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)

    def overtaken(report: Report) -> None:
        TrialFolder(tmp_path, attempt=2).claim()

    context = make_context(cached, "vit", epochs=2)
    with pytest.raises(Superseded):
        run_trial(context, parameters(), seed=0, folder=folder, hooks=Hooks(report=overtaken))
    assert max(folder.reports()) == 4
