"""The Python API: what the command line does, as functions, for notebooks and scripts.

Tables are pandas DataFrames with the columns of ``--format csv``, a notebook shows pictures inline, and mistakes are
exceptions with the words of the command line.

Examples:
    >>> from sweeper import api
    >>> sweep = api.open_sweep("demo")
    >>> sweep.front()["name"].tolist()[-2:]
    ['untouched', 'paint']
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import SweepFailed, SweepStopped, UnavailableError, UserError

if TYPE_CHECKING:
    import pandas

    from sweeper.front.rendering.writer import Which
    from sweeper.models.measuring import Measuring
    from sweeper.records import TrialRecord
    from sweeper.spec.spec import Spec
    from sweeper.storage.sweep_folder import SweepFolder

__all__ = [
    "Picture",
    "Sweep",
    "SweepFailed",
    "SweepStopped",
    "UnavailableError",
    "UserError",
    "check",
    "compare",
    "evaluate",
    "open_sweep",
    "resume",
    "run",
    "sweeps",
]

AnySpec = str | Path | Mapping[str, Any]
"""A sweep to run: a file in YAML, the name of a shipped spec, or the content of such a file."""
Echo = Callable[[str], None]


@dataclass(frozen=True)
class Picture:
    """A picture, which a notebook shows inline.

    Examples:
        >>> picture = open_sweep("demo").picture()
        >>> picture.save("front.png").stat().st_size == len(picture.png)
        True
    """

    png: bytes = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the picture as a PNG file and return its path."""
        Path(path).write_bytes(self.png)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Sweep:
    """A sweep of a storage, finished or not. Every method reads its files again.

    Examples:
        >>> open_sweep("demo")
        Sweep(name='demo')
        >>> open_sweep("demo").path.name
        'demo'
    """

    name: str
    storage: str = field(repr=False)
    """Absolute path of the storage, or the URI of a bucket."""

    @property
    def path(self) -> Path:
        """Return the folder of the sweep."""
        return self._open()[0].path

    def front(self) -> pandas.DataFrame:
        """Return the front as ``sweeper front --format csv`` has it.

        Its members stand from the best to the worst in the first goal, then the untouched model and the baselines.

        Raises:
            UserError: the sweep has not measured anything yet.

        Examples:
            >>> front = open_sweep("demo").front()
            >>> front.columns[:6].tolist()
            ['name', 'trial', 'weights', 'strength', 'member', 'validation_clean_accuracy']
            >>> front.loc[front["trial"].isna(), "name"].item()
            'untouched'
        """
        from sweeper.front.load import load_merged_front
        from sweeper.front.rendering.table import rows

        return _frame(rows(load_merged_front([self._open()])))

    def trials(self) -> pandas.DataFrame:
        """Return the trials as ``sweeper trials --format csv`` has them: state, goals on validation, parameters.

        Examples:
            >>> open_sweep("demo").trials()[["trial", "state"]]
               trial     state
            0      0  complete
            1      1  complete
        """
        from sweeper.run.listing import trial_rows

        return _frame(trial_rows(*self._open()))

    def status(self) -> str:
        """Return the text of ``sweeper status``.

        Examples:
            >>> print(open_sweep("demo").status().splitlines()[0])
            demo: complete
        """
        from sweeper.run.status_text import status_text

        return status_text(*self._open())

    def picture(self, which: Which = "front") -> Picture:
        """Return a picture of the sweep, drawn now.

        Args:
            which: ``front``; ``strip``, a small one of it; ``curves``, the named points over the strength of their
                weights; ``concept``, retrievals before and after, of a sweep about an attribute.

        Raises:
            UserError: there is no such picture, or nothing has been measured that it would show.

        Examples:
            >>> open_sweep("demo").picture("curves")
            Picture()
        """
        from sweeper.front.load import load_merged_front
        from sweeper.front.rendering.writer import PICTURES, picture

        if which not in PICTURES:
            raise UserError(f"no picture {which!r}; choose {', '.join(PICTURES)}")
        folder, spec = self._open()
        png = picture(load_merged_front([(folder, spec)]), which, folder.retrieved_path)
        if png is None:
            raise UserError(f"sweep {self.name} has not measured anything that the picture {which!r} would show")
        return Picture(png)

    def export(self, folder: str | Path, pick: str = "knee", strength: float | None = None) -> Path:
        """Write one point as a folder that plain open_clip loads, and return the folder.

        As ``sweeper export --no-register`` does: ``sweeper export`` also registers the folder in MLflow.

        Args:
            folder: a new folder.
            pick: ``knee``, another name on the front, a trial's number, or a rule such as
                ``max robust_accuracy where clean_accuracy>=0.6``.
            strength: strength of the weights; None: that of the point.

        Raises:
            UserError: there is no such point, its weights are not there, or the folder is not empty.

        Examples:
            >>> exported = open_sweep("demo").export("exported", pick="1")
            >>> sorted(path.name for path in exported.iterdir())[:2]
            ['README.md', 'open_clip_config.json']
        """
        from sweeper.front.load import finished_front
        from sweeper.front.pick import pick as pick_point
        from sweeper.models.export import export_point

        sweep, spec = self._open()
        front = finished_front(sweep, spec)
        export_point(sweep, spec, front, pick_point(front, pick, strength), Path(folder))
        return Path(folder)

    def _open(self) -> tuple[SweepFolder, Spec]:
        from sweeper.storage.opening import storage_folder, sweep_folder

        folder = sweep_folder(storage_folder(self.storage), self.name)
        return folder, folder.spec()


