"""The report of one node of a cluster: versions, devices, disk, the model and the images as it sees them.

``report`` and ``all_reduce`` run on the nodes; ``problems_of`` compares their answers and knows no Ray.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from trainables.settings.sets import Split
from trainables.settings.task import TaskSettings

DECODED = 16
"""Number of images of a split that are decoded for its digest, spread over the split."""
LEAST_FREE_BYTES = 2 * 2**30
ALL_REDUCE_S = 60.0
"""Longest time for the nodes to find each other and to add."""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """The answer of a node. Digests of two nodes are equal if they see the same."""

    versions: Mapping[str, str]
    gpus: tuple[str, ...]
    free_bytes: int
    """In the storage."""
    model: str | None = None
    """Digest of the loaded weights; None if they cannot be loaded."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Digest of each split, ``set/split``."""
    problems: tuple[str, ...] = ()
    """Files that cannot be read on this node, with the reasons."""


def report(task: TaskSettings, splits: Sequence[tuple[str, Split]], storage: Path) -> NodeReport:
    """Look at this node."""
    import torch

    from sweeper.environment import package_versions
    from trainables.models.clip import load_clip

    problems, model, images = [], None, {}
    try:
        model = load_clip(task.model).digest
    except ValueError as error:
        problems.append(f"model: {error}")
    for name, split in splits:
        try:
            images[f"{name}/{split}"] = _digest_of_images(task, name, split)
        except (ValueError, OSError) as error:
            problems.append(f"{name}/{split}: {error}")
    count = torch.cuda.device_count()
    return NodeReport(
        versions={"python": platform.python_version(), **package_versions()},
        gpus=tuple(torch.cuda.get_device_properties(index).name for index in range(count)),
        free_bytes=shutil.disk_usage(storage).free,
        model=model,
        images=images,
        problems=tuple(problems),
    )


def _digest_of_images(task: TaskSettings, name: str, split: Split) -> str:
    """Return the digest of the keys, labels and class names of a split, and of the pixels of some of its images."""
    from trainables.data.readers.kinds import list_images

    listing = list_images(name, task.sets[name], split)
    digest = hashlib.sha256(repr((listing.keys, listing.class_names)).encode())
    digest.update(listing.labels.tobytes())
    count = len(listing.keys)
    for index in sorted({position * count // DECODED for position in range(DECODED)} if count else ()):
        try:
            image = listing.open(index).convert("RGB")
        except (OSError, ValueError, SyntaxError):
            digest.update(b"broken")
        else:
            digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()


def all_reduce(rank: int, world_size: int, address: str, backend: Literal["gloo", "nccl"]) -> float:
    """Add the numbers 1 to ``world_size`` of the ranks, one a node, and return the sum that this node has got.

    Args:
        address: ``host:port`` of rank 0.
    """
    import torch
    import torch.distributed as dist

    device = torch.device("cuda" if backend == "nccl" else "cpu")
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=ALL_REDUCE_S),
    )
    try:
        total = torch.tensor([rank + 1.0], device=device)
        dist.all_reduce(total)
        return float(total.item())
    finally:
        dist.destroy_process_group()


def problems_of(reports: Mapping[str, NodeReport], here: Mapping[str, str]) -> list[str]:
    """Return what is wrong on the nodes, a line each.

    Args:
        reports: by the name of the node.
        here: versions of the driver's packages.
    """
    problems = [f"node {name}: {problem}" for name, node in reports.items() for problem in node.problems]
    for name, node in reports.items():
        for package, version in node.versions.items():
            if package in here and here[package] != version:
                problems.append(
                    f"node {name}: {package} {version}, and {here[package]} here; install the same on every node"
                )
        if node.free_bytes < LEAST_FREE_BYTES:
            problems.append(f"node {name}: only {node.free_bytes / 2**30:.1f} GiB free in the storage")
    problems += _different("the weights of the model", {name: node.model for name, node in reports.items()})
    for split in sorted({split for node in reports.values() for split in node.images}):
        seen = {name: node.images.get(split) for name, node in reports.items()}
        problems += _different(f"the images of {split}", seen)
    return problems


def _different(what: str, digests: Mapping[str, str | None]) -> list[str]:
    known = {name: digest for name, digest in digests.items() if digest is not None}
    if len(set(known.values())) < 2:
        return []
    first = next(iter(known))
    others = [name for name, digest in known.items() if digest != known[first]]
    return [f"{what} are others on {', '.join(others)} than on {first}: copy the same files to every node"]
