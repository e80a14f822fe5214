"""Images per second of a trial, compared with the authors' training loop.

    python -m benchmarks.training.throughput --output FILE
    python -m benchmarks.training.throughput ViT-B-32 --device cuda --batch 256

Same model (random weights), class prompts, batch and machine; the loops take turns, so that load on the machine hits
all of them. The trial is ``run_trial`` itself on a folder of noise images, timed between its calls of a hook. The
authors' loop is ``benchmarks.training.authors_loop``.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.machine import cpu, cpu_flags, save
from benchmarks.training.authors_loop import LEARNING_RATE, SIDE, AuthorsLoop
from trainables.context.trial_context import TrialContext
from trainables.models.towers import split_blocks
from trainables.numerics import thread_count
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context
from trainables.training.hooks import Hooks
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

CLASSES = open_clip.IMAGENET_CLASSNAMES[:100]
TEMPLATE = "a photo of a {}."
PARAMETERS = {"objective": "dpo", "beta": 1.0, "lambda_reg": 1.0, "learning_rate": LEARNING_RATE}
VALIDATION = 20
"""Images. They are never evaluated: trials end before their first evaluation."""
PEAK_TFLOPS = {
    "H200": (989.0, 67.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "A10": (125.0, 31.2),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
}
"""Part of a GPU's name -> dense (bf16, fp32) peaks from the maker's data sheet, of the SXM variant if it has one."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    bf16: bool
    scope: dict[str, Any] | None
    """Fields of ``Parameters`` that select what is trained; None: the authors' loop."""
    compiled: bool = False
    cuda_only: bool = False


ROWS = (
    Row("authors' loop: all weights, fp32", False, None),
    Row("all weights, fp32", False, {"tune": "all"}),
    Row("image tower, fp32", False, {"tune": "visual"}),
    Row("image tower, bf16", True, {"tune": "visual"}),
    Row("last block on cached activations, fp32", False, {"tune": "last_blocks", "blocks": 1}),
    Row("last block on cached activations, bf16", True, {"tune": "last_blocks", "blocks": 1}),
    Row("all weights, bf16", True, {"tune": "all"}, cuda_only=True),
)
COMPILED = (
    Row("image tower, fp32, compiled", False, {"tune": "visual"}, compiled=True),
    Row("image tower, bf16, compiled", True, {"tune": "visual"}, compiled=True),
)


class Enough(Exception):
    """Ends a trial after its timed steps."""


class Stopwatch:
    """Called before each step: starts after the warm-up, raises ``Enough`` after the timed steps."""

    def __init__(self, device: torch.device, warmup: int, timed: int, tick: Callable[[], float]) -> None:
        self._device, self._warmup, self._timed, self._clock = device, warmup, timed, tick
        self._calls, self._begun_s, self._started_s = 0, 0.0, 0.0
        self.warmup_s, self.step_s = 0.0, 0.0

    def __call__(self) -> bool:
        if self._calls == 0:
            self._begun_s = self._now_s()
        if self._calls == self._warmup:
            self._started_s = self._now_s()
            self.warmup_s = self._started_s - self._begun_s
        if self._calls == self._warmup + self._timed:
            self.step_s = (self._now_s() - self._started_s) / self._timed
            raise Enough
        self._calls += 1
        return False

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return self._clock()