def open_sweep(name: str, storage: str | Path | None = None) -> Sweep:
    """Return a sweep of a storage.

    Args:
        storage: folder of all sweeps, or the URI of a bucket; None: ``$SWEEPER_STORAGE``, else ``./sweeps``. The same
            for every function here.

    Raises:
        UserError: the sweep does not exist or is damaged.
        UnavailableError: this user may not read it.

    Examples:
        >>> open_sweep("absent")
        Traceback (most recent call last):
        ...
        sweeper.errors.UserError: no sweep 'absent' in ...
    """
    from sweeper.storage.opening import named_storage

    sweep = Sweep(name, named_storage(storage))
    sweep._open()
    return sweep


def sweeps(storage: str | Path | None = None) -> pandas.DataFrame:
    """Return the sweeps of a storage as ``sweeper list --format csv`` has them, oldest first.

    A sweep that cannot be read has the state ``unreadable``, and a warning says why.

    Examples:
        >>> sweeps()[["name", "state", "finished"]]
           name     state  finished
        0  demo  complete         2
    """
    import warnings

    from sweeper.run.listing import sweep_rows
    from sweeper.storage.opening import named_storage, storage_folder

    root = named_storage(storage)
    return _frame(sweep_rows(storage_folder(root), lambda name: Sweep(name, root)._open(), warnings.warn))


def run(
    spec: AnySpec,
    *,
    storage: str | Path | None = None,
    name: str | None = None,
    changes: Mapping[str, object] | None = None,
    trials: int | None = None,
    gpus: float | None = None,
    address: str | None = None,
    budget: str | None = None,
    time: str | None = None,
    warm_start: Sequence[str] = (),
    tracking_uri: str | None = None,
    new: bool = False,
    resume: bool = False,
    on_trial: Callable[[TrialRecord], None] | None = None,
    echo: Echo | None = None,
) -> Sweep:
    """Run a sweep to its end, as ``sweeper run`` does, and return it.

    The sweep runs in a process of its own. Ctrl-C, or the interruption of a notebook's cell, stops it in order, and
    ``resume`` goes on with it. If the caller's process is killed the sweep goes on; `sweeper stop NAME` stops it.

    Args:
        spec: a file in YAML, the name of a shipped spec, or the content of such a file, whose relative paths are
            relative to the working directory.
        name: name of the sweep, instead of that in the spec.
        changes: entries of the spec to change, such as ``{"training.epochs": 5}``.
        trials: number of trials, instead of ``search.trials`` of the spec.
        gpus: number of GPUs that the sweep may use; None: all.
        address: ``host:port`` of a running Ray cluster; None: a Ray of its own on this machine.
        budget: device hours for the whole life of the sweep, such as ``200gpu-h``.
        time: wall-clock time for this session of the sweep, such as ``8h``.
        warm_start: finished sweeps of the same storage that the search learns from.
        tracking_uri: MLflow store, without a password.
        new: whether to take NAME-2, NAME-3, ... if the name is taken.
        resume: whether to go on with the sweep of this name if there is one: then a cell may run again.
        on_trial: called in this thread for each trial that ends, with its record. An exception in it stops the sweep.
        echo: takes the lines of progress, for instance ``print``; None: they are not shown.

    Raises:
        UserError: the spec or an argument is wrong, with every problem.
        UnavailableError: cluster or storage is not available; or the sweep ended in a way that nobody expected.
        SweepFailed: too many trials failed.
        SweepStopped: `sweeper stop` or a signal has stopped the sweep.

    Examples:
        >>> sweep = run("demo.yaml", resume=True, on_trial=lambda trial: print(trial.number, trial.state))
        0 complete
        1 complete
        >>> sweep
        Sweep(name='demo')
        >>> run("demo.yaml", changes={"search.trials": 0})
        Traceback (most recent call last):
        ...
        sweeper.errors.UserError: --set search.trials: `search.trials`: 0 must be 1 or more
    """
    from sweeper.spec.spec import load_spec
    from sweeper.storage.opening import named_storage, storage_folder
    from sweeper.storage.sweep_folder import SweepFolder, free_name

    place, overrides = named_storage(storage), _overrides(changes)
    overrides += [f"search.trials={trials}"] if trials is not None else []
    with _written(spec, name) as (words, file):
        loaded = load_spec(file, [*overrides, *([] if name is None else [f"name={name}"])])
        root = storage_folder(place, to_run=True)
        name = free_name(root, loaded.name) if new and not resume else loaded.name
        words = ["run", *words, "--name", name, *_options("--set", overrides), *_options("--warm-start", warm_start)]
        words += ["--resume"] if resume else []
        words += _session_options(place, gpus, address, budget, time, tracking_uri)
        _session(SweepFolder(root, name), words, on_trial, echo)
    return Sweep(name, place)


