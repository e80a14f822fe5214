"""The peer of the driver's cost: Optuna's multi-objective TPE alone, in a process of its own."""

from __future__ import annotations

import random
import time
import warnings
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna

from benchmarks.common.optuna_space import suggest
from benchmarks.scheduling.virtual_slots import values_of
from sweeper.spec.space import Space


def peer_main(pipe: Connection, home: Path, startup_trials: int, space: Space) -> None:
    """Serve messages of the benchmark until one is ``end``.

    A path starts a round: its study is copied. In a round each ``next`` suggests and reports one further trial, and is
    answered with CPU seconds: (beside as many running trials as the study has, beside none). ``enough`` ends a round.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    noise = random.Random(0)

    def ask(study: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]]:
        trial = study.ask()
        return trial, space.draw(partial(suggest, trial))

    def tell(study: optuna.Study, trial: optuna.Trial, parameters: dict[str, Any]) -> None:
        values = values_of(parameters, 1.0, 1.0, noise)
        study.tell(trial, [values["clean_accuracy"], values["robust_accuracy"]])

    while isinstance(path := pipe.recv(), Path):
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{path}")
        trials = [trial for trial in study.get_trials() if trial.user_attrs["in_space"]]
        beside, alone = (
            optuna.create_study(
                storage=f"sqlite:///{home / f'{kind}-{len(trials)}.db'}",
                sampler=optuna.samplers.TPESampler(
                    n_startup_trials=startup_trials, multivariate=True, group=True, constant_liar=True, seed=0
                ),
                directions=["maximize", "maximize"],
            )
            for kind in ("beside", "alone")
        )
        finished = [trial for trial in trials if trial.state.is_finished()]
        for study in (beside, alone):
            study.add_trials(finished)
        running = [ask(beside) for _ in range(len(trials) - len(finished))]
        pipe.send(None)
        while (message := pipe.recv()) == "next":
            began_s = time.process_time()
            running.append(ask(beside))
            tell(beside, *running.pop(0))
            between_s = time.process_time()
            tell(alone, *ask(alone))
            pipe.send((between_s - began_s, time.process_time() - between_s))
        assert message == "enough"
