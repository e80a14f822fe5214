"""Steps before the first trial: the untouched model, and the study with its scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sweeper.environment import versions
from sweeper.errors import UserError
from sweeper.front.load import looked_points, searched_front
from sweeper.front.needed_weights import with_needed_weights
from sweeper.front.rendering.writer import FrontFiles
from sweeper.front.search_state import running_front
from sweeper.front.second_look import is_possible, noise_text
from sweeper.records import UntouchedModel
from sweeper.run.chance import check_chance
from sweeper.run.floor_text import floor_line, search_end_line
from sweeper.run.floor_watch import FloorWatch
from sweeper.run.observer import Observer
from sweeper.run.progress import Progress
from sweeper.run.usage import UsageMeter
from sweeper.run.weight_removal import WeightRemoval
from sweeper.search.first_points import first_points, rated_baselines
from sweeper.search.floor_files import FloorReader, SearchEnd, read_search_end, write_search_end
from sweeper.search.sampler import PriorTrial
from sweeper.search.scheduler import SweepControl, TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.search.warm_start import prior_trials_of
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class ActiveSearch:
    """The search of a sweep after the untouched model was measured."""

    study: Study
    scheduler: TrialScheduler
    floor: FloorWatch | None
    """None if the goals have no noise floor."""

    def close(self) -> None:
        if self.floor is not None:
            self.floor.close()
        self.study.close()


def begin_search(
    folder: SweepFolder,
    spec: Spec,
    untouched: UntouchedModel,
    *,
    control: SweepControl,
    progress: Progress,
    tracker: Tracker,
    files: FrontFiles,
    usage: UsageMeter,
    sent: Callable[[], None],
) -> ActiveSearch:
    """Open the study, or create it, and return the search that goes on from its content.

    Raises:
        UserError: the model or the images are not those that the sweep began with, or a new sweep's model may only
            guess.
    """
    if untouched.zero_shot is not None and folder.untouched() is None:
        check_chance(spec, untouched.zero_shot, progress.line)
    untouched = settle_untouched(folder, untouched)
    tags = run_tags(folder, spec, untouched)
    tracker.sweep_started(spec.resolved(), tags)
    if untouched.assumed is not None:
        progress.line(f"model, assumed: {untouched.assumed}")
    goals = ", ".join(f"{goal.short} {untouched.goals[goal.metric]:.3f}" for goal in spec.task_goals())
    progress.line(f"untouched model on validation: {goals}; {untouched.pairs} preference pairs")
    noise = noise_text(untouched.validation_images, untouched.unseen_images)
    if noise is not None:
        progress.line(noise)
    if spec.evaluate.second_look is not None and is_possible(untouched.unseen_images):
        assert untouched.unseen_images is not None, "a second look is possible"
        usage.expect_second_look(
            sum(untouched.unseen_images) / sum(untouched.validation_images),
            lambda trials: len(looked_points(spec, untouched, trials)),
        )
    study = open_study(folder, spec, untouched, progress.line)
    trial_files = FolderTrialFiles(folder, spec, sent)
    points = first_points(spec, untouched)
    floor = _floor_watch(folder, spec, untouched, study, progress, usage)
    removal = None
    if spec.limits.weights == "near_front":
        removal = WeightRemoval(
            study.trials(), needed=partial(with_needed_weights, spec, untouched), remove=trial_files.remove_weights
        )
    observer = Observer(
        progress,
        tracker,
        files,
        usage,
        drawn=partial(running_front, folder, spec, untouched),
        searched_front=partial(searched_front, folder, spec, untouched),
        trials=study.trials,
        trial_tags=tags,
        floor=floor,
        removal=removal,
    )
    progress.line(f"front, redrawn while trials run: {folder.front_path / 'front.html'}")
    observer.repeat(study.trials(), trial_files.reports)
    scheduler = TrialScheduler(
        spec,
        study,
        trial_files,
        untouched.goals,
        observer,
        control,
        (lambda: False) if floor is None else floor.search_is_over,
        points,
        rated_baselines(spec, untouched),
    )
    return ActiveSearch(study=study, scheduler=scheduler, floor=floor)


def _floor_watch(
    folder: SweepFolder, spec: Spec, untouched: UntouchedModel, study: Study, progress: Progress, usage: UsageMeter
) -> FloorWatch | None:
    """Return the watch of the noise floor; None if the goals have none."""
    if any(goal.view is None for goal in spec.task_goals()):
        return None

    def ended(end: SearchEnd) -> None:
        write_search_end(folder, end)
        begun = sum(trial.confirms is None for trial in study.trials())
        usage.not_begun = max(0, spec.search.trials - begun)
        progress.search_ended(begun)
        progress.line(search_end_line(end))

    reader = FloorReader(folder, spec, untouched)
    watch = FloorWatch(spec, reader.floor, study.trials, end=read_search_end(folder), ended=ended)

    def line() -> str | None:
        floor = watch.latest()
        return None if floor is None else floor_line(floor)

    progress.watch_floor(line)
    return watch


def settle_untouched(folder: SweepFolder, measured: UntouchedModel) -> UntouchedModel:
    """Return the untouched model measured when the sweep began, or else this one, which is recorded.

    Raises:
        UserError: weights or images are not those that the sweep began with.
    """
    before = folder.untouched()
    if before is None:
        folder.write_untouched(measured)
        return measured
    digests = (
        ("weights digest", before.weights_digest, measured.weights_digest),
        ("data digest", before.data_digest, measured.data_digest),
    )
    for what, digest_before, digest in digests:
        if digest_before != digest:
            raise UserError(
                f"{what} of sweep {folder.name} was {digest_before[:12]} and is now {digest[:12]}: model or images "
                "have changed; start a new sweep for them"
            )
    return before


def open_study(folder: SweepFolder, spec: Spec, untouched: UntouchedModel, say: Callable[[str], None]) -> Study:
    """Return the study of a sweep. A new study learns from the sweeps that the folder names for a warm start."""
    if folder.study_path.exists():
        return Study.open(folder.study_path, spec.parameters)
    search = spec.search
    prior_trials: list[PriorTrial] = []
    for name in folder.warm_start:
        of_sweep, notes = prior_trials_of(SweepFolder(folder.storage, name), spec, untouched)
        prior_trials += of_sweep
        for note in notes:
            say(note)
    return Study.create(
        folder.study_path,
        spec.parameters,
        seed=search.seed,
        startup_trials=search.startup(),
        sampler="random" if search.sampler == "random" else "tpe",
        goals={goal.metric: goal.direction for goal in spec.task_goals()},
        prior_trials=prior_trials,
    )


def run_tags(folder: SweepFolder, spec: Spec, untouched: UntouchedModel) -> dict[str, str]:
    """Return the tags of the sweep's runs in MLflow: versions, digests, device, commit of the spec."""
    tags = {f"sweeper.version.{name}": version for name, version in {**versions(), **untouched.versions}.items()}
    tags |= {
        "sweeper.weights_digest": untouched.weights_digest,
        "sweeper.data_digest": untouched.data_digest,
        "sweeper.device": str(untouched.device),
        **{f"sweeper.code_digest.{module}": digest for module, digest in spec.code.items()},
    }
    commit = folder.git_commit
    return tags if commit is None else {**tags, "mlflow.source.git.commit": commit}