def resume(
    name: str,
    *,
    storage: str | Path | None = None,
    trials: int | None = None,
    gpus: float | None = None,
    address: str | None = None,
    budget: str | None = None,
    time: str | None = None,
    tracking_uri: str | None = None,
    on_trial: Callable[[TrialRecord], None] | None = None,
    echo: Echo | None = None,
) -> Sweep:
    """Go on with a sweep that was stopped or killed, or with more trials or a larger budget, and return it.

    Args:
        trials: new total of trials, for more of them. The other arguments and the errors are those of ``run``.

    Examples:
        >>> resume("absent")
        Traceback (most recent call last):
        ...
        sweeper.errors.UserError: no sweep 'absent' in ...
    """
    from sweeper.storage.opening import storage_folder
    from sweeper.storage.sweep_folder import SweepFolder

    sweep = open_sweep(name, storage)
    words = ["resume", name, *_session_options(sweep.storage, gpus, address, budget, time, tracking_uri)]
    words += [] if trials is None else ["--trials", str(trials)]
    _session(SweepFolder(storage_folder(sweep.storage, to_run=True), name), words, on_trial, echo)
    return sweep


def check(
    spec: AnySpec,
    *,
    storage: str | Path | None = None,
    changes: Mapping[str, object] | None = None,
    gpus: float | None = None,
    address: str | None = None,
    budget: str | None = None,
    tracking_uri: str | None = None,
) -> list[str]:
    """Check everything that a sweep needs, as ``sweeper check`` does in a process of its own; return its lines.

    Args:
        spec: as for ``run``, as the other arguments.

    Raises:
        UserError: the sweep is not ready, with every problem.
        UnavailableError: cluster or storage is not available.

    Examples:
        >>> check("demo.yaml", changes={"search.trials": 0})
        Traceback (most recent call last):
        ...
        sweeper.errors.UserError: --set search.trials: `search.trials`: 0 must be 1 or more
        not ready: 1 problem; then again: sweeper check demo.yaml --set search.trials=0
    """
    from sweeper.run.child import call
    from sweeper.storage.opening import named_storage

    with _written(spec, None) as (words, _):
        words = ["check", *words, *_options("--set", _overrides(changes))]
        words += _session_options(named_storage(storage), gpus, address, budget, None, tracking_uri)
        return call(words, look=lambda: None).splitlines()


def evaluate(
    models: str | Sequence[str],
    data: str | Sequence[str] = (),
    *,
    reference: str | None = None,
    variants: bool = False,
    attack: str | None = None,
    images: int | None = None,
    seed: int = 0,
    device: str | None = None,
    storage: str | Path | None = None,
    echo: Echo | None = None,
) -> pandas.DataFrame:
    """Measure models, made by sweeper or not, on clean and attacked images.

    Return rows as ``sweeper evaluate --format csv`` has them.

    Args:
        models: open_clip names with tags, folders, ``hf-hub:NAME``, ``world``, Python functions, files of answers, or
            points of sweeps such as ``NAME:knee``.
        data: ``world``, ``KIND:PATH``, or YAML files with ``sets:``; none for files of answers and points of sweeps.
        reference: a model; KL from it is measured too, on clean images.
        variants: whether to measure under held-out attacks too.
        attack: ``sign`` or ``defense_prefix``; None: that of the data.
        images: largest number of images of each set.
        seed: seed of pasted words and of the choice of images.
        device: ``cpu``, ``cuda``, ``cuda:1``; None: cuda if there is one.
        echo: takes a line for each set; None: they are not shown.

    Raises:
        UserError: a model, images or answers cannot be loaded.

    Examples:
        >>> table = evaluate(["demo:untouched", "demo:paint"])
        >>> table.loc[table["view"] == "clean", ["model", "set", "images"]]
                    model         set  images
        0  demo:untouched  world/test      40
        2      demo:paint  world/test      40
    """
    from sweeper.models.measuring import measured_rows

    measuring = _measuring(data, attack, images, seed, device, storage, echo)
    named = [models] if isinstance(models, str) else models
    return _frame(measured_rows(named, measuring, variants=variants, reference=reference))


