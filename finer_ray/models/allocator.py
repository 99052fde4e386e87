"""Settings of the C library's allocator: freed memory is kept for the next buffers."""

import ctypes

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
# Bytes; the most that glibc takes.
NEVER_TRIM = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, instead of giving it back to the system.

    Of a CNN every layer's output has a buffer of its own, of megabytes. By glibc's defaults each comes from the system
    and goes back to it, and the kernel fills each page with zeros anew: in batches of 32 two thirds of
    EfficientNet-Lite0's time, and a tenth of a ViT-S's. What is kept, at most 13 % more than the peak without, is kept
    until the process ends (`benchmarks/bench_allocator.py`).

    A setting of the whole process, for all its threads but those that have memory of their own already: these still
    give a third of the pages back (a forward pass takes 28 ms in place of 50, where others take 18). So it seems to be
    in part on Ray, whose processes have many threads before a model is prepared. Where the C library is another one
    (macOS, musl) or the allocator was replaced (jemalloc), nothing changes.

    Returns:
        Whether the C library has these settings.

    >>> keep_freed_memory() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # One arena: memory that one thread frees is of use to the others, and blocks above 64 MB fit into no other.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER_TRIM}
    return all(mallopt(name, value) for name, value in settings.items())
