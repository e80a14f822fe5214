"""Trials on a pretended GPU: every tensor where it belongs, the results of a CPU, and few waits of the host."""

from __future__ import annotations

import linecache
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.pretend_cuda import CUDA, PretendCuda, WrongDevice, supported
from tests.helpers.tiny import TOWERS, parameters, world_task, write_clip
from tests.paths import ROOT
from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.models.concept import Concept
from trainables.models.export import LOGITS_TOLERANCE, export_model, largest_logit_difference
from trainables.models.transform import apply_transform, penalty
from trainables.numerics import thread_count
from trainables.records import Report, TrialResult
from trainables.settings.attribute import AttributeSettings
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.tasks.known import open_context
from trainables.training.averaging import BetaAverage
from trainables.training.hooks import Hooks, TrialInterrupted
from trainables.training.objectives import dpo, preference_loss
from trainables.training.tensor_files import checksum
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

pytestmark = pytest.mark.skipif(not supported(), reason=f"torch {torch.__version__} has other private names")

CPU = torch.device("cpu")
ROOMY_BYTES, NO_ROOM_BYTES = 2**34, 2**10
"""Free memory of the GPU that holds all images and activations, and one in which none are kept."""
STEPS = 8
WAITS_PER_STEP = 1
"""The host reads the loss, whatever the number of micro-batches."""


@dataclass(frozen=True)
class Case:
    """A trial of one epoch; see ``tiny.parameters`` and ``settings.task.TrainingSettings``."""

    name: str
    parameters: dict[str, Any]
    tower: str = "vit"
    training: dict[str, Any] = field(default_factory=dict)
    free_bytes: int = ROOMY_BYTES
    attribute: bool = False

    def task(self, folder: Path) -> TaskSettings:
        training = {"epochs": 1, "global_batch_size": 8, "micro_batch_size": None, **self.training}
        task = world_task(folder / self.tower, precision="fp32", **training)
        if not self.attribute:
            return task
        given = task.model_dump(mode="json", include={"model", "sets", "training"})
        measured = {"search": {"sets": ["world"]}, "front": {"strengths": [0.5, 1.0]}, "test": {"sets": ["world"]}}
        own = {"attribute": {"name": "colour", "top": 10}, "train": {"set": "world", "classes": 0.5}}
        return AttributeSettings.model_validate({"task": "attribute", **given, **own, "evaluate": measured})


CASES = [
    Case("transform", {"tune": "transform"}),
    Case("residual", {"tune": "transform", "form": "residual", "rank": 4, "penalty": 0.1}, "resnet"),
    Case("last_blocks", {"tune": "last_blocks", "blocks": 1}),
    Case(
        "no-room",
        {"tune": "last_blocks", "blocks": 1, "objective": "ipo", "beta": 0.1},
        training={"micro_batch_size": 3},
        free_bytes=NO_ROOM_BYTES,
    ),
    Case(
        "kto",
        {"tune": "visual", "learning_rate": 1e-3, "objective": "kto"},
        training={"micro_batch_size": 3, "gradient_checkpointing": True},
    ),
    Case(
        "cross_entropy",
        {"tune": "visual", "learning_rate": 1e-3, "objective": "cross_entropy"},
        "resnet",
        {"optimizer": "adamw"},
        free_bytes=NO_ROOM_BYTES,
    ),
    Case("all", {"tune": "all", "learning_rate": 1e-3}),
    Case("visual", {"tune": "visual", "learning_rate": 1e-3, "objective": "ipo", "beta": 0.1}, "resnet"),
    Case(
        "attribute",
        {"tune": "transform", "objective": None, "beta": None, "target": "equal"},
        training={"micro_batch_size": 3},
        attribute=True,
    ),
]