def compare(
    first: str,
    second: str,
    data: str | Sequence[str] = (),
    *,
    attack: str | None = None,
    images: int | None = None,
    seed: int = 0,
    device: str | None = None,
    storage: str | Path | None = None,
    echo: Echo | None = None,
) -> pandas.DataFrame:
    """Compare two models on the same images: differences, second minus first, with 95 % paired bootstrap intervals.

    Args:
        first: a model as for ``evaluate``, as the other arguments.
        second: another model.

    Raises:
        UserError: a model, images or answers cannot be loaded, or the models share no image.

    Examples:
        >>> table = compare("demo:untouched", "demo:untouched")
        >>> table["difference"].abs().sum().item(), set(table["verdict"])
        (0.0, {'not told apart'})
    """
    from dataclasses import asdict

    from sweeper.models.measuring import compared_models

    measuring = _measuring(data, attack, images, seed, device, storage, echo)
    comparisons, notes = compared_models(first, second, measuring)
    for note in notes:
        measuring.echo(note)
    return _frame([{**asdict(comparison), "verdict": comparison.verdict} for comparison in comparisons])


def _measuring(
    data: str | Sequence[str],
    attack: str | None,
    images: int | None,
    seed: int,
    device: str | None,
    storage: str | Path | None,
    echo: Echo | None,
) -> Measuring:
    from sweeper.models.measuring import Measuring, named_data
    from sweeper.storage.opening import storage_folder

    told = echo or _silent
    named = named_data([data] if isinstance(data, str) else data, attack, told)
    root = storage_folder(storage)
    return Measuring(data=named, storage=root, echo=told, images=images, seed=seed, device=device)


def _session(
    folder: SweepFolder, words: Sequence[str], on_trial: Callable[[TrialRecord], None] | None, echo: Echo | None
) -> None:
    from sweeper.run.child import EndedTrials, call

    look = _nothing if on_trial is None else EndedTrials(folder, on_trial).look
    call(words, echo=echo, look=look)


def _session_options(
    storage: str,
    gpus: float | None,
    address: str | None,
    budget: str | None,
    time: str | None,
    tracking_uri: str | None,
) -> list[str]:
    given = {
        "--storage": storage,
        "--gpus": None if gpus is None else f"{gpus:g}",
        "--address": address,
        "--budget": budget,
        "--time": time,
        "--tracking-uri": tracking_uri,
    }
    return [word for option, value in given.items() if value is not None for word in (option, value)]


def _options(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _overrides(changes: Mapping[str, object] | None) -> list[str]:
    """Return changes as ``--set`` takes them."""
    try:
        return [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
    except TypeError as error:
        raise UserError(f"changes: {error}; give numbers, texts, lists and mappings") from error


@contextmanager
def _written(spec: AnySpec, name: str | None) -> Iterator[tuple[list[str], Path]]:
    """Context manager: the words of a command that name a spec, and its file; a mapping is written into a file."""
    from sweeper.spec.shipped import spec_file

    if not isinstance(spec, Mapping):
        yield [str(spec)], spec_file(Path(spec))
        return
    import yaml

    from trainables.settings.sets import SettingError
    from trainables.settings.task import absolute_paths

    if name is None and "name" not in spec:
        raise UserError('a spec that is a mapping needs a name: add "name" to it, or give name=')
    with tempfile.TemporaryDirectory(prefix="sweeper-") as scratch:
        file = Path(scratch) / "spec.yaml"
        try:
            file.write_text(yaml.safe_dump(absolute_paths(json.loads(json.dumps(spec)), Path.cwd()), sort_keys=False))
        except TypeError as error:
            raise UserError(f"the spec: {error}; give numbers, texts, lists and mappings") from error
        except SettingError as error:
            raise UserError(f"the spec: {error}") from error
        yield [str(file)], file


def _frame(rows: Sequence[Mapping[str, object]]) -> pandas.DataFrame:
    """Return rows with the same keys as a DataFrame; whole numbers stay whole where some are missing."""
    import pandas

    columns: dict[str, Any] = {}
    for key in rows[0] if rows else ():
        values = [row[key] for row in rows]
        known = {type(value) for value in values if value is not None}
        columns[key] = pandas.array(values, dtype="Int64") if known == {int} and None in values else values
    return pandas.DataFrame(columns)


def _silent(line: str) -> None: ...


def _nothing() -> None: ...
