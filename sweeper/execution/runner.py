"""What the workers of a slot do: train trials and measure points. The one place where ``sweeper`` meets torch.

Imported on the workers only; the driver hands over ``partial(make_runner, ...)``.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.execution.worker import Channel, Interrupted, ProcessesNeeded, Runner, WorkerContext
from sweeper.records import Task

if TYPE_CHECKING:
    from trainables.distributed import WorkerGroup
    from trainables.models.policy import Policy
    from trainables.trial_context import TrialContext


def make_runner(context: WorkerContext, *, task: dict[str, Any], data_seed: int, cache: Path) -> Runner:
    """Prepares model, images and the reference's embeddings, once per worker process.

    Raises ValueError where the model or the images cannot be had.
    """
    import torch

    from trainables.distributed import WorkerGroup
    from trainables.settings.task import TaskSettings
    from trainables.trial_context import TrialContext

    device = torch.device(context.device)
    bench = TrialContext(TaskSettings.model_validate(task), data_seed=data_seed, cache=cache, device=device)
    for view in (bench.pairs.clean, bench.pairs.attacked):
        bench.embeddings(view)
    for one in bench.search_sets:
        assert one.clean is not None, "only sets without clean images are for testing"
        bench.embeddings(one.clean)
        bench.embeddings(one.attacked)
    return _TrialRunner(bench, WorkerGroup(rank=context.rank, world_size=context.world_size, device=device))


class _TrialRunner:
    def __init__(self, bench: TrialContext, group: WorkerGroup) -> None:
        self._bench, self._group = bench, group

    def __call__(self, task: Task, channel: Channel) -> dict[str, Any]:
        if task.kind == "train":
            return self._train(task, channel)
        channel.alive()
        if task.payload["what"] == "untouched":
            return self._untouched()
        if task.payload["what"] == "probe":
            return self._probe(task.payload, channel)
        return self._test(task.payload)

    def _train(self, task: Task, channel: Channel) -> dict[str, Any]:
        """Payload: ``folder``, ``parameters``, ``seed``, ``rungs``. Returns the trial's final record."""
        from trainables.memory import MicroBatchReduced
        from trainables.settings.parameters import Parameters
        from trainables.training import trial as train
        from trainables.training.checkpoint import TrialFolder

        def report(line: dict[str, Any]) -> None:
            if self._group.is_first:
                shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in line.items()}
                channel.log(", ".join(f"{name} {value}" for name, value in shown.items()))
            channel.report(line)

        folder = TrialFolder(Path(task.payload["folder"]), attempt=task.attempt)
        hooks = train.Hooks(report=report, interrupted=channel.interrupted, alive=channel.alive, log=channel.log)
        channel.log(f"attempt {task.attempt} begins")
        try:
            return train.run_trial(
                self._bench,
                Parameters.model_validate(task.payload["parameters"]),
                seed=task.payload["seed"],
                folder=folder,
                group=self._group,
                hooks=hooks,
                rungs=task.payload["rungs"],
            )
        except train.Interrupted as error:
            channel.log(f"attempt {task.attempt} interrupted in {error}")
            raise Interrupted(str(error)) from error
        except MicroBatchReduced as error:
            raise ProcessesNeeded(str(error)) from error
        except Exception:
            channel.log(traceback.format_exc())
            raise

    def _untouched(self) -> dict[str, Any]:
        """Goals of the untouched model on validation, chance, and what this sweep works on."""
        import open_clip
        import torch

        from trainables.evaluation.measure import goal_scores, means, untouched_policy

        scores = goal_scores(self._bench, untouched_policy(self._bench), self._bench.search_sets, self._group)
        chances = [1 / len(one.class_names) for one in self._bench.search_sets]
        return {
            "validation": means(scores),
            "chance": sum(chances) / len(chances),
            "validation_images": [len(one.attacked.labels) for one in self._bench.search_sets],
            "pairs": len(self._bench.pairs.attacked.labels),
            "weights_digest": self._bench.clip.digest,
            "data_digest": self._bench.data_digest(),
            "validation_digest": self._bench.validation_digest(),
            "broken": self._bench.broken(),
            "assumed": self._bench.clip.assumed,
            "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
            "device": torch.cuda.get_device_name() if self._bench.device.type == "cuda" else "cpu",
        }

    def _probe(self, payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
        """Payload: ``parameters``, ``seconds``, ``folder``."""
        from trainables.settings.parameters import Parameters
        from trainables.training.timing import probe_trial

        return probe_trial(
            self._bench,
            Parameters.model_validate(payload["parameters"]),
            seconds=payload["seconds"],
            folder=Path(payload["folder"]),
            group=self._group,
            alive=channel.alive,
        )

    def _test(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Payload: ``trial`` (None: untouched), ``answers`` (file); of a trial ``folder``, ``parameters``, ``weights``,
        ``strength``; ``variants: False`` leaves out unseen attacks and signs."""
        from trainables.evaluation.measure import untouched_policy
        from trainables.settings.parameters import Parameters
        from trainables.training.checkpoint import TrialFolder

        answers, variants = Path(payload["answers"]), payload.get("variants", True)
        self._bench.prepare_test()
        if payload["trial"] is None:
            return self._tested(untouched_policy(self._bench), answers, variants)
        policy = self._bench.policy(Parameters.model_validate(payload["parameters"]))
        try:
            weights = TrialFolder(Path(payload["folder"])).weights(payload["weights"])
            policy.set_weights(weights, payload["strength"])
            return self._tested(policy, answers, variants)
        finally:
            policy.restore()

    def _tested(self, policy: Policy, file: Path, variants: bool) -> dict[str, Any]:
        from trainables.evaluation.answers import write_answers
        from trainables.evaluation.measure import measurement, test_answers, test_scores

        answers = test_answers(self._bench, policy, self._group)
        if self._group.is_first:
            write_answers(file, answers)
        scores = test_scores(self._bench, policy, answers, self._group, variants=variants)
        return {**measurement(scores), "broken": self._bench.broken()}
