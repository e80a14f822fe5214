"""The work of a slot's workers: training trials and measuring points. Only this module connects ``sweeper`` with
PyTorch.

Imported on the workers only; the driver sends ``partial(make_runner, ...)``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.execution.worker import (
    Channel,
    GroupReplacementNeeded,
    JobInterrupted,
    JobStopped,
    Runner,
    WorkerContext,
)
from sweeper.jobs import (
    Job,
    JobResult,
    MeasureJob,
    MemoryJob,
    ProbeJob,
    SecondLookJob,
    TrainedWeights,
    TrainJob,
    UntouchedJob,
)
from sweeper.records import UntouchedModel
from trainables.records import Measurement, MemoryNeed, Report, SecondLook, TrialResult, TrialTiming
from trainables.settings.task import TaskSettings

if TYPE_CHECKING:
    from trainables.context.trial_context import TrialContext
    from trainables.distributed import WorkerGroup
    from trainables.models.policy import Policy
    from trainables.own_code import OwnModule


def make_runner(
    worker: WorkerContext, *, task: TaskSettings, data_seed: int, cache: Path, code: Sequence[OwnModule] = ()
) -> Runner:
    """Prepare model, images and the reference's embeddings, once per worker process.

    Args:
        code: the modules of the user's own that the spec names, as the driver has read them.

    Raises:
        ValueError: the model or the images cannot be loaded, or a module cannot be imported here.
    """
    import torch

    from trainables.context.inputs import trial_views
    from trainables.distributed import WorkerGroup
    from trainables.own_code import install
    from trainables.tasks.known import open_context

    for module in code:
        install(module)
    device = torch.device(worker.device)
    context = open_context(task, data_seed=data_seed, cache=cache, device=device, device_share=worker.device_share)
    for view in trial_views(context.data):
        context.reference.embeddings(view)
    return _TrialRunner(context, WorkerGroup(rank=worker.rank, world_size=worker.world_size, device=device))


class _TrialRunner:
    def __init__(self, context: TrialContext, group: WorkerGroup) -> None:
        self._context, self._group = context, group

    def __call__(self, job: Job, channel: Channel) -> JobResult:
        match job:
            case TrainJob():
                return self._train(job, channel)
            case UntouchedJob():
                with channel.long_operation("measuring the untouched model"):
                    return self._measure_untouched()
            case MeasureJob():
                with channel.long_operation("measuring"):
                    return self._measure(job)
            case SecondLookJob():
                with channel.long_operation("measuring"):
                    return self._look_again(job)
            case MemoryJob():
                with channel.long_operation("measuring memory"):
                    return self._measure_memory(job)
            case ProbeJob():
                channel.heartbeat()
                return self._probe(job, channel)
        raise TypeError(f"the runner knows no job of type {type(job).__name__}")

    def _train(self, job: TrainJob, channel: Channel) -> TrialResult:
        from trainables.memory import MicroBatchReduced
        from trainables.settings.parameters import Parameters
        from trainables.training.hooks import Hooks, TrialInterrupted
        from trainables.training.trial import run_trial
        from trainables.training.trial_folder import TrialFolder

        def on_report(report: Report) -> None:
            if self._group.is_first:
                line = report.to_json()
                rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in line.items()}
                channel.log(", ".join(f"{name} {value}" for name, value in rounded.items()))
            channel.report(report)

        channel.log(f"attempt {job.attempt} begins")
        try:
            return run_trial(
                self._context,
                Parameters.model_validate(job.parameters),
                seed=job.seed,
                folder=TrialFolder(job.folder, attempt=job.attempt),
                group=self._group,
                hooks=Hooks(
                    report=on_report,
                    interrupted=channel.interrupted,
                    heartbeat=channel.heartbeat,
                    log=channel.log,
                    long_operation=channel.long_operation,
                ),
                rungs=job.rungs,
                after_out_of_memory=job.after_out_of_memory,
            )
        except TrialInterrupted as error:
            channel.log(f"attempt {job.attempt} interrupted in {error}")
            raise JobInterrupted(str(error)) from error
        except MicroBatchReduced as error:
            raise GroupReplacementNeeded(str(error)) from error
        except JobStopped:
            channel.log(f"attempt {job.attempt} stopped by the stopping rule")
            raise
        except Exception:
            channel.log(traceback.format_exc())
            raise

    def _measure_untouched(self) -> UntouchedModel:
        import open_clip
        import torch

        from trainables.evaluation.hits import to_text
        from trainables.evaluation.measure import untouched_policy, zero_shot

        context, data = self._context, self._context.data
        known = zero_shot(context)
        shown = data.searched_prompts()[0]  # the class prompts, for every task
        policy, measures = untouched_policy(context), context.measures
        measured = measures.validation(context, policy, self._group)
        return UntouchedModel(
            goals=measured.values | measures.kept(context, policy, self._group),
            class_names=[str(name) for name in shown.names],
            templates=list(shown.templates),
            zero_shot=known,
            hits=to_text(measured.hits) or None,
            chance=data.chance(),
            validation_images=data.validation_images(),
            unseen_images=data.unseen_images(),
            pairs=len(data.preferences.shown.labels),
            embed_dim=context.clip.embed_dim,
            image_parameters=sum(parameter.numel() for parameter in context.clip.model.visual.parameters()),
            weights_digest=context.clip.digest,
            data_digest=data.digest(),
            validation_digest=data.validation_digest(),
            broken=data.broken(),
            assumed=context.clip.assumed,
            # TorchVersion is a class of torch: the job queue and the driver would import torch to read the record.
            versions={"torch": str(torch.__version__), "open_clip": str(open_clip.__version__)},
            device=torch.cuda.get_device_name() if context.device.type == "cuda" else "cpu",
        )

    def _probe(self, job: ProbeJob, channel: Channel) -> TrialTiming:
        from trainables.settings.parameters import Parameters
        from trainables.training.timing import probe_trial

        return probe_trial(
            self._context,
            Parameters.model_validate(job.parameters),
            seconds=job.seconds,
            folder=job.folder,
            group=self._group,
            heartbeat=channel.heartbeat,
            long_operation=channel.long_operation,
        )

    def _measure_memory(self, job: MemoryJob) -> MemoryNeed:
        from trainables.settings.parameters import Parameters
        from trainables.training.hooks import Hooks
        from trainables.training.trial import measure_memory

        parameters = Parameters.model_validate(job.parameters)
        return measure_memory(self._context, parameters, folder=job.folder, group=self._group, hooks=Hooks())

    def _measure(self, job: MeasureJob) -> Measurement:
        measures = self._context.measures
        with self._policy(job.point) as policy:
            return measures.test(self._context, policy, self._group, variants=job.variants, answers=job.answers)

    def _look_again(self, job: SecondLookJob) -> SecondLook:
        with self._policy(job.point) as policy:
            values = self._context.measures.second_look(self._context, policy, self._group)
        return SecondLook(values=values, images=self._context.data.unseen_images())

    @contextmanager
    def _policy(self, point: TrainedWeights | None) -> Iterator[Policy]:
        """Yield the policy of a point; None: the untouched model."""
        from trainables.evaluation.measure import untouched_policy
        from trainables.settings.parameters import Parameters
        from trainables.training.trial_folder import TrialFolder

        if point is None:
            yield untouched_policy(self._context)
            return
        policy = self._context.policy(Parameters.model_validate(point.parameters))
        try:
            policy.set_weights(TrialFolder(point.folder).weights(point.weights), point.strength)
            yield policy
        finally:
            self._context.release(policy)
