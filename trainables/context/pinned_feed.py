"""Images that stay in the host's memory, on their way to a GPU: gathered and copied while the GPU works."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor]
"""Images (N, H, W, 3) uint8 and rows (B,) of them, both in the host's memory."""
_Copied = tuple[Tensor, torch.cuda.Event]


class PinnedFeed:
    """Copies rows of images to a GPU through two buffers of pinned memory, on a stream of its own.

    A copy from other memory makes the host wait, and one thread's gathering takes longer than a step. So a thread
    gathers and copies the next rows, if they were announced by ``prefetch``, while the GPU works on the present ones.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        """When each buffer may be overwritten."""
        self._turn = 0
        """The buffer that is filled next; changed by the thread only."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._ahead: tuple[Sequence[Part], Future[_Copied]] | None = None

    def take(self, parts: Sequence[Part]) -> Tensor:
        """Return the images (B, H, W, 3) of all parts, one part after the other, on the GPU.

        Raises:
            torch.OutOfMemoryError: they do not fit on the GPU.
        """
        ahead, self._ahead = self._ahead, None
        known = ahead[1] if ahead is not None and _same(ahead[0], parts) else None
        images, copied = (known or self._thread.submit(self._copy, parts)).result()
        present = torch.cuda.current_stream(self._device)
        present.wait_event(copied)
        images.record_stream(present)
        return images

    def prefetch(self, parts: Sequence[Part]) -> None:
        """Begin to copy the parts that ``take`` is called with next; nothing happens if it is called with others."""
        self._ahead = parts, self._thread.submit(self._copy, parts)

    def _copy(self, parts: Sequence[Part]) -> _Copied:
        turn, self._turn = self._turn, 1 - self._turn
        last = self._copied[turn]
        if last is not None:
            last.synchronize()
        gathered = self._buffer(turn, sum(len(rows) for _, rows in parts), parts[0][0])
        start = 0
        for images, rows in parts:
            torch.index_select(images, 0, rows, out=gathered[start : start + len(rows)])
            start += len(rows)
        with torch.cuda.stream(self._stream):
            there = gathered.to(self._device, non_blocking=True)
            copied = self._copied[turn] = torch.cuda.Event()
            copied.record(self._stream)
        return there, copied

    def _buffer(self, turn: int, rows: int, images: Tensor) -> Tensor:
        """Return ``rows`` rows of a buffer with the shape and type of ``images``; the buffer grows if it must."""
        held = self._buffers[turn]
        if len(held) < rows or held.shape[1:] != images.shape[1:] or held.dtype != images.dtype:
            self._buffers[turn] = torch.empty((rows, *images.shape[1:]), dtype=images.dtype, pin_memory=True)
        return self._buffers[turn][:rows]


def _same(announced: Sequence[Part], wanted: Sequence[Part]) -> bool:
    return len(announced) == len(wanted) and all(
        images is of and torch.equal(rows, chosen)
        for (images, rows), (of, chosen) in zip(announced, wanted, strict=True)
    )
