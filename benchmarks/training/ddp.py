"""Speed of one trial on several workers.

    python -m benchmarks.training.ddp --output FILE
    python -m benchmarks.training.ddp --device cuda --workers 1 2 4 8 --batch 1024

One trial of the image tower with the same global batch on 1, 2, ... workers, each a process with one thread or one GPU,
through ``run_trial`` as in a sweep (DDP; gloo on CPUs, NCCL on GPUs). Peer: the same trial on one worker in the same
run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from benchmarks.common.machine import environment, publish
from benchmarks.training.throughput import PARAMETERS, VALIDATION, Enough, Stopwatch, task_of, write_images, write_model
from trainables.distributed import WorkerGroup
from trainables.settings.parameters import Parameters
from trainables.tasks.known import open_context
from trainables.training.hooks import Hooks
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

TIMEOUT = timedelta(seconds=600)


def work(rank: int, workers: int, port: int, folder: Path, options: argparse.Namespace, turn: int) -> None:
    """Run one worker of a trial; the first worker writes the seconds per step to a file."""
    cuda = options.device == "cuda"
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    device = torch.device(f"cuda:{rank}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    if workers > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group(
            "nccl" if cuda else "gloo", init_method=address, rank=rank, world_size=workers, timeout=TIMEOUT
        )
    task = task_of(folder, options.batch, options.precision)
    context = open_context(task, data_seed=0, cache=folder / "cache", device=device)
    watch = Stopwatch(device, options.warmup, options.steps, time.perf_counter)
    with contextlib.suppress(Enough):
        run_trial(
            context,
            Parameters.model_validate({**PARAMETERS, "tune": "visual"}),
            seed=0,
            folder=TrialFolder(folder / f"trial-{workers}-{turn}"),
            group=WorkerGroup(rank=rank, world_size=workers, device=device),
            hooks=Hooks(interrupted=watch),
        )
    if rank == 0:
        (folder / f"step_s-{workers}-{turn}").write_text(str(watch.step_s))
    if workers > 1:
        dist.destroy_process_group()


def step_s(workers: int, folder: Path, options: argparse.Namespace, turn: int) -> float:
    """Return the seconds per step of a trial on some workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(work, args=(workers, port, folder, options, turn), nprocs=workers)
    return float((folder / f"step_s-{workers}-{turn}").read_text())


def table(times_s: dict[int, list[float]], batch: int) -> list[str]:
    """Return the Markdown table; a ratio is the median over rounds of the ratio within a round."""
    lines = ["| workers | s per step | images/s | times one worker | of as many times |", "| ---: " * 5 + "|"]
    for workers, rounds_s in times_s.items():
        seconds = statistics.median(rounds_s)
        times = statistics.median(single / several for single, several in zip(times_s[1], rounds_s, strict=True))
        lines.append(
            f"| {workers} | {seconds:.3f} | {2 * batch / seconds:.1f} | {times:.2f} | {100 * times / workers:.0f} % |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="ViT-B-32", help="an open_clip architecture")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="1 among them")
    parser.add_argument("--batch", type=int, default=32, help="pairs per step, of all workers together")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=2, help="timed steps in a round")
    options = parser.parse_args()
    if 1 not in options.workers:
        parser.error("--workers needs 1 among them, to compare with")
    load = [os.getloadavg()[0]]
    times_s: dict[int, list[float]] = {workers: [] for workers in options.workers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(options.name, folder / "model")
        write_images(folder / "train", options.batch * (options.warmup + options.steps + 1))
        write_images(folder / "validation", VALIDATION)
        for turn in range(options.rounds):
            for workers in options.workers:
                times_s[workers].append(step_s(workers, folder, options, turn))
                sys.stderr.write(f"round {turn + 1}, {workers} workers: {times_s[workers][-1]:.3f} s a step\n")
                load.append(os.getloadavg()[0])
    where = torch.cuda.get_device_name() if options.device == "cuda" else "one thread per worker"
    lines = [
        f"# One trial on several workers, {options.name}",
        "",
        f"{environment('torch', 'open_clip_torch')}; {where}; load average {min(load):.1f} to {max(load):.1f}. "
        f"Image tower, {options.precision}, global batch {options.batch} + {options.batch} images, "
        f"{options.rounds} rounds in turn of {options.warmup} + {options.steps} steps (the first ones not timed); "
        "medians.",
        "",
        *table(times_s, options.batch),
    ]
    publish("\n".join(lines) + "\n", options.output)


if __name__ == "__main__":
    main()
