"""One trial: starts at the reference, repeats to the bit, resumes to the same result, splits over workers."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.helpers.tiny import parameters, world_task, write_clip
from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.records import Report, TrialResult
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.tasks.known import open_context
from trainables.training.hooks import Hooks, NonFiniteLoss, TrialInterrupted
from trainables.training.trial import run_trial
from trainables.training.trial_folder import Superseded, TrialFolder

CPU = torch.device("cpu")
SCOPES: list[dict[str, Any]] = [
    {"tune": "transform"},
    {"tune": "transform", "rank": 8, "penalty": 0.01},
    {"tune": "last_blocks", "blocks": 1},
    {"tune": "visual"},
    {"tune": "all"},
]
OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "dpo", "beta": 1.0},
    {"objective": "ipo", "beta": 0.1},
    {"objective": "kto", "beta": 1.0},
    {"objective": "cross_entropy"},
    {"objective": "examples.objectives:simpo", "beta": 1.0, "gamma": 1.0},
]


@pytest.fixture(scope="module", params=["vit", "resnet"])
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    return make_context(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_context(folder: Path, tower: str, **training: Any) -> TrialContext:
    task = world_task(write_clip(folder / "model", tower), **training)
    return open_context(task, data_seed=0, cache=folder / "cache", device=CPU)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {**TrialFolder(folder).weights("last"), **TrialFolder(folder).weights("averaged")}


def losses_by_step(folder: TrialFolder) -> dict[int, tuple[float | None, ...]]:
    """Loss, preference loss and reference KL."""
    reports = folder.reports()
    return {step: (report.loss, report.preference_loss, report.reference_kl) for step, report in reports.items()}


def without_times(result: TrialResult) -> TrialResult:
    return replace(result, train_s=0.0, evaluation_s=0.0, checkpoint_s=0.0)


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: "-".join(map(str, scope.values())))
def test_policy_starts_as_the_reference(context: TrialContext, scope: dict[str, Any]) -> None:
    policy = context.policy(parameters(**scope))
    pairs = context.data.pairs
    names, templates = pairs.images.class_names, pairs.images.templates
    with torch.no_grad():
        logits = policy(
            context.inputs.whole_view(policy, pairs.clean), context.inputs.prompts(policy, names, templates)
        )
    policy.restore()
    text = context.reference.text_embeddings(names, templates)
    reference = context.reference.logits(context.reference.embeddings(pairs.clean), text)
    if scope.get("rank") is None:
        torch.testing.assert_close(logits, reference, atol=2e-4, rtol=0)
    else:  # below full rank W keeps the main directions only
        assert (logits - reference).abs().max() > 1e-3


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: "-".join(map(str, scope.values())))
def test_training_changes_the_scope_and_nothing_else(
    context: TrialContext, scope: dict[str, Any], tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in context.clip.model.state_dict().items()}
    result = run_trial(context, parameters(**scope), seed=1, folder=TrialFolder(tmp_path))
    after = context.clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the process's CLIP is put back"
    trained = TrialFolder(tmp_path).weights("last")
    policy = context.policy(parameters(**scope))
    reference = {name: value.detach().clone() for name, value in policy.tuned().items()}
    policy.restore()
    assert set(trained) == set(reference)
    assert any(not torch.equal(trained[name], reference[name]) for name in trained)
    assert [(point.weights, point.strength) for point in result.points] == [
        ("last", 1.0),
        ("last", 0.5),
        ("averaged", 1.0),
    ]


@pytest.mark.parametrize("scope", [SCOPES[1], SCOPES[2], SCOPES[3]], ids=["transform", "last_blocks", "visual"])
def test_repeats_to_the_bit(context: TrialContext, scope: dict[str, Any], tmp_path: Path) -> None:
    results = [run_trial(context, parameters(**scope), seed=3, folder=TrialFolder(tmp_path / name)) for name in "ab"]
    assert without_times(results[0]) == without_times(results[1])
    first, second = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = run_trial(context, parameters(**scope), seed=4, folder=TrialFolder(tmp_path / "c"))
    assert without_times(other) != without_times(results[0]) or not all(
        torch.equal(first[name], tensor) for name, tensor in tensors(tmp_path / "c").items()
    )


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7], ids=lambda step: f"step{step}")
@pytest.mark.parametrize("scope", [SCOPES[0], SCOPES[3]], ids=["transform", "visual"])
def test_resumes_to_the_result_of_an_undisturbed_trial(
    context: TrialContext, scope: dict[str, Any], stop_at: int, tmp_path: Path
) -> None:
    whole = run_trial(context, parameters(**scope), seed=5, folder=TrialFolder(tmp_path / "whole"))
    steps = 0

    def interrupted() -> bool:
        nonlocal steps
        steps += 1
        return steps == stop_at

    folder = tmp_path / "stopped"
    with pytest.raises(TrialInterrupted):
        run_trial(
            context, parameters(**scope), seed=5, folder=TrialFolder(folder), hooks=Hooks(interrupted=interrupted)
        )
    assert not (folder / "result.json").exists()
    resumed = run_trial(context, parameters(**scope), seed=5, folder=TrialFolder(folder, attempt=2))
    assert without_times(resumed) == without_times(whole)
    first, second = tensors(tmp_path / "whole"), tensors(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (folder / "checkpoint.pt").exists(), "no optimiser state once finished"


class Killed(BaseException):
    pass


def test_a_trial_killed_after_its_checkpoint_repeats_the_steps_and_their_lines(
    context: TrialContext, tmp_path: Path
) -> None:
    """Checkpoints come once a minute; evaluations wait for none."""
    whole = run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path / "whole"))
    folder, asked = tmp_path / "killed", iter(range(1, 100))

    def attempt(number: int, hooks: Hooks) -> TrialResult:
        return run_trial(context, parameters(), seed=5, folder=TrialFolder(folder, attempt=number), hooks=hooks)

    def die(report: Report) -> None:
        if report.step == 8:
            raise Killed

    with pytest.raises(TrialInterrupted):
        attempt(1, Hooks(interrupted=lambda: next(asked) == 3))
    with pytest.raises(Killed):
        attempt(2, Hooks(report=die))
    known = TrialFolder(folder).reports()
    state = TrialFolder(folder).load_checkpoint()
    assert list(known) == [4, 8] and state is not None and state["step"] == 3
    steps = list[list[int]]()
    resumed = attempt(3, Hooks(report=lambda report: steps.append(list(TrialFolder(folder).reports()))))
    assert steps == [[4], [4, 8]], "the trial is no further than it is now"
    assert without_times(resumed) == without_times(whole)
    repeated = TrialFolder(folder).reports()
    assert [repeated[step].time_s for step in (4, 8)] == [known[step].time_s for step in (4, 8)]
    first, second = tensors(tmp_path / "whole"), tensors(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_cut_off_metric_line_is_written_again(context: TrialContext, tmp_path: Path) -> None:
    whole = run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path / "whole"))

    def die(report: Report) -> None:
        raise Killed

    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        run_trial(context, parameters(), seed=5, folder=TrialFolder(folder), hooks=Hooks(report=die))
    (folder / "metrics.jsonl").write_text('{"step": 4, "clean_acc')
    resumed = run_trial(context, parameters(), seed=5, folder=TrialFolder(folder, attempt=2))
    assert without_times(resumed) == without_times(whole)
    assert sorted(TrialFolder(folder).reports()) == [4, 8]


def test_the_answers_of_every_point_are_kept_also_where_the_last_evaluation_is_recalled(
    context: TrialContext, tmp_path: Path
) -> None:
    whole = run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path / "whole"))

    class Killed(BaseException):
        pass

    def die_at_the_end(report: Report) -> None:
        if report.step == report.steps:
            raise Killed

    killed = TrialFolder(tmp_path / "killed")
    with pytest.raises(Killed):
        run_trial(context, parameters(), seed=5, folder=killed, hooks=Hooks(report=die_at_the_end))
    assert killed.hits() is None
    run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path / "killed", attempt=2))
    for folder in (TrialFolder(tmp_path / "whole"), killed):
        hits = folder.hits()
        assert hits is not None and set(hits) == {"clean_accuracy", "robust_accuracy"}
        for goal, of_sets in hits.items():
            means = np.mean([of_set.mean(1) for of_set in of_sets], axis=0)
            assert means == pytest.approx([point.values[goal] for point in whole.points])


@pytest.mark.parametrize("scope", [SCOPES[0], SCOPES[3]], ids=["transform", "visual"])
def test_evaluating_at_rungs_changes_nothing_but_the_lines(
    context: TrialContext, scope: dict[str, Any], tmp_path: Path
) -> None:
    plain = run_trial(context, parameters(**scope), seed=5, folder=TrialFolder(tmp_path / "plain"))
    reports: list[Report] = []
    evaluated = run_trial(
        context,
        parameters(**scope),
        seed=5,
        folder=TrialFolder(tmp_path / "evaluated"),
        hooks=Hooks(report=reports.append),
        rungs=(1 / 9, 1 / 3, 0.5, 0.99),  # of 8 steps: 1, 3, 4 (the end of an epoch), and the last one is none
    )
    assert without_times(evaluated) == without_times(plain)
    assert [(report.step, report.epoch, report.rung) for report in reports] == [
        (1, 0.25, True),
        (3, 0.75, True),
        (4, 1.0, True),
        (8, 2.0, False),
    ]
    assert list(TrialFolder(tmp_path / "evaluated").reports()) == [1, 3, 4, 8]


def test_a_trial_stopped_at_a_rung_goes_on_from_there_and_says_it_again(context: TrialContext, tmp_path: Path) -> None:
    whole = run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path / "whole"), rungs=(1 / 3,))

    class Stopped(Exception):
        pass

    def stop(report: Report) -> None:
        raise Stopped

    folder, steps = tmp_path / "stopped", list[int]()
    with pytest.raises(Stopped):
        run_trial(context, parameters(), seed=5, folder=TrialFolder(folder), hooks=Hooks(report=stop), rungs=(1 / 3,))
    assert list(TrialFolder(folder).reports()) == [3] and not (folder / "result.json").exists()
    again = Hooks(report=lambda report: steps.append(report.step))
    resumed = run_trial(
        context, parameters(), seed=5, folder=TrialFolder(folder, attempt=2), hooks=again, rungs=(1 / 3,)
    )
    assert steps == [3, 4, 8]
    assert without_times(resumed) == without_times(whole)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [(1, 0.25, True), (2, 0.5, True), (4, 1.0, False)]),
        (3, [(2, 0.5, True), (4, 1.0, True), (8, 2.0, False), (12, 3.0, False)]),
    ],
)
def test_a_trial_has_its_own_epochs_and_rungs_at_shares_of_its_own_steps(
    context: TrialContext, epochs: int, expected: list[tuple[int, float, bool]], tmp_path: Path
) -> None:
    """The task says two epochs of four steps."""
    reports: list[Report] = []
    result = run_trial(
        context,
        parameters(epochs=epochs),
        seed=5,
        folder=TrialFolder(tmp_path),
        hooks=Hooks(report=reports.append),
        rungs=(1 / 9, 1 / 3),
    )
    assert [(report.step, report.epoch, report.rung) for report in reports] == expected
    assert {(report.steps, report.epochs) for report in reports} == {(4 * epochs, epochs)}
    assert [report.progress for report in reports] == [step / (4 * epochs) for step, _, _ in expected]
    assert result.epochs == epochs


@pytest.mark.parametrize("epochs", [2, 3])
def test_epochs_of_the_trial_are_as_those_of_the_task(epochs: int, tmp_path: Path) -> None:
    """Order of the images, warm-up, schedule and Beta average included: to the bit."""
    own = make_context(tmp_path / "own", "vit", warmup_share=0.3)
    of_task = make_context(tmp_path / "task", "vit", warmup_share=0.3, epochs=epochs)
    run_trial(own, parameters(epochs=epochs), seed=5, folder=TrialFolder(tmp_path / "a"))
    run_trial(of_task, parameters(), seed=5, folder=TrialFolder(tmp_path / "b"))
    first, second = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = [list(TrialFolder(tmp_path / name).reports().values()) for name in "ab"]
    times = {"train_s": 0.0, "evaluation_s": 0.0, "time_s": 0.0}
    assert [replace(line, **times) for line in lines[0]] == [replace(line, **times) for line in lines[1]]


def test_a_trial_of_its_own_length_resumes_to_that_length(context: TrialContext, tmp_path: Path) -> None:
    whole = run_trial(context, parameters(epochs=3), seed=5, folder=TrialFolder(tmp_path / "whole"))
    asked = iter(range(1, 100))
    hooks = Hooks(interrupted=lambda: next(asked) == 10)  # after the task's two epochs
    folder = tmp_path / "stopped"
    with pytest.raises(TrialInterrupted, match="step 10 of 12"):
        run_trial(context, parameters(epochs=3), seed=5, folder=TrialFolder(folder), hooks=hooks)
    resumed = run_trial(context, parameters(epochs=3), seed=5, folder=TrialFolder(folder, attempt=2))
    assert without_times(resumed) == without_times(whole)
    assert list(TrialFolder(folder).reports()) == [4, 8, 12]
    first, second = tensors(tmp_path / "whole"), tensors(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_finished_trial_is_not_trained_again(context: TrialContext, tmp_path: Path) -> None:
    result = run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path))
    reports: list[Report] = []
    hooks = Hooks(report=reports.append)
    again = run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path, attempt=2), hooks=hooks)
    assert again == result and reports == []


def test_older_attempt_cannot_write(context: TrialContext, tmp_path: Path) -> None:
    TrialFolder(tmp_path, attempt=2).claim()
    with pytest.raises(Superseded):
        run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path, attempt=1))


def test_a_loss_that_is_not_finite_ends_the_trial(context: TrialContext, tmp_path: Path) -> None:
    wild = parameters(objective="ipo", beta=1e-38, learning_rate=1e30)
    with pytest.raises(NonFiniteLoss, match="step 1 of 8"):
        run_trial(context, wild, seed=0, folder=TrialFolder(tmp_path))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective["objective"])
def test_micro_batches_do_not_change_the_loss(objective: dict[str, Any], tmp_path: Path) -> None:
    losses = []
    for name, micro in (("whole", None), ("micro", 3)):
        context = make_context(tmp_path / name, "vit", micro_batch_size=micro)
        run_trial(
            context, parameters(tune="visual", **objective), seed=7, folder=TrialFolder(tmp_path / name / "trial")
        )
        losses.append(losses_by_step(TrialFolder(tmp_path / name / "trial")))
    for step in (4, 8):
        assert losses[1][step] == pytest.approx(losses[0][step], rel=2e-4, abs=1e-6)


def test_after_the_host_ran_out_of_memory_micro_batches_are_half_as_large_and_the_loss_is_the_same(
    tmp_path: Path,
) -> None:
    losses, logged = [], list[str]()
    for name, ran_out in (("whole", False), ("halved", True)):
        context = make_context(tmp_path / name, "vit")
        folder = TrialFolder(tmp_path / name / "trial")
        trial = parameters(tune="visual", objective="dpo", beta=1.0)
        run_trial(context, trial, seed=7, folder=folder, hooks=Hooks(log=logged.append), after_out_of_memory=ran_out)
        losses.append(losses_by_step(folder))
        half = math.ceil(context.task.training.global_batch_size / 2)
        assert folder.micro_batch_size() == (half if ran_out else None)
    assert any("the machine ran out of memory: micro-batches of" in line for line in logged)
    for step in (4, 8):
        assert losses[1][step] == pytest.approx(losses[0][step], rel=2e-4, abs=1e-6)


@pytest.mark.drill
def test_two_workers_train_as_one(tmp_path: Path) -> None:
    context = make_context(tmp_path, "vit")
    trials = [parameters(tune="visual", learning_rate=1e-3, **objective) for objective in OBJECTIVES]
    for trial in trials:
        run_trial(context, trial, seed=7, folder=TrialFolder(tmp_path / "one" / trial.objective))
    mp.spawn(_worker, args=(free_port(), tmp_path, context.task, trials), nprocs=2)
    start = {name: value.detach().clone() for name, value in context.policy(trials[0]).tuned().items()}
    for trial in trials:
        alone, group = (TrialFolder(tmp_path / name / trial.objective) for name in ("one", "two"))
        for step in (4, 8):
            assert losses_by_step(group)[step] == pytest.approx(losses_by_step(alone)[step], rel=5e-4, abs=1e-6)
        first, second = alone.weights("last"), group.weights("last")
        moved = sum((first[name] - start[name]).square().sum() for name in first)
        apart = sum((first[name] - second[name]).square().sum() for name in first)
        assert apart < 1e-2 * moved, trial.objective


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _worker(rank: int, port: int, folder: Path, task: TaskSettings, trials: list[Parameters]) -> None:
    torch.set_num_threads(1)
    address, patience = f"tcp://127.0.0.1:{port}", timedelta(minutes=3)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=patience)
    context = open_context(task, data_seed=0, cache=folder / "cache", device=CPU)
    group = WorkerGroup(rank=rank, world_size=2, device=CPU)
    for trial in trials:
        run_trial(context, trial, seed=7, folder=TrialFolder(folder / "two" / trial.objective), group=group)
    dist.destroy_process_group()


def test_rank_and_blocks_beyond_the_model_are_refused(context: TrialContext, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank 25 is above the embedding width 24"):
        run_trial(context, parameters(rank=25), seed=0, folder=TrialFolder(tmp_path))
    with pytest.raises(ValueError, match="blocks: 9"):
        run_trial(context, parameters(tune="last_blocks", blocks=9), seed=0, folder=TrialFolder(tmp_path))