@dataclass(frozen=True)
class Finished:
    """What a case gave on the pretended GPU and on the CPU."""

    result: TrialResult
    on_cpu: TrialResult
    reports: dict[int, Report]
    reports_on_cpu: dict[int, Report]
    waits: list[Counter[tuple[str, str]]]
    """Of a step before the trial was interrupted, and of one after it was resumed."""
    waits_of_threads: Counter[tuple[str, str]]
    """Of the threads that the trial started."""
    test: dict[str, float]
    test_on_cpu: dict[str, float]
    logit_gap: float
    """Largest difference between the exported point and the policy."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and one cache for the images of all cases."""
    shared = tmp_path_factory.mktemp("placement")
    for tower in TOWERS:
        write_clip(shared / tower, tower)
    return shared


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def finished(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A case: interrupted in step 3, resumed, evaluated at a rung, finished; then measured on test and exported."""
    case: Case = request.param
    chosen, own, begun = parameters(**case.parameters), tmp_path_factory.mktemp(case.name), [Counter[Any]()]
    with thread_count(1):
        with PretendCuda(case.free_bytes) as cuda:
            context = open_on(CUDA, case, folder)

            def step_begins() -> bool:
                begun.append(cuda.waits.copy())
                return len(begun) == 4

            hooks = Hooks(interrupted=step_begins)
            with pytest.raises(TrialInterrupted):
                run_trial(context, chosen, seed=0, folder=TrialFolder(own / "gpu"), hooks=hooks, rungs=(0.5,))
            resumed = TrialFolder(own / "gpu", attempt=2)
            result = run_trial(context, chosen, seed=0, folder=resumed, hooks=hooks, rungs=(0.5,))
            weights = resumed.weights("averaged")
            test = on_test(context, chosen, weights, own / "gpu.csv.gz")
            logit_gap = exported(context, chosen, weights, own / "model")
        assert len(begun) == STEPS + 1
        at_home = open_on(CPU, case, folder)
        undisturbed = TrialFolder(own / "cpu")
        on_cpu = run_trial(at_home, chosen, seed=0, folder=undisturbed, rungs=(0.5,))
        test_on_cpu = on_test(at_home, chosen, weights, own / "cpu.csv.gz")
    return Finished(
        result=result,
        on_cpu=on_cpu,
        reports=resumed.reports(),
        reports_on_cpu=undisturbed.reports(),
        waits=[begun[step + 1] - begun[step] for step in (2, 6)],
        waits_of_threads=cuda.waits_of_threads,
        test=test,
        test_on_cpu=test_on_cpu,
        logit_gap=logit_gap,
    )


def open_on(device: torch.device, case: Case, folder: Path) -> TrialContext:
    return open_context(case.task(folder), data_seed=0, cache=folder / "cache", device=device)


def on_test(context: TrialContext, chosen: Parameters, weights: dict[str, Tensor], answers: Path) -> dict[str, float]:
    """Return the test values of weights at the strength .5."""
    policy, group = context.policy(chosen), WorkerGroup(device=context.device)
    policy.set_weights(weights, 0.5)
    measured = context.measures.test(context, policy, group, variants=False, answers=answers)
    context.release(policy)
    return measured.values


def exported(context: TrialContext, chosen: Parameters, weights: dict[str, Tensor], target: Path) -> float:
    """Export weights at the strength .5 and return by how much the logits of the folder differ."""
    clip, policy = context.clip, context.policy(chosen)
    export_model(clip, policy, weights, 0.5, target)
    images, text = context.data.searched_views()[0].images[:8], clip.tokens(["a red circle", "a blue square"])
    return largest_logit_difference(clip, policy, weights, 0.5, target, images, text)


def test_a_trial_gives_what_it_gives_on_a_cpu(finished: Finished) -> None:
    assert list(finished.reports) == list(finished.reports_on_cpu) == [STEPS // 2, STEPS]
    for step, report in finished.reports.items():
        on_cpu = finished.reports_on_cpu[step]
        # Adamax's first steps have the size of the learning rate whatever the gradient: rounding differences grow.
        assert report.preference_loss == pytest.approx(on_cpu.preference_loss, rel=0.1, abs=1e-3)
        assert report.reference_kl == pytest.approx(on_cpu.reference_kl, rel=0.1, abs=1e-3)
    assert finished.result.values == pytest.approx(finished.on_cpu.values, abs=0.02)
    assert [point.strength for point in finished.result.points] == [point.strength for point in finished.on_cpu.points]
    for point, same in zip(finished.result.points, finished.on_cpu.points, strict=True):
        assert point.values == pytest.approx(same.values, abs=0.02)


def test_a_point_is_measured_on_test_and_exported_as_on_a_cpu(finished: Finished) -> None:
    assert finished.test == pytest.approx(finished.test_on_cpu, abs=0.02)
    assert finished.logit_gap < LOGITS_TOLERANCE


def test_the_host_waits_no_more_than_once_in_a_step(finished: Finished) -> None:
    for step, waits in zip(("before", "after"), finished.waits, strict=True):
        lines = [f"{count} x {kind} at {line}" for (kind, line), count in waits.most_common()]
        assert waits.total() <= WAITS_PER_STEP, "\n".join([f"{step} the resume", *lines])


def test_a_thread_that_feeds_the_gpu_copies_from_pinned_memory(finished: Finished) -> None:
    """Other copies wait, and are made one after the other with the work of the GPU."""
    assert not [place for kind, place in finished.waits_of_threads if kind == "H2D pageable"]


def test_a_trial_with_labels_on_the_host_fails_and_names_the_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(chosen: Parameters, policy: Tensor, reference: Tensor, *labels: Tensor, **more: Any) -> Tensor:
        return preference_loss(chosen, policy, reference, *(of_pairs.cpu() for of_pairs in labels), **more)

    monkeypatch.setattr("trainables.training.trial.preference_loss", forgetful)
    with PretendCuda(), pytest.raises(WrongDevice, match="gather") as raised:
        context = open_on(CUDA, CASES[0], folder)
        run_trial(context, parameters(tune="transform"), seed=0, folder=TrialFolder(tmp_path))
    assert line_named_by(raised.value) == "return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)"


def labels_on_the_host() -> None:
    logits, labels = torch.randn(3, 4, device=CUDA), torch.tensor([0, 1, 2])
    dpo(logits, logits, labels, labels, beta=1.0)


def weights_on_the_host() -> None:
    apply_transform(torch.eye(4), torch.randn(3, 4, device=CUDA))


def average_on_the_host() -> None:
    BetaAverage({"w": torch.eye(4)}, steps=2).update({"w": torch.eye(4, device=CUDA)})


def array_of_a_gpu_tensor() -> None:
    checksum({"w": torch.eye(4, device=CUDA)})


@pytest.mark.parametrize(
    ("fault", "error", "line"),
    [
        (labels_on_the_host, WrongDevice, "return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)"),
        (weights_on_the_host, WrongDevice, "return F.normalize(embeddings @ w.T, dim=-1)"),
        (average_on_the_host, WrongDevice, "torch._foreach_lerp_("),
        (array_of_a_gpu_tensor, TypeError, ".numpy()"),
    ],
    ids=["labels", "weights", "average", "array"],
)
def test_a_fault_is_named_by_its_line(fault: Callable[[], None], error: type[Exception], line: str) -> None:
    with PretendCuda(), pytest.raises(error) as raised:
        fault()
    assert line in line_named_by(raised.value)


def test_a_matrix_that_is_made_without_a_device_is_named_by_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.eye
    monkeypatch.setattr(torch, "eye", lambda size, device=None, dtype=None: real(size, dtype=dtype))
    with PretendCuda(), pytest.raises(WrongDevice) as raised:
        penalty(torch.randn(4, 4).to(CUDA))
    assert "torch.eye(len(w)" in line_named_by(raised.value)


def test_a_wait_is_named_by_its_line() -> None:
    with PretendCuda() as cuda:
        concept = Concept(*torch.randn(2, 3, 2, 4).to(CUDA))
        cuda.waits.clear()
        assert concept.image_direction.device == CUDA
    ((kind, place),) = cuda.waits
    assert kind == "read: size of a mask" and "halves[halves.isfinite()" in source_of(f"trainables/models/{place}")


def line_named_by(error: Exception) -> str:
    """Return the line of the project that a message names."""
    named = re.search(r"called by (\S+:\d+)", str(error))
    assert named is not None, error
    return source_of(named[1])


def source_of(place: str) -> str:
    path, _, number = place.rpartition(":")
    return linecache.getline(str(ROOT / path), int(number)).strip()
