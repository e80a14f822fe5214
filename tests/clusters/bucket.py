"""A sweep in a bucket whose driver's machine is lost, and two drivers of one sweep at once. A real S3 server (moto)."""

from __future__ import annotations

import logging
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.drills import checks, processes, records
from tests.drills.reference import reference
from tests.drills.sweeps import Place, Sweep
from tests.paths import ROOT

PATIENCE_S = 900.0


class _S3:
    """Context manager: an S3 server of this machine with the bucket ``sweeps``."""

    def __enter__(self) -> dict[str, str]:
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        access = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
        url = f"http://{host}:{port}"
        boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        ).create_bucket(Bucket="sweeps")
        return access | {"AWS_ENDPOINT_URL": url}

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def main(folder: Path, seed: int) -> int:
    """Run the drill and print what it has found; return the number of problems."""
    here = Place(root=ROOT, storage=folder / "sweeps", logs=folder / "logs")
    here.logs.mkdir(parents=True, exist_ok=True)
    undisturbed = reference(here, 1)
    records.preload()
    rng, uri, problems = random.Random(seed), f"s3://sweeps/{seed}-{int(time.time())}", list[str]()
    tracking_uri = f"sqlite:///{folder}/mlflow-{seed}-{int(time.time())}.db"
    with _S3() as access:

        def machine(number: int) -> Sweep:
            """Return the sweep as a machine sees it that shares only the bucket with the others."""
            mirror = folder / f"machine-{seed}-{int(time.time())}-{number}"
            place = Place(
                root=ROOT,
                storage=mirror,
                logs=folder / "logs" / mirror.name,
                environment={
                    **access,
                    "SWEEPER_MIRROR": str(mirror),
                    "SWEEPER_STORAGE": uri,
                },
            )
            sweep = Sweep(place, "lost", 1)
            sweep.tracking_uri = tracking_uri
            return sweep

        first, second = machine(1), machine(2)
        driver = first.run()
        after_s = rng.uniform(0.3, 0.8) * undisturbed.took_s
        _await_trial(first, PATIENCE_S)
        time.sleep(after_s / 2)
        for process in processes.marked(first.mark):  # the machine is gone: nothing more is sent
            with suppress(Exception):
                process.kill()
        driver.wait(30)
        lost_s = time.monotonic()
        print(f"machine 1 lost {after_s / 2:.0f} s after its first trial began, in {_local(first).phase()}", flush=True)
        at_once = [second, machine(3)]
        for sweep in at_once:
            sweep.logs.mkdir(parents=True, exist_ok=True)
        drivers = [sweep.resume() for sweep in at_once]
        while sum(driver.running() for driver in drivers) > 1 and time.monotonic() - lost_s < PATIENCE_S:
            time.sleep(0.2)
        refused = [driver for driver in drivers if not driver.running()]
        for driver in refused:
            print(f"the other driver: exit code {driver.code}: {driver.err().strip().splitlines()[-1][:140]}")
            if driver.code != 2 or "is being run by" not in driver.err():
                problems.append(f"two drivers at once: exit code {driver.code}")
        [winner] = [sweep for sweep, driver in zip(at_once, drivers, strict=True) if driver not in refused] or [second]
        winner.drivers[-1].wait(PATIENCE_S)
        if winner.drivers[-1].code != 0:
            problems.append(f"exit code {winner.drivers[-1].code}: {winner.drivers[-1].err()[-600:]}")
        print(f"complete {time.monotonic() - lost_s:.0f} s after the loss; undisturbed {undisturbed.took_s:.0f} s")
        mirrored = _local(winner)
        problems += checks.check_trials(mirrored, [])
        problems += checks.check_mlflow(mirrored, tracking_uri)
        problems += checks.check_same(_Shown(mirrored, winner), undisturbed.content)
        read = machine(4)
        listed = subprocess.run(
            read.place.command("list"), env=read.place.variables(read.mark), capture_output=True, text=True, timeout=120
        )
        print(listed.stdout.strip())
        if "complete" not in listed.stdout:
            problems.append(f"list from a fourth machine: {listed.stdout} {listed.stderr}")
    for problem in problems:
        print(f"problem: {problem}")
    return len(problems)


class _Shown(Sweep):
    """A sweep whose files lie in one place, and whose commands are told another."""

    def __init__(self, files: Sweep, told: Sweep) -> None:
        super().__init__(files.place, files.name, files.slots)
        self._told = told

    def front(self) -> list[dict[str, object]]:
        return self._told.front()


def _local(sweep: Sweep) -> Sweep:
    """Return the sweep in the folder that stands for the bucket on its machine."""
    [storage] = sweep.place.storage.glob("*/run")
    place = Place(root=ROOT, storage=storage, logs=sweep.place.logs, environment=sweep.place.environment)
    found = Sweep(place, sweep.name, sweep.slots)
    found.drivers = sweep.drivers
    return found


def _await_trial(sweep: Sweep, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not list(sweep.place.storage.glob(f"*/run/{sweep.name}/trials/00001/metrics.jsonl")):
        if time.monotonic() > until:
            raise RuntimeError("no trial has begun")
        time.sleep(0.2)