class LoopTimer:
    """Times trials and the authors' loop with one model on the same images."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name, self._folder, self._options = name, folder, options
        self.device = torch.device(options.device)
        write_model(name, folder / "model")
        # One more step than is timed, so that no epoch ends before the last timed step.
        self._pairs = options.batch * (options.warmup + options.steps + 1)
        write_images(folder / "train", self._pairs)
        write_images(folder / "validation", VALIDATION)
        self._contexts: dict[tuple[bool, bool], TrialContext] = {}
        self._authors_loop = self._make_authors_loop()
        self._trials = 0

    def step_s(self, row: Row) -> tuple[float, float]:
        """Return the seconds (of the whole warm-up, of a step)."""
        watch = Stopwatch(self.device, self._options.warmup, self._options.steps, clock(self.device))
        self._run(row, watch)
        return watch.warmup_s, watch.step_s

    def tera_flops(self, row: Row) -> float:
        """Return the TFLOP of a step, forward and backward, counted by PyTorch; includes recomputed and unused work."""
        with FlopCounterMode(display=False) as counter:
            totals: list[int] = []

            def count() -> bool:
                totals.append(counter.get_total_flops())
                if len(totals) > 1:
                    raise Enough
                return False

            self._run(row, count)
        return (totals[1] - totals[0]) / 1e12

    def processor_share(self) -> float:
        """Return the share of the authors' step that their image processor takes."""
        now_s = clock(self.device)
        before_s, started_s = self._authors_loop.processor_s, now_s()
        self._authors_loop.step(torch.arange(self._options.batch))
        return (self._authors_loop.processor_s - before_s) / (now_s() - started_s)

    def _run(self, row: Row, before_step: Callable[[], bool]) -> None:
        try:
            if row.scope is None:
                for i in range(self._pairs):
                    before_step()
                    first = i * self._options.batch
                    self._authors_loop.step(torch.arange(first, first + self._options.batch) % self._pairs)
            else:
                self._trials += 1
                run_trial(
                    self._context(row),
                    Parameters.model_validate({**PARAMETERS, **row.scope}),
                    seed=0,
                    folder=TrialFolder(self._folder / f"trial-{self._trials}"),
                    hooks=Hooks(interrupted=before_step),
                )
        except Enough:
            pass
        gc.collect()

    def _context(self, row: Row) -> TrialContext:
        key = (row.bf16, row.compiled)
        if key not in self._contexts:
            task = task_of(self._folder, self._options.batch, "bf16" if row.bf16 else "fp32")
            context = open_context(task, data_seed=0, cache=self._folder / "cache", device=self.device)
            if row.compiled:
                for part in split_blocks(context.clip.model.visual) or ():
                    part.compile()
            self._contexts[key] = context
        return self._contexts[key]

    def _make_authors_loop(self) -> AuthorsLoop:
        model = open_clip.create_model(f"local-dir:{self._folder / 'model'}").float().eval()
        tokens = open_clip.get_tokenizer(self.name)([TEMPLATE.format(name) for name in CLASSES])
        noise = torch.Generator().manual_seed(0)
        shape = (self._pairs, 3, SIDE, SIDE)
        clean, attacked = (torch.randint(0, 256, shape, generator=noise, dtype=torch.uint8) for _ in range(2))
        labels = torch.arange(self._pairs) % len(CLASSES)
        return AuthorsLoop(
            model,
            tokens[:, : int((tokens != 0).sum(-1).max())],
            clean,
            attacked,
            labels,
            (labels + 1) % len(CLASSES),
            mean=model.visual.preprocess_cfg["mean"],
            std=model.visual.preprocess_cfg["std"],
            steps=1000,
            device=self.device,
            clock=clock(self.device),
        )


def task_of(folder: Path, batch: int, precision: str) -> TaskSettings:
    """Return a task on the model and images in a folder (``write_model``, ``write_images``)."""
    return TypographicSettings.model_validate(
        {
            "model": {"architecture": f"local-dir:{folder / 'model'}"},
            "sets": {
                "noise": {
                    "kind": "image_folder",
                    "train": str(folder / "train"),
                    "validation": str(folder / "validation"),
                    "test": str(folder / "validation"),
                    "class_names": {name: name for name in CLASSES},
                }
            },
            "train": {"set": "noise"},
            "evaluate": {"search": {"sets": ["noise"]}, "test": {"sets": ["noise"]}},
            "training": {"epochs": 3, "global_batch_size": batch, "micro_batch_size": None, "precision": precision},
        }
    )


