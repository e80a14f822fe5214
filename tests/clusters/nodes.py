"""A sweep on a Ray cluster whose second node joins late and fails later, and whose third takes its place.

Afterwards ``check --address`` runs on the two nodes that are left.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.clusters.network import Network
from tests.clusters.ray_nodes import RayNodes
from tests.drills import checks, records
from tests.drills.sweeps import SPEC, Place, Sweep
from tests.paths import ROOT

PATIENCE_S = 400.0


def main(folder: Path) -> int:
    """Run the drill and print what it has found; return the number of problems."""
    place = Place(root=ROOT, storage=folder / "sweeps", logs=folder / "logs")
    place.storage.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(place, f"nodes-{int(time.time())}", 2)
    # No trial is stopped early: the second node fails in the middle of trials.
    text = SPEC.format(trials=24, checkpoint_every_s=0.3, cpus=1).replace("epochs: 3", "epochs: 12")
    text = text.replace("kind: moasha, reduction_factor: 4", "kind: none")
    problems: list[str] = []
    with Network(3) as network, RayNodes(network, Path("/tmp/swn"), token="a" * 32) as cluster:
        first, second, third = network.nodes
        cluster.start(first)
        # The driver is on the head's machine: the other nodes reach it there.
        place = Place(
            root=ROOT,
            storage=place.storage,
            logs=place.logs,
            environment=cluster.environment,
            prefix=tuple(first.command()),
        )
        sweep.place = place
        driver = sweep.run("--address", cluster.address, text=text)

        def await_line(text: str) -> None:
            _await(lambda: text in driver.err() or not driver.running(), text)
            if text not in driver.err():
                problems.append(f"no line {text!r}; exit code {driver.code}: {driver.err()[-500:]}")

        await_line("trial 1 complete")
        cluster.start(second)
        await_line("node n2 (2 CPU) has joined the cluster")
        await_line("2 more trials at once, 4 in all")
        await_line("at 4 CPUs")
        _await(lambda: _running(driver.err()) == 4 or not driver.running(), "four trials at once")
        failed_s = time.monotonic()
        second.fail()
        await_line("node n2 (2 CPU) has left the cluster; its trials go on elsewhere")
        print(f"told after {time.monotonic() - failed_s:.1f} s that the node has left", flush=True)
        await_line("at 2 CPUs; forecast")
        cluster.start(third)
        await_line("node n3 (2 CPU) has joined the cluster")
        driver.wait(PATIENCE_S)
        if driver.code != 0:
            problems.append(f"exit code {driver.code}: {driver.err()[-1000:]}")
        checked = subprocess.run(
            place.command("check", str(sweep.logs / "spec.yaml"), "--address", cluster.address),
            capture_output=True, text=True, env=place.variables(sweep.mark), cwd=ROOT, timeout=PATIENCE_S,
        )  # fmt: skip
        print(checked.stdout)
        if checked.returncode != 0 or not all(f"{node.name} " in checked.stdout for node in (first, third)):
            problems.append(f"check --address: exit code {checked.returncode}: {checked.stderr[-1000:]}")
    problems += [*checks.check_trials(sweep, []), *checks.check_mlflow(sweep), *checks.check_words(sweep)]
    trials = records.trials(sweep)
    session = json.loads((sweep.path / "usage.json").read_text())["goes"][0]
    most_s = 4 * session["wall_s"]
    print(f"{len(trials)} trials, {session['slot_s']:.0f} slot seconds of {most_s:.0f} with four slots all the time")
    if not 0 < session["slot_s"] < most_s:
        problems.append(f"charged {session['slot_s']:.0f} slot seconds")
    lines = [line for line in driver.err().splitlines() if " lost" in line or "goes on" in line or "node " in line]
    print("\n".join(lines))
    for problem in problems:
        print(f"problem: {problem}")
    return len(problems)


def _running(lines: str) -> int:
    """Return how many trials run, by the driver's lines."""
    started = re.findall(r"trial (\d+) started", lines)
    ended = re.findall(r"trial (\d+) (?:complete|stopped|failed)", lines)
    return len(started) - len(ended)


def _await(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.2)
