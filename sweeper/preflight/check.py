"""``sweeper check``: everything that a sweep needs, tested before a GPU is used."""

from __future__ import annotations

import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from sweeper.errors import UnavailableError, UserError
from sweeper.front.second_look import look_text
from sweeper.run.chance import check_chance
from sweeper.run.memory_text import memory_line
from sweeper.run.resources import plan_slots
from sweeper.run.usage import check_device, new_session
from sweeper.spec.quantities import parse_budget
from sweeper.spec.scopes import largest_scope
from sweeper.spec.set_checks import set_notes
from sweeper.spec.spec import Spec
from trainables.records import MemoryNeed
from trainables.settings.sets import Split
from trainables.settings.task import Expectation, split_of

if TYPE_CHECKING:
    from sweeper.execution.capacity import SlotPlan
    from trainables.context.trial_context import TrialContext
    from trainables.models.clip import Clip

CONNECT_S = 3.0
EXPECT_IMAGES = 4000
"""Largest number of images for ``model.expect``, which is measured before a GPU is used."""
LEAST_FREE_BYTES = 2 * 2**30
NODE_S = 600.0
"""Longest time for a node to load the model and to list the images."""


def check_sweep(
    spec: Spec,
    storage: Path,
    *,
    gpus: float | None,
    address: str | None,
    tracking_uri: str | None,
    echo: Callable[[str], None],
) -> list[UserError | UnavailableError]:
    """Echo a line for each check. Return all problems that would prevent the sweep."""
    echo(f"spec: {spec.name}, {spec.search.trials} trials, seed {spec.search.seed}")
    for note in [*spec.notes, *set_notes(spec.sets)]:
        echo(note)
    needs: list[MemoryNeed] = []
    return [
        *check_places(storage, tracking_uri, echo),
        *_model_and_image_problems(spec, echo, needs.append),
        *_problems(lambda: _check_capacity(spec, gpus, address, storage, needs, echo)),
    ]


def check_places(
    storage: Path, tracking_uri: str | None, echo: Callable[[str], None]
) -> list[UserError | UnavailableError]:
    """Do the part of ``check_sweep`` that needs no spec."""
    return [
        *_problems(lambda: _check_storage(storage, echo)),
        *_problems(lambda: _check_tracker(storage, tracking_uri, echo)),
    ]


def _model_and_image_problems(
    spec: Spec, echo: Callable[[str], None], measured: Callable[[MemoryNeed], None]
) -> list[UserError | UnavailableError]:
    """Return the problems of model and images; ``measured`` gets the memory that a worker on this CPU needs.

    If the model cannot be loaded, no image is prepared for it, but the sets are read as far as possible.
    """
    problems = _problems(lambda: check_model_and_images(spec, echo, measured))
    if problems:
        told = {str(problem) for problem in problems}
        problems += [problem for problem in _listing_problems(spec, echo) if str(problem) not in told]
    return problems


def _listing_problems(spec: Spec, echo: Callable[[str], None]) -> list[UserError | UnavailableError]:
    from trainables.data.readers.kinds import list_images

    def check(name: str, split: Split) -> None:
        try:
            listing = list_images(name, spec.sets[name], split)
        except ValueError as error:
            raise UserError(str(error)) from error
        echo(f"{name}/{split}: {len(listing.keys)} images of {len(listing.class_names)} classes, not opened")

    return [problem for name, split in _splits(spec) for problem in _problems(partial(check, name, split))]


def _problems(check: Callable[[], None]) -> list[UserError | UnavailableError]:
    try:
        check()
    except (UserError, UnavailableError) as error:
        return [error]
    return []


