"""A CUDA device that is pretended: whole trials run on it without a GPU, with real values.

Inside ``PretendCuda()`` a tensor on a GPU is an ``OnCuda``: it says ``cuda:0`` and holds its values in the host's
memory. Every ATen call is checked by the rules of eager CUDA, then computed on the CPU:

- Tensors of different devices in one call raise ``WrongDevice`` with the call, the tensors and the project's line. As
  on a GPU, a CPU scalar may come along where PyTorch takes one, and CPU indices into a GPU tensor are copied.
- ``waits`` counts what makes the host wait for the GPU, by kind and by the project's line.
- A ``non_blocking`` copy from or to pinned memory makes nobody wait. Until the host has waited for it, one to the host
  leaves NaN, and writing into the buffer of either raises ``NotWaited``; so does using the GPU's tensor on a stream
  that has not waited.

Limits: one GPU; no bf16 autocast (PyTorch asks for the device in C++, which is meta); no NCCL; memory never runs out;
kernels are done at once, so their order between streams is not checked. Of other threads only those are on the device
that begin inside the context; their waits are counted in ``waits_of_threads``.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import trainables

CUDA = torch.device("cuda:0")
TOTAL_BYTES = 80 * 2**30
_ROOT = Path(trainables.__file__).parents[1]
_PROJECT = tuple(f"{_ROOT / package}/" for package in ("trainables", "sweeper"))
_PRIVATE_NAMES = (
    "_DisableTorchDispatch",
    "_disabled_torch_function_impl",
    "_ensureCUDADeviceGuardSet",
    "_only_lift_cpu_tensors",
    "_pop_torch_dispatch_stack",
    "_push_on_torch_dispatch_stack",
    "_set_only_lift_cpu_tensors",
)

_COPY, _TO_COPY = torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default
_READS = {
    "aten::_linalg_eigh",
    "aten::_linalg_svd",
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
}
"""Calls whose result the host reads, or needs to know the size of."""
_INDEXED = {
    "aten::_index_put_impl_",
    "aten::_unsafe_index.Tensor",
    "aten::_unsafe_index_put",
    "aten::index.Tensor",
    "aten::index_put",
    "aten::index_put_",
}
"""Calls that take indices of either device."""
_NO_SCALARS = {
    "aten::addmm",
    "aten::bmm",
    "aten::cat",
    "aten::convolution",
    "aten::embedding",
    "aten::gather",
    "aten::index_add",
    "aten::index_select",
    "aten::mm",
    "aten::scatter.src",
    "aten::scatter_add",
    "aten::stack",
}
"""Calls that do not even take a scalar of another device."""

_lock = threading.RLock()
"""Of the copies under way."""
_really_empty, _really_load, _really_run = torch.empty, torch.load, threading.Thread.run


class WrongDevice(RuntimeError):
    """Tensors of different devices in one call."""


class NotWaited(RuntimeError):
    """A tensor is used, or a buffer is written, while a copy on another stream may still be under way."""


def supported() -> bool:
    """Return whether this version of PyTorch has the private names that are used here."""
    return all(name in vars(torch._C) for name in _PRIVATE_NAMES) and "_parse_to" in vars(torch._C._nn)


class OnCuda(Tensor):
    """A tensor that says it is on ``cuda:0``.

    In C++ its device is meta, for which autograd needs no streams, with CUDA's dispatch keys.
    """

    held: Tensor
    """The values, in the host's memory."""
    arrival: _Copy | None
    """The copy from the host that fills it."""

    @staticmethod
    def __new__(cls, held: Tensor, arrival: _Copy | None = None) -> OnCuda:
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
            made = torch.Tensor._make_subclass(cls, shape, False, device_for_backend_keys=CUDA)
        made.held, made.arrival = held, arrival
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    __torch_function__ = vars(torch._C).get("_disabled_torch_function_impl")  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute in a thread that is not on the device."""
        return _active().call(func, args, kwargs or {})

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return this tensor itself where a GPU's would: C++ takes every ``to`` for a move from meta."""
        options = {name: value for name, value in kwargs.items() if name != "copy"}
        device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **options)
        moved = device is not None and not _names_cuda(device)
        if moved or dtype not in (None, self.dtype) or memory_format is not None or kwargs.get("copy"):
            return super().to(*args, **kwargs)
        return self

    def tolist(self) -> Any:
        _active().wait("read: tolist")
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy, use Tensor.cpu() first; {_place()}")

    def record_stream(self, stream: Any) -> None:
        """Memory is not reused here, so nothing needs to be kept for the stream."""
        assert isinstance(stream, _Stream)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied: Tensor = OnCuda(self.held.clone())
            copied = nn.Parameter(copied) if isinstance(self, nn.Parameter) else copied
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        made: Tensor = memo[id(self)]
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnCuda({self.held})"


