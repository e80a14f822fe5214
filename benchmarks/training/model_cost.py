"""Cost of each kind of model, with random weights.

    python -m benchmarks.training.model_cost [NAME...] --output FILE

Per model: parameters, embedding width, seconds per image, seconds per training step, bytes kept for the backward pass
with and without gradient checkpointing, and by how much the logits of an exported folder with W folded in differ.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from benchmarks.common.machine import publish, torch_device
from trainables.models.clip import Clip
from trainables.models.export import export_model, largest_logit_difference
from trainables.models.policy import Policy, make_policy
from trainables.models.towers import can_split, prefers_channels_last, split_blocks, trunk
from trainables.settings.parameters import Parameters

NAMES = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP")
BATCH, CLASSES, RANK, REPEATS = 8, 10, 64, 3
HEAD = (
    "| model | parameters | embed_dim | blocks | image s fp32 / bf16 | step s fp32 / bf16 | fp32, recomputing "
    f"| last block step s, cached | kept for backward MB, whole / recomputing | logit difference, rank {RANK} folded |"
)


def untrained(name: str) -> Clip:
    """Return a model of open_clip with random weights and without a tokenizer, which may need a download."""
    torch.manual_seed(0)
    model, config = open_clip.create_model(name).eval(), open_clip.get_model_config(name)
    if prefers_channels_last(model.visual):
        model.visual.to(memory_format=torch.channels_last)
    preprocessing = dict(model.visual.preprocess_cfg)
    size = preprocessing["size"] if isinstance(preprocessing["size"], int) else preprocessing["size"][0]

    def unused(*_: Any) -> Any:
        raise AssertionError("token ids are drawn")

    files = {"model_cfg": config, "preprocess_cfg": preprocessing}
    mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    return Clip(model, unused, unused, size, mean, std, config["embed_dim"], files, None, "")


def parameters(**changes: Any) -> Parameters:
    return Parameters.model_validate({"objective": "dpo", "beta": 1.0, "learning_rate": 1e-5, **changes})


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the median over ``REPEATS`` calls after an untimed call.

    On a CPU: processor time of this process, which for one thread is the wall-clock time of an idle machine.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    run()
    times_s = []
    for _ in range(REPEATS):
        synchronize(device)
        started_s = clock()
        run()
        synchronize(device)
        times_s.append(clock() - started_s)
    return sorted(times_s)[REPEATS // 2]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def step(policy: Policy, images: Tensor, prompts: Tensor) -> Callable[[], None]:
    """Return a function that does forward pass, backward pass and update on one batch."""
    optimizer = torch.optim.Adamax(policy.tuned().values(), lr=1e-5, foreach=True)
    labels = torch.arange(len(images), device=prompts.device) % CLASSES

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(policy(images, prompts), labels).backward()
        optimizer.step()

    return run


def kept_bytes(policy: Policy, images: Tensor, prompts: Tensor) -> int:
    """Return the size of the tensors that autograd keeps between forward and backward pass, without weights."""
    weights = {value.untyped_storage().data_ptr() for value in policy.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy(images, prompts).sum()
    return sum(kept.values())


def folding_error(clip: Clip, images: Tensor, text: Tensor) -> float:
    """Return the largest difference between the logits of a policy and of its exported folder.

    Logits of an untrained model are about 14 x a cosine.
    """
    policy = make_policy(clip, parameters(tune="transform", rank=RANK), embeddings=torch.eye(clip.embed_dim))
    w = torch.randn(RANK, clip.embed_dim, generator=torch.Generator().manual_seed(1)) / clip.embed_dim**0.5
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "exported"
        export_model(clip, policy, {"w": w}, 1.0, out)
        return largest_logit_difference(clip, policy, {"w": w}, 1.0, out, images, text)


def row(name: str, device: torch.device) -> str:
    clip = untrained(name).to(device)
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, clip.image_size, clip.image_size, 3), generator=noise, dtype=torch.uint8)
    text = torch.randint(1, 1000, (CLASSES, clip.model.context_length), generator=noise).to(device)
    with torch.no_grad():
        prompts = clip.model.encode_text(text, normalize=True).float()

    def made(choice: Parameters, **options: Any) -> Policy:
        return make_policy(clip, choice, **options)

    def forward(bf16: bool) -> float:
        policy = made(parameters(tune="visual"), bf16=bf16)
        with torch.no_grad():
            return seconds(lambda: policy.image_embeddings(images), device) / BATCH

    def trained(**options: Any) -> float:
        return seconds(step(made(parameters(tune="visual"), **options), images, prompts), device)

    error = folding_error(clip, images, text)  # before the steps below change the weights
    visual, gb = parameters(tune="visual"), 2**20
    whole = kept_bytes(made(visual), images, prompts) / gb
    again = kept_bytes(made(visual, gradient_checkpointing=True), images, prompts) / gb
    blocks = split_blocks(clip.model.visual)
    last = "-"
    if can_split(clip.model.visual):
        with torch.no_grad():
            activations = trunk(clip.model.visual, clip.pixels(images), 1).clone()
        cached = made(parameters(tune="last_blocks", blocks=1), from_activations=True)
        last = f"{seconds(step(cached, activations, prompts), device):.3f}"
    count = sum(value.numel() for value in clip.model.parameters()) / 1e6
    return (
        f"| {name} | {count:.1f} M | {clip.embed_dim} | {len(blocks or ())} "
        f"| {forward(False):.4f} / {forward(True):.4f} | {trained():.3f} / {trained(bf16=True):.3f} "
        f"| {trained(gradient_checkpointing=True):.3f} "
        f"| {last} | {whole:.0f} / {again:.0f} | {error:.1e} |"
    )


def environment(device: torch.device) -> str:
    used = f"; batch {BATCH}, {CLASSES} classes, steps over the whole image tower (last block: on cached activations)"
    return f"{torch_device(device.type)}{used}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="open_clip architectures")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    lines = ["# Models, random weights", "", environment(device), "", HEAD, "| --- " * 10 + "|"]
    for name in options.names:
        lines.append(row(name, device))
        sys.stderr.write(lines[-1] + "\n")
        gc.collect()
    text = "\n".join(lines) + "\n"
    publish(text, options.output)


if __name__ == "__main__":
    main()
