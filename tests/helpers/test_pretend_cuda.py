"""The pretended GPU behaves as a GPU does: placement, waits, copies on streams, threads."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.pretend_cuda import CUDA, NotWaited, PretendCuda, WrongDevice, supported

pytestmark = pytest.mark.skipif(not supported(), reason=f"torch {torch.__version__} has other private names")


@pytest.fixture
def cuda() -> Iterator[PretendCuda]:
    with PretendCuda() as device:
        yield device


def kinds(cuda: PretendCuda) -> Counter[str]:
    """Return the waits by kind, whoever asked for them."""
    return Counter({kind: count for (kind, _), count in cuda.waits.items()})


def pinned(*values: float) -> Tensor:
    buffer = torch.empty(len(values), pin_memory=True)
    return buffer.copy_(torch.tensor(values))


def test_tensors_say_that_they_are_on_the_gpu_and_hold_values(cuda: PretendCuda) -> None:
    there = torch.arange(6.0).to("cuda").reshape(2, 3)
    assert there.device == CUDA and there.is_cuda and not there.is_cpu and (there * 2).device == CUDA
    assert torch.equal((there @ there.T).cpu(), torch.tensor([[5.0, 14.0], [14.0, 50.0]]))
    assert there.to(CUDA) is there and there.to(torch.float32) is there and there.to(CUDA, copy=True) is not there
    assert torch.zeros_like(there).device == CUDA and torch.zeros(2, device="cuda").device == CUDA


def test_gradients_and_optimisers(cuda: PretendCuda) -> None:
    layer = nn.Linear(3, 2)
    alone = copy.deepcopy(layer)
    images = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for module, device in ((layer.to(CUDA), CUDA), (alone, torch.device("cpu"))):
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        module(images.to(device)).square().sum().backward()
        optimizer.step()
    copied = copy.deepcopy(layer)
    assert all(isinstance(weights, nn.Parameter) and weights.requires_grad for weights in copied.parameters())
    for there, here in zip(copied.cpu().parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(there.detach(), here.detach())


@pytest.mark.parametrize("size", [(), (1,), (3,)], ids=["scalar", "one", "vector"])
def test_a_scalar_of_the_host_may_be_read_but_not_written(cuda: PretendCuda, size: tuple[int, ...]) -> None:
    here, there = torch.ones(size), torch.ones(3).to(CUDA)
    if size == ():
        assert (there + here).device == CUDA
    else:
        with pytest.raises(WrongDevice, match=r"aten.add.Tensor: cuda:0 \(3,\), cpu \(\d,\); called by no line"):
            there + here
    with pytest.raises(WrongDevice, match="aten.add_"):
        here.add_(there.sum())


def test_an_index_of_the_host_is_copied_and_values_of_the_host_are_refused(cuda: PretendCuda) -> None:
    there, rows = torch.zeros(3, device=CUDA), torch.tensor([0, 2])
    there[rows] = torch.ones(2, device=CUDA)
    assert there[rows].device == CUDA and kinds(cuda)["H2D of CPU indices"] == 2
    with pytest.raises(WrongDevice, match="index_put"):
        there[rows] = torch.ones(2)
    with pytest.raises(WrongDevice, match="index.Tensor"):
        torch.zeros(3)[rows.to(CUDA)]


def test_what_reads_the_gpu_waits_and_what_does_not_does_not(cuda: PretendCuda) -> None:
    there = torch.ones(3).to(CUDA)
    before = kinds(cuda)
    float(there.sum()), there.tolist(), bool(there.any()), there.cpu(), there.nonzero(), there[there > 0]
    assert kinds(cuda) - before == {
        "read: _local_scalar_dense": 2,
        "read: tolist": 1,
        "D2H": 1,
        "read: nonzero": 1,
        "read: size of a mask": 1,
    }
    before = kinds(cuda)
    (there * 2 + 1).softmax(0).argmax(), torch.zeros(3, device=CUDA).add_(there), there[:2], there.where(there > 0, 0.0)
    assert kinds(cuda) == before
    torch.cuda.synchronize()
    torch.cuda.current_stream(CUDA).synchronize()
    assert kinds(cuda) - before == {"synchronize: device": 1, "synchronize: stream": 1}


def test_only_a_copy_from_pinned_memory_does_not_wait(cuda: PretendCuda) -> None:
    buffer, pageable = pinned(1.0, 2.0), torch.ones(2)
    assert buffer[1:].to(CUDA, non_blocking=True).device == CUDA and not cuda.waits
    pageable.to(CUDA, non_blocking=True)
    torch.empty(2, device=CUDA).copy_(pageable, non_blocking=True)
    assert kinds(cuda) == {"H2D pageable": 2}
    buffer.to(CUDA)
    assert kinds(cuda) == {"H2D pageable": 2, "H2D": 1}


def test_a_buffer_may_be_written_when_the_host_has_waited_for_its_copy(cuda: PretendCuda) -> None:
    buffer, rows = pinned(1.0, 2.0), torch.tensor([1])
    there = buffer.to(CUDA, non_blocking=True)
    with pytest.raises(NotWaited, match="aten.fill_.Scalar: the buffer"):
        buffer.fill_(9.0)
    with pytest.raises(NotWaited, match="aten.index_select.out"):
        torch.index_select(torch.ones(2), 0, rows, out=buffer[1:])
    assert (there * 2).tolist() == [2.0, 4.0]  # waits
    buffer.fill_(9.0)
    there.copy_(buffer, non_blocking=True)
    with pytest.raises(NotWaited):
        buffer.zero_()
    assert there.tolist() == [9.0, 9.0]


def test_a_copy_to_the_host_has_arrived_when_something_has_waited(cuda: PretendCuda) -> None:
    there = torch.ones(2).to(CUDA)
    waited = kinds(cuda)
    here, target = there.to("cpu", non_blocking=True), pinned(0.0, 0.0).copy_(there, non_blocking=True)
    there.zero_()  # after the copies
    assert kinds(cuda) == waited
    assert here.isnan().all() and target.isnan().all()
    with pytest.raises(NotWaited):
        target.zero_()
    torch.cuda.current_stream().synchronize()
    assert here.tolist() == target.tolist() == [1.0, 1.0]


def test_another_stream_must_wait_for_the_copy(cuda: PretendCuda) -> None:
    side, copied = torch.cuda.Stream(CUDA), torch.cuda.Event()
    with torch.cuda.stream(side):
        there = pinned(1.0, 2.0).to(CUDA, non_blocking=True)
        copied.record(side)
    assert not copied.query() and torch.cuda.current_stream() is not side
    with pytest.raises(NotWaited, match="aten.mul.Tensor: cuda:0"):
        there * 2
    torch.cuda.current_stream(CUDA).wait_event(copied)
    there.record_stream(torch.cuda.current_stream())
    doubled = there * 2
    with torch.cuda.stream(torch.cuda.Stream(CUDA)), pytest.raises(NotWaited):
        there * 2
    assert not cuda.waits
    assert doubled.tolist() == [2.0, 4.0]
    copied.synchronize()
    assert copied.query() and kinds(cuda)["synchronize: event"] == 1


def test_threads_are_on_the_device_and_their_waits_are_their_own(cuda: PretendCuda) -> None:
    side, copied = torch.cuda.Stream(CUDA), torch.cuda.Event()

    def copy_to_gpu(values: Tensor) -> Tensor:
        values.to(CUDA, non_blocking=True)
        with torch.cuda.stream(side):
            there = pinned(*values.tolist()).to(CUDA, non_blocking=True)
            copied.record(side)
        torch.cuda.synchronize()
        return there

    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(copy_to_gpu, torch.ones(2)).result()
        assert not cuda.waits
        assert {kind for kind, _ in cuda.waits_of_threads} == {"H2D pageable", "synchronize: device"}
        assert (there + 1).tolist() == [2.0, 2.0]
        with pytest.raises(WrongDevice):
            pool.submit(lambda: there + torch.ones(2)).result()


def test_a_thread_that_outlives_the_device_computes_on_the_cpu() -> None:
    with PretendCuda(), ThreadPoolExecutor(1) as pool:
        there = pool.submit(lambda: torch.ones(2).to(CUDA)).result()
        kept = ThreadPoolExecutor(1)
        kept.submit(lambda: None).result()
    assert kept.submit(lambda: torch.ones(2).sum().item()).result() == 2.0
    kept.shutdown()
    with pytest.raises(WrongDevice, match="after its context"):
        there + 1


def test_memory_is_what_the_device_says() -> None:
    with PretendCuda(free_bytes=1000):
        free_bytes, total_bytes = torch.cuda.mem_get_info(CUDA)
        torch.cuda.set_per_process_memory_fraction(0.5, CUDA)
        assert free_bytes == 1000 < total_bytes == torch.cuda.get_device_properties(CUDA).total_memory
        assert torch.cuda.get_per_process_memory_fraction(CUDA) == 0.5
        assert torch.cuda.memory_allocated(CUDA) == torch.cuda.memory_reserved(CUDA) == 0
        assert torch.cuda.is_available() and torch.cuda.is_initialized()


def test_everything_is_as_before_afterwards() -> None:
    def state() -> list[object]:
        return [
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.__future__.get_overwrite_module_params_on_conversion(),
            torch.cuda.Stream,
            torch.cuda.is_available,
            torch.empty,
            torch.load,
            threading.Thread.run,
            torch.Tensor.pin_memory,
        ]

    before = state()
    with pytest.raises(ZeroDivisionError), PretendCuda():
        torch.backends.cuda.matmul.allow_tf32 = not torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
        raise ZeroDivisionError
    assert state() == before
    assert PretendCuda.active is None and torch.ones(2).sum() == 2