def check_writable(storage: Path) -> Path:
    """Return the folder that exists: the storage or a folder above it.

    Raises:
        UnavailableError: it is read-only.
    """
    existing = next(path for path in (storage, *storage.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise UnavailableError(f"storage {storage}: {existing} cannot be written to; name another with --storage")
    return existing


def _check_storage(storage: Path, echo: Callable[[str], None]) -> None:
    parent = check_writable(storage)
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < LEAST_FREE_BYTES:
        raise UnavailableError(
            f"storage {storage}: only {free_bytes / 2**30:.1f} GiB free; name another with --storage"
        )
    echo(f"storage: {storage}, {free_bytes / 2**30:.0f} GiB free")


def _check_tracker(storage: Path, tracking_uri: str | None, echo: Callable[[str], None]) -> None:
    from sweeper.tracking.runs import find_store

    store = find_store(storage, tracking_uri)
    if store.is_server:
        parts = urlsplit(store.uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
        except OSError as error:
            raise UnavailableError(f"MLflow does not answer at {store.shown_uri}: {error}") from error
    echo(f"MLflow: {store.shown_uri}")


def refuse_early(gpus: float | None, address: str | None, echo: Callable[[str], None], wait_s: float = 0.0) -> None:
    """Refuse settings with which Ray would fail later.

    Args:
        wait_s: seconds to wait for a cluster that is to be joined.

    Raises:
        UserError: a setting is invalid.
        UnavailableError: the cluster or a folder cannot be reached.
    """
    from sweeper.environment import check_gpus
    from sweeper.execution import cluster

    if gpus is not None and not 0 <= gpus < math.inf:
        raise UserError(f"--gpus {gpus:g}: give a positive number, or 0 to run on CPUs")
    cluster.check_before_start(address, wait_s)
    if not cluster.joins_a_cluster(address) and (note := check_gpus(gpus)) is not None:
        echo(note)


def check_model_and_images(
    spec: Spec, echo: Callable[[str], None], measured: Callable[[MemoryNeed], None] = lambda need: None
) -> None:
    """Do the part of ``check_sweep`` that loads the model and reads the images.

    Args:
        measured: gets the memory that a worker on this CPU needs.

    Raises:
        UserError: the model or the images cannot be used.
    """
    import torch

    from trainables.evaluation.measure import zero_shot
    from trainables.numerics import flushed_denormals
    from trainables.settings.parameters import Parameters
    from trainables.tasks.known import open_context
    from trainables.training.hooks import Hooks
    from trainables.training.trial import measure_memory

    if spec.model.architecture.startswith("hf-hub:") or (spec.model.pretrained and not spec.model.is_bare_file):
        echo("model: loading it, from its hub if it is not in the cache")
    with tempfile.TemporaryDirectory() as scratch, flushed_denormals():
        try:
            context = open_context(
                spec.task_settings(), data_seed=spec.search.seed, cache=Path(scratch), device=torch.device("cpu")
            )
            _check_model(spec, context.clip, echo)
            seen, unseen = context.data.validation_images(), context.data.unseen_images()
            look = look_text(spec, seen, unseen)
            for line in [*context.data.described(), *look, *context.measures.findings(context)]:
                echo(line)
            for split, broken in context.data.broken().items():
                echo(f"{split}: {len(broken)} images cannot be read and are left out, first {broken[0]}")
            check_chance(spec, zero_shot(context), echo)
            if spec.model.expect is not None:
                _check_expectation(context, spec.model.expect, echo)
            parameters = Parameters.model_validate(largest_scope(spec).parameters)
            measured(measure_memory(context, parameters, folder=Path(scratch) / "trial", hooks=Hooks()))
        except ValueError as error:
            raise UserError(str(error)) from error


def _check_model(spec: Spec, clip: Clip, echo: Callable[[str], None]) -> None:
    from trainables.models.towers import check_checkpointing, split_blocks
    from trainables.models.transform import foldable

    echo(
        f"model: {spec.model.architecture}, embedding width {clip.embed_dim}, images of {clip.image_size} px, "
        f"weights {clip.digest[:12]}"
    )
    if clip.assumed is not None:
        echo(f"model, assumed: {clip.assumed}; model.expect would show whether that is right")
    scopes = _values(spec, "tune")
    reason = foldable(clip.model)
    if "transform" in scopes and reason is not None:
        echo(f"model: a transform can be trained but not exported as an open_clip folder: {reason}")
    if spec.training.gradient_checkpointing and scopes != {"transform"}:
        check_checkpointing(clip.model, text=clip.trains_text or "all" in scopes)
    parts = split_blocks(clip.model.visual)
    if "last_blocks" in scopes and parts is None:
        tower = type(getattr(clip.model.visual, "trunk", clip.model.visual)).__name__
        raise ValueError(f"parameters.tune: the blocks of a {tower} image tower are not known; leave last_blocks out")
    limits = {
        "rank": (clip.embed_dim, "the embedding width"),
        "blocks": (len(parts or ()), "blocks of the image tower"),
    }
    for name, (limit, what) in limits.items():
        highest = max((int(value) for value in _values(spec, name)), default=0)
        if highest > limit:
            raise ValueError(f"parameters.{name}: {highest} is above {limit}, {what} of this model")


def _check_nodes(spec: Spec, plan: SlotPlan, storage: Path, echo: Callable[[str], None]) -> None:
    """Have every node of the cluster look at itself, at the storage, the model and the images, and add with the others.

    Raises:
        UnavailableError: a node lacks something, or sees something else than the others.
    """
    from sweeper.environment import package_versions
    from sweeper.execution import cluster
    from sweeper.preflight.node_report import problems_of, report

    with _existing(storage) as folder:
        cluster.check_shared(folder)
        splits = _splits(spec)
        task = spec.task_settings()
        answers = cluster.on_each_node(report, lambda number: (task, splits, folder), limit_s=NODE_S)
    for name, answer in answers.items():
        if isinstance(answer, cluster.NodeLeft):
            echo(f"node {name}: {answer}")
    answers = {name: answer for name, answer in answers.items() if not isinstance(answer, cluster.NodeLeft)}
    problems = [f"node {name}: {answer}" for name, answer in answers.items() if isinstance(answer, Exception)]
    reports = {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}
    for name, node in reports.items():
        model = "not loaded" if node.model is None else node.model[:12]
        gpus = f"{len(node.gpus)} x {node.gpus[0]}" if node.gpus else "no GPU"
        echo(f"node {name}: {gpus}, {node.free_bytes / 2**30:.0f} GiB free, weights {model}, {len(node.images)} splits")
    problems += problems_of(reports, package_versions())
    if not problems and len(reports) > 1:
        problems += _addition_problems(plan, len(reports), echo)
    if problems:
        raise UnavailableError("\n".join(problems))


def _addition_problems(plan: SlotPlan, nodes: int, echo: Callable[[str], None]) -> list[str]:
    """Have all nodes add numbers by torch.distributed; return the problems."""
    from sweeper.execution import cluster
    from sweeper.preflight.node_report import ALL_REDUCE_S, all_reduce

    on_gpus = plan.gpus_per_worker > 0
    backend = "nccl" if on_gpus else "gloo"
    address = cluster.free_address_of_first_node()
    answers = cluster.on_each_node(
        all_reduce,
        lambda number: (number, nodes, address, backend),
        gpus=1.0 if on_gpus else 0.0,
        limit_s=2 * ALL_REDUCE_S,
    )
    expected = nodes * (nodes + 1) / 2
    wrong = [f"node {name}: {backend} all-reduce: {answer}" for name, answer in answers.items() if answer != expected]
    if not wrong:
        echo(f"network: {backend} all-reduce over {nodes} nodes")
    return wrong


@contextmanager
def _existing(storage: Path) -> Iterator[Path]:
    """Context manager: the storage exists; folders that were made for it are removed at the end."""
    made = [path for path in (storage, *storage.parents) if not path.exists()]
    storage.mkdir(parents=True, exist_ok=True)
    try:
        yield storage
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _splits(spec: Spec) -> list[tuple[str, Split]]:
    """Return the splits of the image sets that the sweep reads."""
    evaluate = spec.evaluate
    named: list[tuple[str, Split]] = [(spec.train.set, "train")]
    named += [(reference, "validation") for reference in evaluate.search.sets]
    named += [(reference, "test") for reference in evaluate.test.sets]
    return list(dict.fromkeys((name, cast(Split, split)) for name, split in (split_of(*each) for each in named)))


def _values(spec: Spec, name: str) -> set[Any]:
    """Return the values that a parameter may have in this sweep: bounds and choices, starting points, the baseline."""
    branches = spec.parameters.branches.get(name, ())
    values = {value for branch in branches for value in branch.domain.examples()}
    points = [*spec.written_points, *(baseline.parameters for baseline in spec.baseline_trials())]
    return values | {point[name] for point in points if point.get(name) is not None}


def _check_expectation(context: TrialContext, expect: Expectation, echo: Callable[[str], None]) -> None:
    """Compare the untouched model on clean images with ``model.expect``.

    A small set is measured whole, with the tolerance as given; a large set is sampled, and the tolerance is widened by
    the sampling error.

    Raises:
        ValueError: the accuracy is outside the tolerance.
    """
    from trainables.evaluation.measure import zero_shot_scores
    from trainables.evaluation.metrics import bootstrap_interval

    scores, classes, total = zero_shot_scores(context, expect.set, EXPECT_IMAGES)
    measured, (low, high) = float(scores.mean()), bootstrap_interval([scores])
    sampled = len(scores) < total
    images = f"{len(scores)} of its {total} images" if sampled else f"all {total} images"
    text = f"{measured:.4f} (95 % interval {low:.4f} to {high:.4f}, {images})"
    slack = (high - low) / 2 if sampled else 0.0
    if abs(measured - expect.accuracy) <= expect.tolerance + slack:
        echo(f"model.expect: {expect.set} {text}, expected {expect.accuracy} +- {expect.tolerance}")
        return
    if measured > expect.accuracy:
        likely = "Likely other images, fewer classes or better templates than the number was measured with"
    elif measured < 3 / classes:
        likely = (
            f"That is near chance (1 of {classes}): likely class names in another order than the folders, class names "
            "that are not words, or a checkpoint that is not of this architecture"
        )
    else:
        likely = (
            "A few points are lost by the wrong activation (quick_gelu) or preprocessing (mean, std, resize_mode), by "
            "class names that are not words, and by another template than the number was measured with"
        )
    raise ValueError(f"model.expect: {expect.set} gives {text}, not {expect.accuracy} +- {expect.tolerance}. {likely}")


def _check_capacity(
    spec: Spec,
    gpus: float | None,
    address: str | None,
    storage: Path,
    needs: Sequence[MemoryNeed],
    echo: Callable[[str], None],
) -> None:
    from sweeper.execution import cluster

    refuse_early(gpus, address, echo)
    cluster.connect(address)
    try:
        plan = plan_slots(spec, gpus)
        if cluster.joins_a_cluster(address):
            _check_nodes(spec, plan, storage, echo)
    finally:
        cluster.disconnect()
    check_device(None if spec.limits.budget is None else parse_budget(spec.limits.budget), new_session(plan))
    echo(f"capacity: {plan.text}")
    if plan.gpus_per_worker > 0:
        echo("memory of the GPU: --probe measures it, and the sweep when it starts")
        return
    for need in needs:
        echo(memory_line(need, plan, measured=1))