def write_model(name: str, folder: Path) -> None:
    """Write an untrained model as an open_clip folder."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model(name)
    folder.mkdir(parents=True)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": dict(model.visual.preprocess_cfg)}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def write_images(folder: Path, count: int) -> None:
    """Write small images of noise, in the folders of all classes in turn."""
    noise = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for i in range(count):
        pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / CLASSES[i % len(CLASSES)] / f"{i}.png")


def table(timer: LoopTimer, rows: list[Row], options: argparse.Namespace) -> Iterator[str]:
    """Yield lines of Markdown. A ratio is the median over rounds of (authors' time / time) within a round."""
    times_s: dict[str, list[float]] = {row.name: [] for row in rows}
    first_s: dict[str, float] = {}
    for turn in range(options.rounds):
        for row in rows:
            warmup_s, step_s = timer.step_s(row)
            first_s.setdefault(row.name, warmup_s)
            times_s[row.name].append(step_s)
            sys.stderr.write(f"{timer.name}, round {turn + 1}, {row.name}: {step_s:.3f} s a step\n")
    authors = rows[0]
    yield "| loop | s per step | images/s | ratio to the authors' | TFLOP per step | TFLOP/s | of the device's peak |"
    yield "| --- " * 7 + "|"
    median_s = {name: statistics.median(rounds_s) for name, rounds_s in times_s.items()}
    for row in rows:
        rounds = zip(times_s[authors.name], times_s[row.name], strict=True)
        ratios = [authors_s / row_s for authors_s, row_s in rounds]
        tera = timer.tera_flops(_eager(row) if row.compiled else row)
        seconds = median_s[row.name]
        peak = peak_tflops(timer.device, row.bf16)
        share = "unknown" if peak is None else f"{tera / seconds / peak:.1%}"
        yield (
            f"| {row.name} | {seconds:.3f} | {2 * options.batch / seconds:.1f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {tera:.3g} | {tera / seconds:.3g} | {share} |"
        )
    yield ""
    yield f"Of the authors' step {timer.processor_share():.1%} is their image processor's."
    for row in rows:
        if row.compiled and _eager(row).name in median_s:
            yield compile_line(row, first_s[row.name], median_s, options.warmup)


def compile_line(row: Row, first_s: float, median_s: dict[str, float], warmup: int) -> str:
    """Return a sentence on the time of compiling, and on the step from which it pays."""
    compiled_s, eager_s = median_s[row.name], median_s[_eager(row).name]
    cost_s = first_s - warmup * compiled_s
    line = f"{row.name}: {cost_s:.0f} s for compiling (forward and backward of training alone), "
    if compiled_s >= eager_s:
        return line + "and no faster: it never pays."
    return line + f"made up for after {cost_s / (eager_s - compiled_s):.0f} steps of {2} x batch images."


def _eager(row: Row) -> Row:
    return next(eager for eager in ROWS if eager.scope == row.scope and eager.bf16 == row.bf16)


def clock(device: torch.device) -> Callable[[], float]:
    """Return the clock of the measurements: processor time for a single thread on a CPU, else wall-clock time.

    On an idle machine both are the same for a single thread.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def peak_tflops(device: torch.device, bf16: bool) -> float | None:
    """Return the peak of a GPU in TFLOP/s; None: unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peaks = next((peaks for part, peaks in PEAK_TFLOPS.items() if part in name), None)
    return None if peaks is None else peaks[0 if bf16 else 1]


def environment(options: argparse.Namespace) -> Iterator[str]:
    flags = cpu_flags()
    amx, avx = (name in flags for name in ("amx_bf16", "avx512_bf16"))
    bf16 = "AMX" if amx else "AVX-512 without AMX" if avx else "not in hardware"
    where = f"{cpu()}, {torch.get_num_threads()} thread(s), bf16: {bf16}"
    if options.device.startswith("cuda"):
        where = f"{torch.cuda.get_device_name()} beside {where}"
    processor = clock(torch.device(options.device)) is time.process_time
    timed = "processor time of the one thread" if processor else "time on the clock"
    yield f"{where}; torch {torch.__version__}, open_clip {open_clip.__version__}."
    yield ""
    yield (
        f"Batch {options.batch} + {options.batch} images (clean + attacked), {len(CLASSES)} class prompts, DPO and KL, "
        f"Adamax. {options.rounds} rounds in turn of {options.warmup} + {options.steps} steps (the first ones not "
        f"timed), {timed}; s per step is the median over rounds, the ratio the median (lowest to highest) of the "
        "rounds' ratios."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["ViT-B-32", "RN50"], help="open_clip architectures")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=None, help="pairs per step; 16 on a CPU, 256 on a GPU")
    parser.add_argument("--threads", type=int, default=None, help="2 on a CPU; with 1, processor time is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=None, help="steps before the timed ones; 1 on a CPU, 5 on a GPU")
    parser.add_argument("--steps", type=int, default=None, help="timed steps in a round; 2 on a CPU, 20 on a GPU")
    parser.add_argument("--rows", nargs="*", default=[], help="only rows whose names contain one of these words")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile of the tower's blocks")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    options.batch = options.batch or (256 if cuda else 16)
    options.warmup, options.steps = options.warmup or (5 if cuda else 1), options.steps or (20 if cuda else 2)
    rows = [row for row in (*ROWS, *(COMPILED if options.compile else ())) if cuda or not row.cuda_only]
    if options.rows:
        rows = [ROWS[0], *(row for row in rows[1:] if any(word in row.name for word in options.rows))]
    count = options.threads or (None if cuda else 2)
    lines = ["# Speed of a training step", ""]
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    with thread_count(count) if count else nullcontext():
        lines += environment(options)
        for name in options.names:
            lines += ["", f"## {name}", ""]
            with tempfile.TemporaryDirectory() as folder:
                lines += table(LoopTimer(name, Path(folder), options), rows, options)
            text = "\n".join([*lines, "", *READING]) + "\n"
            save(text, options.output)  # after each model: a run may take long
    sys.stdout.write(text)


READING = (
    "The authors train all weights. `all weights` is the same work done by us; `image tower` leaves the text tower and",
    "the logit scale alone (the paper's figure does, its code does not), which is our default. What ours computes once",
    "and not at every step is outside these times: pixels at the model's size, the reference's embeddings, the text",
    "embeddings of a frozen tower, and for the last block the activations in front of it, once for all trials.",
)


if __name__ == "__main__":
    main()
