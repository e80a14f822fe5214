"""A real Slurm with a node per network namespace: munged, slurmctld, a slurmd each. Needs slurm-wlm and munge."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.clusters.network import HOST, PREFIX, Network, Node, run

CPUS = 2
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
_CONF = """\
ClusterName=test
SlurmctldHost=control({control})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdTimeout=20
KillWait=10
JobRequeue=1
MpiDefault=none
SchedulerParameters=sched_interval=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Context manager: a cluster of Slurm on the nodes of a network."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._network, self.folder = network, folder

    def __enter__(self) -> Slurm:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "state").mkdir()
        each = [
            f"NodeName={node.name} NodeHostname={node.name} NodeAddr={node.ip} CPUs={CPUS} RealMemory=4000"
            for node in self._network.nodes
        ]
        conf = _CONF.format(folder=self.folder, control=f"{PREFIX}.{HOST}", nodes="\n".join(each))
        (self.folder / "slurm.conf").write_text(conf)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        if subprocess.run(["pgrep", "munged"], capture_output=True).returncode != 0:
            run("install", "-d", "-o", "munge", "/run/munge")
            run("su", "munge", "-s", "/bin/sh", "-c", "munged")
        run("unshare", "--uts", "sh", "-c", "hostname control && exec slurmctld")
        for node in self._network.nodes:
            self.start_node(node)
        self._await("the nodes", lambda: run("sinfo", "-h", "-N", "-o", "%t").split() == ["idle"] * len(each), 60)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["scancel", "-u", "root"], capture_output=True)
        for node in self._network.nodes:
            node.fail()
        subprocess.run(["pkill", "-x", "slurmctld"])

    def start_node(self, node: Node) -> None:
        (self.folder / f"spool-{node.name}").mkdir(exist_ok=True)
        run(*node.command("slurmd", "-N", node.name))

    def await_down(self, node: Node, limit_s: float = 120.0) -> None:
        """Wait until Slurm has given a node up; slurmctld 22.05 crashes where a node comes back in that moment."""
        self._await(f"node {node.name} down", lambda: self._is_down(node), limit_s)

    def _is_down(self, node: Node) -> bool:
        return run("sinfo", "-h", "-n", node.name, "-o", "%T").strip().startswith("down")

    def submit(self, script: Path) -> str:
        """Submit a script from its folder; return the number of the job."""
        return run("sbatch", f"--chdir={script.parent}", "--parsable", str(script)).strip()

    def state(self, job: str) -> str:
        """Return the state of a job: RUNNING, PENDING, COMPLETED ..."""
        return self._field(job, "JobState")

    def restarts(self, job: str) -> int:
        return int(self._field(job, "Restarts"))

    def exit_code(self, job: str) -> int:
        return int(self._field(job, "ExitCode").partition(":")[0])

    def start_now(self, job: str) -> None:
        """Have a requeued job, which Slurm holds back for two minutes, start as soon as there are nodes."""
        subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], capture_output=True)

    def await_running(self, job: str, restarts: int, limit_s: float = 300.0) -> bool:
        """Wait until a job has been requeued so often and runs again. Return False if it has ended instead."""

        def settled() -> bool:
            state = self.state(job)
            if state == "PENDING":
                self.start_now(job)
            return state in ENDED or (state == "RUNNING" and self.restarts(job) >= restarts)

        self._await(f"allocation {restarts} of job {job}", settled, limit_s)
        return self.state(job) not in ENDED

    def await_end(self, job: str, limit_s: float) -> None:
        """Wait until a job has ended, however often it is requeued."""

        def ended() -> bool:
            state = self.state(job)
            if state == "PENDING":
                self.start_now(job)
            return state in ENDED

        self._await(f"the end of job {job}", ended, limit_s)

    def _field(self, job: str, name: str) -> str:
        words = dict(word.partition("=")[::2] for word in run("scontrol", "show", "job", job).split())
        return str(words[name])

    def _await(self, what: str, condition: Callable[[], bool], limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > until:
                raise RuntimeError(f"{what}: not within {limit_s:g} s")
            time.sleep(0.5)
