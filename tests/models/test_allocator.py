"""Freed memory is kept for the next buffers: counted in pages that the system has to give."""

import platform
import subprocess
import sys

import pytest
import torch

from finer_ray.config.schema import ModelConfig
from finer_ray.models import allocator, build_classifier, preparing

# Buffers of 40 MB, up to 9766 pages, one after the other, 8 after the first ones. In the main thread, or in one begun
# later. Of the package only the module, so that no torch is imported.
SCRIPT = f"""
import resource, runpy, sys, threading

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    for turn in range(24):
        if turn == 16:
            before = faults()
        b"x" * 40_000_000
    print((faults() - before) / 8)

if "keep" in sys.argv:
    assert runpy.run_path({allocator.__file__!r})["keep_freed_memory"]()
if "thread" in sys.argv:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_keeps_buffers(where: str) -> None:
    given_back, kept = (
        float(subprocess.run([sys.executable, "-c", SCRIPT, *args], capture_output=True, check=True, text=True).stdout)
        for args in ([where], [where, "keep"])
    )
    # Huge pages, where the system gives them, are 512 of the small ones.
    assert given_back >= 10
    assert kept < 1


def test_a_prepared_model_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(preparing, "keep_freed_memory", lambda: kept.append(True))
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64))
    preparing.prepare(model, torch.device("cpu"), "fp32")
    assert kept == [True]


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert allocator.keep_freed_memory() is False
