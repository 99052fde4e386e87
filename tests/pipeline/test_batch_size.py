"""Batches and memory: what fits, and which errors say that something did not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finer_ray.pipeline.batch_size import TRIALS, is_lost, is_out_of_memory, largest_batch, masked_memory

GIB = 2**30


def raised_by_torch() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@given(st.integers(0, 4 * GIB), st.integers(1, GIB), st.integers(0, 80 * GIB), st.integers(1, 512))
def test_the_largest_power_of_two_that_fits(model: int, each: int, budget: int, most: int) -> None:
    found = largest_batch(lambda count: model + count * each, budget, most)
    assert 1 <= found <= most
    assert found & (found - 1) == 0
    if model + each <= budget:
        assert model + found * each <= budget
        assert 2 * found > most or model + 2 * found * each > budget - each
    else:
        assert found == 1


def test_trials_that_do_not_fit() -> None:
    def peak(count: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert largest_batch(peak, GIB, 64) == 1

    def broken(count: int) -> int:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        largest_batch(broken, GIB, 64)


def test_a_constant_part_errs_on_the_safe_side() -> None:
    """Masked images have a bound of their own, which small batches do not reach."""
    bounded = lambda count: min(count, 12) * GIB + count * 2**20  # noqa: E731
    found = largest_batch(bounded, 20 * GIB, 256)
    assert bounded(found) <= 20 * GIB
    assert TRIALS[0] <= found < 256


def test_errors_are_told_apart() -> None:
    no_memory = [
        torch.OutOfMemoryError("CUDA out of memory."),
        raised_by_torch(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"),
    ]
    lost = [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    ]
    neither = [ValueError("CUDA error"), RuntimeError("shape mismatch"), KeyError("x")]
    assert [(is_out_of_memory(e), is_lost(e)) for e in no_memory] == [(True, False)] * 5
    assert [(is_out_of_memory(e), is_lost(e)) for e in lost] == [(False, True)] * 3
    assert [(is_out_of_memory(e), is_lost(e)) for e in neither] == [(False, False)] * 3


def test_masked_memory_on_a_cpu() -> None:
    assert masked_memory(None, torch.device("cpu"), 0, 1) == GIB
    assert masked_memory(123, torch.device("cpu"), 0, 1) == 123


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masked_memory_on_a_gpu() -> None:
    whole = torch.cuda.get_device_properties(0).total_memory
    assert masked_memory(None, torch.device("cuda"), 1.0, 2) == max(GIB, whole // 16)
    assert masked_memory(123, torch.device("cuda"), 1.0, 2) == 123
