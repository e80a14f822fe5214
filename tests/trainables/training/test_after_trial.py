"""What a trial leaves in its process, nothing, and where it says that an operation takes long."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.tiny import parameters
from tests.trainables.training.test_trial import make_context, one_thread
from trainables.context.trial_context import TrialContext
from trainables.models.policy import Policy
from trainables.records import Report
from trainables.training import trial as trial_module
from trainables.training.averaging import BetaAverage
from trainables.training.hooks import Hooks, TrialInterrupted
from trainables.training.timing import probe_trial
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

assert one_thread  # a fixture

SCOPES: list[dict[str, Any]] = [
    {"tune": "transform", "penalty": 0.1},
    {"tune": "last_blocks", "blocks": 1},
    {"tune": "visual"},
    {"tune": "all"},
]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    return make_context(tmp_path_factory.mktemp("after"), "vit", epochs=1)


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, weakref.ref[Any]]]:
    """To what a trial makes; nothing is collected meanwhile but what nobody holds."""
    made: dict[str, weakref.ref[Any]] = {}
    make_policy, make_optimizer, average = TrialContext.policy, trial_module.make_optimizer, BetaAverage.__init__

    def policy(self: TrialContext, *arguments: Any) -> Policy:
        one = make_policy(self, *arguments)
        made["policy"], made["start"] = weakref.ref(one), weakref.ref(next(iter(one._start.values())))
        return one

    def optimizer(*arguments: Any) -> torch.optim.Optimizer:
        one = make_optimizer(*arguments)
        made["optimizer"] = weakref.ref(one)
        return one

    def averaged(self: BetaAverage, *arguments: Any, **options: Any) -> None:
        average(self, *arguments, **options)
        made["average"] = weakref.ref(self)
        made["averaged weights"] = weakref.ref(next(iter(self.weights.values())))

    monkeypatch.setattr(TrialContext, "policy", policy)
    monkeypatch.setattr(trial_module, "make_optimizer", optimizer)
    monkeypatch.setattr(BetaAverage, "__init__", averaged)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


class Killed(Exception):
    pass


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope["tune"])
@pytest.mark.parametrize("how", ["whole", "raised in a report", "interrupted"])
def test_nothing_of_a_trial_is_left(
    scope: dict[str, Any], how: str, context: TrialContext, tmp_path: Path, references: dict[str, weakref.ref[Any]]
) -> None:
    before = {name: value.clone() for name, value in context.clip.model.state_dict().items()}

    def die(report: Report) -> None:
        raise Killed

    hooks = {"whole": Hooks(), "raised in a report": Hooks(report=die), "interrupted": Hooks(interrupted=lambda: True)}
    error: BaseException | None = None
    try:
        run_trial(context, parameters(**scope), seed=0, folder=TrialFolder(tmp_path), hooks=hooks[how])
    except (Killed, TrialInterrupted) as raised:
        error = raised  # held as long as whoever reports it does
    assert (error is None) == (how == "whole")
    assert {"policy", "start", "optimizer", "average", "averaged weights"} == set(references)
    assert [name for name, reference in references.items() if reference() is not None] == []
    assert context.reference.policy is None
    assert [name for name, parameter in context.clip.model.named_parameters() if parameter.grad is not None] == []
    after = context.clip.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_restoring_a_policy_drops_its_gradients(context: TrialContext) -> None:
    policy = context.policy(parameters(tune="visual"))
    for parameter in policy.tuned().values():
        parameter.grad = torch.ones_like(parameter)
    policy.restore()
    assert all(parameter.grad is None for parameter in policy.parameters())
    context.release(policy)


class Watched:
    """Follows which long operations a trial is in when it reports, steps and beats."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.open: list[str] = []
        self.at_reports: list[str] = []

    @contextmanager
    def long_operation(self, what: str) -> Iterator[None]:
        self.entered.append(what)
        self.open.append(what)
        try:
            yield
        finally:
            self.open.remove(what)

    def report(self, report: Report) -> None:
        self.at_reports += self.open

    def hooks(self, **others: Any) -> Hooks:
        return Hooks(long_operation=self.long_operation, report=self.report, **others)


def test_long_operations_are_announced(context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, during = Watched(), dict[str, set[str]]()

    def follow(owner: Any, name: str) -> None:
        really = getattr(owner, name)

        def followed(*arguments: Any, **options: Any) -> Any:
            during.setdefault(name, set()).update(watched.open or ["nothing"])
            return really(*arguments, **options)

        monkeypatch.setattr(owner, name, followed)

    follow(TrialContext, "policy")
    follow(TrialFolder, "load_checkpoint")
    follow(TrialFolder, "finish")
    follow(trial_module.CheckpointWriter, "wait")
    follow(trial_module.CheckpointWriter, "close")
    follow(trial_module.WorkerGroup, "wrap")
    follow(trial_module, "reference_kl")  # in each step
    for attempt, stop_at in ((1, 2), (2, None)):
        asked = iter(range(1, 100))
        hooks = watched.hooks(interrupted=lambda asked=asked, stop_at=stop_at: next(asked) == stop_at)
        try:
            run_trial(context, parameters(), seed=0, folder=TrialFolder(tmp_path, attempt=attempt), hooks=hooks)
        except TrialInterrupted:
            assert stop_at is not None
    assert watched.at_reports == [] and watched.open == []
    assert during == {
        "policy": {"building the policy"},
        "wrap": {"preparing the trial's images"},
        "load_checkpoint": {"loading the checkpoint"},
        "finish": {"writing the weights"},
        "wait": {"waiting for the checkpoint", "writing the weights"},
        "close": {"waiting for the checkpoint", "writing the weights"},
        "reference_kl": {"the first step", "nothing"},
    }
    assert watched.entered.count("the first step") == 2, "one an attempt"


def test_a_timed_trial_announces_them_too(context: TrialContext, tmp_path: Path) -> None:
    watched = Watched()
    probe_trial(context, parameters(), seconds=0.0, folder=tmp_path, long_operation=watched.long_operation)
    assert "the first step" in watched.entered