class PretendCuda(TorchDispatchMode):
    """The device, as long as the context lasts. It restores the TF32 flags that PyTorch has for a GPU."""

    active: PretendCuda | None = None

    def __init__(self, free_bytes: int = TOTAL_BYTES) -> None:
        """Prepare a device.

        Args:
            free_bytes: memory that the device says it has. Tensors beyond it fit too.
        """
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        """(Kind, ``file.py:line`` of the project) -> waits of the thread that entered the context."""
        self.waits_of_threads: Counter[tuple[str, str]] = Counter()
        """The same of all other threads."""
        self._free_bytes, self._fraction = free_bytes, 1.0
        self._thread = threading.get_ident()
        self._pinned: dict[int, torch.UntypedStorage] = {}
        """Address -> pinned memory, kept so that no other memory gets its address."""
        self._of_thread = threading.local()
        self.streams: list[_Stream] = []
        """The default one first."""
        self._restored = ExitStack()

    def __enter__(self) -> PretendCuda:
        assert PretendCuda.active is None, "there is one device"
        torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode: autograd's device guard then does nothing
        with ExitStack() as entered:
            for function, before in (
                (torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors()),
                (
                    torch.__future__.set_overwrite_module_params_on_conversion,
                    torch.__future__.get_overwrite_module_params_on_conversion(),
                ),
            ):
                # torch.tensor(..., device="cuda") makes a CPU tensor and moves it; Module.to makes new parameters.
                entered.callback(function, before)
                function(True)
            for flags in (torch.backends.cuda.matmul, torch.backends.cudnn):
                entered.callback(setattr, flags, "allow_tf32", flags.allow_tf32)
            for owner, functions in (
                (torch.cuda, self._cuda_functions()),
                (torch, {"empty": self._empty, "load": self._load}),
                (torch.Tensor, {"pin_memory": lambda tensor, *_: self._pinned_copy(tensor)}),
                (threading.Thread, {"run": _run_on_device}),
            ):
                entered.enter_context(mock.patch.multiple(owner, **functions))
            PretendCuda.active, self._thread = self, threading.get_ident()
            entered.callback(setattr, PretendCuda, "active", None)
            self.streams = [_Stream()]
            super().__enter__()
            self._restored = entered.pop_all()
        return self

    def __exit__(self, *why: Any) -> None:
        super().__exit__(*why)
        self._restored.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Check, count and compute one ATen call.

        Raises:
            WrongDevice: eager CUDA does not take these tensors together.
            NotWaited: the present stream, or the host, has not waited for a copy.
        """
        tensors: list[Tensor] = []
        _collect((args, kwargs), tensors)
        on_cuda = [tensor for tensor in tensors if isinstance(tensor, OnCuda)]
        device = kwargs.get("device")
        to_cuda = bool(on_cuda) if device is None else _names_cuda(device)
        if on_cuda:
            self._check_arrivals(func, on_cuda)
        elif self._pinned and func._schema.is_mutable:
            self._check_buffers(func, args, kwargs)
        if func is _TO_COPY and to_cuda != bool(on_cuda):
            return self._moved(args[0], kwargs)
        if func is _COPY and isinstance(args[0], OnCuda) != isinstance(args[1], OnCuda):
            self._copy(*args, **kwargs)
            return args[0]
        if len(on_cuda) < len(tensors) and on_cuda:
            _check(func, args, tensors)
        if on_cuda:
            self._count(func, args)
        held = _mapped(args, _held)
        options = {name: _mapped(value, _held) for name, value in kwargs.items()}
        if device is not None and to_cuda:
            options["device"] = torch.device("cpu")
        result = func(*held, **options)
        if not to_cuda:
            return result
        same = {id(tensor.held): tensor for tensor in on_cuda}
        return _mapped(result, lambda values: same[id(values)] if id(values) in same else OnCuda(values))

    def wait(self, kind: str) -> None:
        """Let the host wait for the present stream, and count it."""
        self.count(kind)
        self.current_stream().finish()

    def count(self, kind: str) -> None:
        """Count a wait of the present thread."""
        frame = _project_frame()
        line = "?" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        waits = self.waits if threading.get_ident() == self._thread else self.waits_of_threads
        waits[kind, line] += 1

    def current_stream(self, device: Any = None) -> _Stream:
        """Return the stream of the present thread."""
        stream: _Stream = vars(self._of_thread).get("stream", self.streams[0])
        return stream

    @contextmanager
    def _on_stream(self, stream: _Stream | None) -> Iterator[None]:
        before = self.current_stream()
        self._of_thread.stream = stream or before
        try:
            yield
        finally:
            self._of_thread.stream = before

    def _synchronize(self, device: Any = None) -> None:
        self.count("synchronize: device")
        for stream in self.streams:
            stream.finish()

    def _check_arrivals(self, func: Any, tensors: list[OnCuda]) -> None:
        waited = self.current_stream().copies
        for tensor in tensors:
            copy = tensor.arrival
            if copy is not None and not copy.known and copy not in waited:
                raise NotWaited(
                    f"{func}: {_described(tensor)} is copied on a stream that this one does not wait for; {_place()}"
                )

    def _check_buffers(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Refuse to write into pinned memory that a copy may still read or write."""
        given = {**dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)), **kwargs}
        written: list[Tensor] = []
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                _collect(given.get(argument.name), written)
        under_way = {copy.buffer for stream in self.streams for copy in stream.copies if not copy.known}
        for tensor in written:
            if _address(tensor) in under_way:
                raise NotWaited(f"{func}: the buffer {_described(tensor)} may still be copied from or to; {_place()}")

    def _moved(self, source: Tensor, options: dict[str, Any]) -> Tensor:
        """Return a copy on the other device, see ``Tensor.to``."""
        quiet, held = options.get("non_blocking", False), _held(source)
        options = {**options, "device": torch.device("cpu"), "non_blocking": False}
        values: Tensor = _TO_COPY(held, **options)
        if isinstance(source, OnCuda):
            if not quiet:
                self.wait("D2H")
                return values
            target = torch.full_like(values, torch.nan) if values.is_floating_point() else torch.zeros_like(values)
            self._pin(target)
            self.current_stream().begin(_Copy(target, values))
            return target
        if quiet and self._is_pinned(held) and held.dtype == values.dtype and held.stride() == values.stride():
            arrival = _Copy(held)
            self.current_stream().begin(arrival)
            return OnCuda(values, arrival)
        self.wait("H2D" if self._is_pinned(held) else "H2D pageable")
        return OnCuda(values)

    def _copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> None:
        """Copy between the devices, see ``Tensor.copy_``."""
        to_cuda, here, there = isinstance(target, OnCuda), _held(source), _held(target)
        on_host = here if to_cuda else there
        alike = here.dtype == there.dtype and here.stride() == there.stride()
        quiet = non_blocking and self._is_pinned(on_host) and alike
        if quiet:
            copy = _Copy(on_host, None if to_cuda else here.clone())
            self.current_stream().begin(copy)
        elif to_cuda:
            self.wait("H2D" if self._is_pinned(on_host) else "H2D pageable")
        else:
            self.wait("D2H")
        if isinstance(target, OnCuda):
            target.arrival = copy if quiet else None
        if to_cuda or not quiet:
            there.copy_(here)
        elif there.is_floating_point():
            there.fill_(torch.nan)

    def _count(self, func: Any, args: Sequence[Any]) -> None:
        """Count the waits within one call."""
        if func.name() in _READS:
            self.wait(f"read: {func.name().removeprefix('aten::')}")
        if func.name() in _INDEXED:
            for index in args[1]:
                if index is not None and not isinstance(index, OnCuda):
                    self.wait("H2D of CPU indices")
                elif index is not None and index.dtype == torch.bool:
                    self.wait("read: size of a mask")

    def _pin(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.nbytes():
            self._pinned[storage.data_ptr()] = storage

    def _is_pinned(self, tensor: Tensor) -> bool:
        return _address(tensor) in self._pinned

    def _empty(self, *size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        made: Tensor = _really_empty(*size, **options)
        if pin_memory:
            self._pin(made)
        return made

    def _pinned_copy(self, tensor: Tensor) -> Tensor:
        copied = tensor.clone()
        self._pin(copied)
        return copied

    def _load(self, file: Any, map_location: Any = None, **options: Any) -> Any:
        loaded = _really_load(file, map_location="cpu", **options)
        if map_location is None or not _names_cuda(map_location):
            return loaded
        return tree_map_only(Tensor, lambda tensor: tensor.to(CUDA), loaded)

    def _set_fraction(self, fraction: float, device: Any = None) -> None:
        self._fraction = fraction

    def _cuda_functions(self) -> dict[str, Any]:
        properties = SimpleNamespace(name="pretended", total_memory=TOTAL_BYTES, major=9, minor=0)
        answers = {
            "_lazy_init": None,
            "current_device": 0,
            "device_count": 1,
            "empty_cache": None,
            "get_device_name": properties.name,
            "get_device_properties": properties,
            "is_available": True,
            "is_bf16_supported": True,
            "is_initialized": True,
            "max_memory_allocated": 0,
            "max_memory_reserved": 0,
            "mem_get_info": (self._free_bytes, TOTAL_BYTES),
            "memory_allocated": 0,
            "memory_reserved": 0,
            "reset_peak_memory_stats": None,
        }
        return {
            **{name: _answering(answer) for name, answer in answers.items()},
            "Event": _Event,
            "Stream": _Stream,
            "current_stream": self.current_stream,
            "default_stream": lambda device=None: self.streams[0],
            "get_per_process_memory_fraction": lambda device=None: self._fraction,
            "set_per_process_memory_fraction": self._set_fraction,
            "stream": self._on_stream,
            "synchronize": self._synchronize,
        }


class _Copy:
    """A copy between host and GPU beside the host's work."""

    def __init__(self, on_host: Tensor, values: Tensor | None = None) -> None:
        """Begin a copy from the host, or with ``values`` to it."""
        self.buffer, self._on_host, self._values = _address(on_host), on_host, values
        self.known = False
        """Whether the host has waited for it."""

    def finish(self) -> None:
        """Let the host know that it is done."""
        with _lock:
            if not self.known and self._values is not None:
                with torch._C._DisableTorchDispatch(), torch.no_grad():
                    self._on_host.copy_(self._values)
            self.known = True


class _Stream:
    """Stands for ``torch.cuda.Stream``."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = CUDA
        self.copies: list[_Copy] = []
        """Those that come before the stream's next work, unless the host knows that they are done."""
        _active().streams.append(self)

    def begin(self, *copies: _Copy) -> None:
        with _lock:
            self.copies = [copy for copy in (*self.copies, *copies) if not copy.known]

    def finish(self) -> None:
        """Let the host have waited for all copies."""
        with _lock:
            for copy in self.copies:
                copy.finish()
            self.copies = []

    def synchronize(self) -> None:
        _active().count("synchronize: stream")
        self.finish()

    def query(self) -> bool:
        return all(copy.known for copy in self.copies)

    def record_event(self, event: _Event | None = None) -> _Event:
        event = event or _Event()
        event.record(self)
        return event

    def wait_event(self, event: _Event) -> None:
        event.wait(self)

    def wait_stream(self, stream: _Stream) -> None:
        self.wait_event(stream.record_event())


class _Event:
    """Stands for ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._copies: list[_Copy] = []

    def record(self, stream: _Stream | None = None) -> None:
        self._copies = list((stream or _active().current_stream()).copies)

    def wait(self, stream: _Stream | None = None) -> None:
        (stream or _active().current_stream()).begin(*self._copies)

    def synchronize(self) -> None:
        _active().count("synchronize: event")
        for copy in self._copies:
            copy.finish()

    def query(self) -> bool:
        return all(copy.known for copy in self._copies)


class _OfThread(TorchDispatchMode):
    """Brings a thread onto the device that is active at the time of a call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if PretendCuda.active is None:
            return func(*args, **(kwargs or {}))
        return PretendCuda.active.call(func, args, kwargs or {})


def _run_on_device(thread: threading.Thread) -> None:
    """Run a thread. Not as a context: entering modes in two threads mixes up flags of the process."""
    torch._C._push_on_torch_dispatch_stack(_OfThread())
    try:
        _really_run(thread)
    finally:
        torch._C._pop_torch_dispatch_stack(None)


def _active() -> PretendCuda:
    if PretendCuda.active is None:
        raise WrongDevice("a tensor of a pretended GPU is used after its context")
    return PretendCuda.active


def _check(func: Any, args: Sequence[Any], tensors: list[Tensor]) -> None:
    """Refuse a call that has tensors of both devices, unless CUDA takes it.

    Raises:
        WrongDevice: it does not.
    """
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, OnCuda)]
    if func.name() in _INDEXED:
        on_cpu = [tensor for tensor in on_cpu if not any(tensor is index for index in args[1])]
    # PyTorch takes scalars of the CPU as numbers, but does not write into them.
    changed = args[0] if func._schema.is_mutable else None
    if any(tensor.dim() > 0 or func.name() in _NO_SCALARS or tensor is changed for tensor in on_cpu):
        raise WrongDevice(f"{func}: {', '.join(map(_described, tensors))}; {_place()}")


def _described(tensor: Tensor) -> str:
    return f"{tensor.device} {tuple(tensor.shape)}"


def _place() -> str:
    """Return the line of the project that is being run."""
    frame = _project_frame()
    if frame is None:
        return "called by no line of the project"
    return f"called by {Path(frame.f_code.co_filename).relative_to(_ROOT)}:{frame.f_lineno}"


def _project_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(_PROJECT):
        frame = frame.f_back
    return frame


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _names_cuda(device: Any) -> bool:
    return torch.device(device).type in ("cuda", "meta")


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, OnCuda) else tensor


def _collect(value: Any, tensors: list[Tensor]) -> None:
    """Append the tensors of nested lists, tuples and dicts: faster than PyTorch's own for any tree."""
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, list | tuple):
        for entry in value:
            _collect(entry, tensors)
    elif isinstance(value, dict):
        for entry in value.values():
            _collect(entry, tensors)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return nested lists and tuples with the function's result for each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list):
        return [_mapped(entry, function) for entry in value]
    if isinstance(value, tuple):
        return tuple(_mapped(entry, function) for entry in value)
    return value


def _answering(answer: Any) -> Callable[..., Any]:
    return lambda *_, **__: answer
