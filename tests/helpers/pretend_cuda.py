"""A CUDA device that is pretended: tensors that say they are on ``cuda:0`` and hold their values in host memory.

Inside ``PretendCuda()`` every ATen call is checked as eager CUDA checks it (one device per call; a CPU scalar or CPU
indices may come along), then computed on the CPU. So a whole trial runs without a GPU, with real values, and a tensor
on the wrong device raises ``WrongDevice`` with the call that mixed them. ``waits`` counts what would make the host wait
for the GPU, by kind and by the project's own line. ImportError where PyTorch lacks the private names used here.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from typing import Any
from unittest import mock

import torch
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
PRIVATE_NAMES = (
    "_DisableTorchDispatch",
    "_ensureCUDADeviceGuardSet",
    "_only_lift_cpu_tensors",
    "_set_only_lift_cpu_tensors",
    "_disabled_torch_function_impl",
)
if missing := [name for name in PRIVATE_NAMES if not hasattr(torch._C, name)]:
    raise ImportError(f"torch {torch.__version__} has no {', '.join(missing)}")
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.is_nonzero.default,
    aten.item.default,
    aten._linalg_eigh.default,
    aten._linalg_svd.default,
}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
MOVES = {aten._to_copy.default, aten.copy_.default}
NO_SCALARS = {
    aten.cat.default,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.stack.default,
    aten.convolution.default,
    aten.gather.default,
    aten.index_select.default,
    aten.embedding.default,
}


class WrongDevice(RuntimeError):
    """Tensors of different devices in one call."""


class OnCuda(torch.Tensor):
    """Says it is on ``cuda:0``."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnCuda:
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
            made = torch.Tensor._make_subclass(cls, shape, False, device_for_backend_keys=CUDA)
        made.held = held
        return made

    # In C++ the device is meta (autograd then needs no CUDA streams) with CUDA's dispatch keys (autocast); Python sees:
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self) -> Any:
        assert PretendCuda.active is not None
        PretendCuda.active.wait("read: tolist")
        return self.held.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnCuda({self.held})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mode = PretendCuda.active
        if mode is None:  # a tensor that outlived the mode
            raise WrongDevice(f"{func} outside of PretendCuda")
        return mode.call(func, args, kwargs or {})

    def __deepcopy__(self, memo: Any) -> OnCuda:
        return OnCuda(self.held.clone())


class PretendCuda(TorchDispatchMode):
    """The device, while the block lasts."""

    active: PretendCuda | None = None

    def __init__(self, free_bytes: int = 80 * 2**30) -> None:
        super().__init__()
        self.waits: collections.Counter[tuple[str, str]] = collections.Counter()
        self._stack = contextlib.ExitStack()
        self._free_bytes = free_bytes

    def __enter__(self) -> PretendCuda:
        torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode: autograd's device guard does nothing
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") makes a CPU one and moves it
        really_load = torch.load

        def load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
            loaded = really_load(*args, map_location="cpu", **kwargs)
            return tree.tree_map_only(torch.Tensor, lambda t: t.to(map_location), loaded)

        functions = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "empty_cache": lambda: None,
            "synchronize": lambda *_: self.wait("synchronize"),
            "mem_get_info": lambda *_: (self._free_bytes, self._free_bytes),
            "is_bf16_supported": lambda *_, **__: True,
            "get_device_name": lambda *_: "pretended",
            "reset_peak_memory_stats": lambda *_: None,
            "max_memory_reserved": lambda *_: 0,
            "get_device_properties": lambda *_: mock.Mock(total_memory=self._free_bytes),
        }
        for name, value in functions.items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, value))
        self._stack.enter_context(mock.patch.object(torch, "load", load))
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to makes new parameters
        self._stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        PretendCuda.active = self
        super().__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        super().__exit__(*why)
        PretendCuda.active = None
        self._stack.close()
        torch._C._set_only_lift_cpu_tensors(self._before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Check, count and compute one ATen call."""
        tensors = [t for t in tree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_cuda = [t for t in tensors if isinstance(t, OnCuda)]
        to_cuda = _on_cuda(kwargs["device"]) if kwargs.get("device") is not None else bool(on_cuda)
        if func in MOVES:
            self._count_move(func, args, kwargs, to_cuda)
        elif on_cuda:
            self._check(func, args, tensors)
        inner_args, inner_kwargs = tree.tree_map_only(OnCuda, lambda t: t.held, (args, kwargs))
        if _on_cuda(inner_kwargs.get("device")):
            inner_kwargs["device"] = torch.device("cpu")
        if func is aten._to_copy.default:
            inner_kwargs.pop("non_blocking", None)
        result = func(*inner_args, **inner_kwargs)
        if func is aten._to_copy.default and any(result is t for t in tree.tree_leaves(inner_args)):
            result = result.clone()
        if func is aten.copy_.default:
            return args[0]
        if not to_cuda:
            return result
        same = {id(t.held): t for t in on_cuda}
        return tree.tree_map_only(torch.Tensor, lambda t: same[id(t)] if id(t) in same else OnCuda(t), result)

    def wait(self, kind: str) -> None:
        """Count a wait of the host, by the line of the project, or of an optimiser, that asks for it."""
        frame: Any = sys._getframe(1)
        while frame is not None and not any(
            part in frame.f_code.co_filename for part in ("/trainables/", "/sweeper/", "/optim/")
        ):
            frame = frame.f_back
        where = "?" if frame is None else f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        self.waits[kind, where] += 1

    def _count_move(self, func: Any, args: Any, kwargs: dict[str, Any], to_cuda: bool) -> None:
        quiet = bool(kwargs.get("non_blocking"))
        source = args[0]
        if func is aten.copy_.default:
            source, to_cuda = args[1], isinstance(args[0], OnCuda)
            quiet = quiet or (len(args) > 2 and args[2])
        if isinstance(source, OnCuda) and not to_cuda:
            self.wait("D2H")
        elif to_cuda and not isinstance(source, OnCuda):
            self.wait("H2D non_blocking, pageable" if quiet else "H2D")

    def _check(self, func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
        if func in INDEXED:
            if not isinstance(args[0], OnCuda):
                raise WrongDevice(f"{func}: CPU tensor indexed with CUDA indices or values")
            for index in args[1]:
                if index is not None and not isinstance(index, OnCuda):
                    self.wait("H2D of CPU indices")
                if index is not None and index.dtype == torch.bool:
                    self.wait("D2H: size of a mask")
            if len(args) > 2 and not isinstance(args[2], OnCuda) and args[2].dim() > 0:
                raise WrongDevice(f"{func}: CPU values put into a CUDA tensor")
        elif any(not isinstance(t, OnCuda) and (t.dim() > 0 or func in NO_SCALARS) for t in tensors):
            places = [f"{'cuda' if isinstance(t, OnCuda) else 'cpu'}{tuple(t.shape)}" for t in tensors]
            raise WrongDevice(f"{func}: {', '.join(places)}")
        if func in READS:
            self.wait(f"read: {func.__name__.partition('.')[0]}")


def _on_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")
