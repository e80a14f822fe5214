"""Time of image towers with contiguous and with channels_last weights and pixels, with random weights.

    python -m benchmarks.training.memory_format [NAME...] --output FILE

The two formats run in turns in one process, so that the load of the machine falls on both. Towers are named as
open_clip names models, or as timm names trunks.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from benchmarks.common.machine import publish, torch_device
from trainables.models.towers import breaks_in_channels_last, prefers_channels_last

NAMES = (
    *("RN50", "resnet50", "mobilenetv2_100", "convnext_tiny", "MobileCLIP2-S0", "MobileCLIP2-B", "ViTamin-S"),
    *("swin_tiny_patch4_window7_224", "ViT-B-32"),
)
BATCH, TURNS = 16, 5
FORMATS = (torch.contiguous_format, torch.channels_last)
HEAD = (
    "| tower | channels_last is used | forward ms, contiguous | channels_last | ratio (range) "
    "| forward and backward ms, contiguous | channels_last | ratio (range) |\n" + "| --- " * 8 + "|"
)


def untrained(name: str) -> Any:
    """Return an image tower with random weights."""
    torch.manual_seed(0)
    if name in open_clip.list_models():
        return open_clip.create_model(name, pretrained=None).visual.eval()
    return TimmModel(name, 512, pool="", proj="linear").eval()


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the time of a call; on a CPU the processor time of this process."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    synchronize(device)
    started_s = clock()
    run()
    synchronize(device)
    return 1000 * (clock() - started_s)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def forward(visual: Any, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = visual(pixels)
    return features


def step(visual: Any, pixels: Tensor) -> None:
    visual.zero_grad(set_to_none=True)
    visual(pixels).square().sum().backward()


def timed(visual: Any, pixels: Tensor, run: Callable[[Any, Tensor], object]) -> str:
    """Return the columns of one kind of run: medians of both formats, and of the ratios within a turn with range."""
    times: list[tuple[float, ...]] = []
    for turn in range(TURNS + 1):
        pair = []
        for memory_format in FORMATS:
            visual.to(memory_format=memory_format)
            inputs = pixels.contiguous(memory_format=memory_format)
            pair.append(milliseconds(lambda inputs=inputs: run(visual, inputs), pixels.device))
        if turn > 0:  # the first calls prepare kernels and memory
            times.append(tuple(pair))
    contiguous, last = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(after / before for before, after in times)
    return f"{contiguous:.0f} | {last:.0f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def row(name: str, device: torch.device) -> str:
    visual = untrained(name).to(device)
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    pixels = torch.randn(BATCH, 3, side, side, device=device)
    used = "yes" if prefers_channels_last(visual) else "no"
    for module in visual.modules():
        if isinstance(module, nn.Conv2d) and breaks_in_channels_last(module):
            module.weight.requires_grad_(False)  # its gradient would damage this process
            used = "no: memory errors on CPU"
    return f"| {name} | {used} | {timed(visual, pixels, forward)} | {timed(visual, pixels, step)} |"


def environment(device: torch.device) -> str:
    used = f"float32, batch {BATCH}, median of {TURNS} turns; ratio: channels_last / contiguous"
    return f"{torch_device(device.type)}; {used}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="models of open_clip or trunks of timm")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    lines = ["# Memory format of image towers, random weights", "", environment(device), "", *HEAD.splitlines()]
    for name in options.names:
        lines.append(row(name, device))
        sys.stderr.write(lines[-1] + "\n")
        gc.collect()
    publish("\n".join(lines) + "\n", options.output)


if __name__ == "__main__":
    main()
