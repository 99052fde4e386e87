"""Embeddings: every labelled row once, nothing dropped in silence, memory that does not grow."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finer_ray.errors import ExportError
from finer_ray.probe.config import TrainingConfig
from finer_ray.probe.embeddings import Embeddings, held_out
from finer_ray.probe.training import correct, train
from tests.probe.exports import gaussians, write_export

NAMES = ["a", "b", "c"]


def as_set(blocks: list[tuple[np.ndarray, np.ndarray]]) -> set[tuple[float, ...]]:
    return {(*row.tolist(), int(label)) for rows, labels in blocks for row, label in zip(rows, labels, strict=True)}


def test_every_labelled_row_is_read_once_and_every_other_is_counted(tmp_path: Path) -> None:
    rows, labels = gaussians(1700, 6, 3)
    given: list[int | None] = labels.tolist()
    given[5] = given[600] = None
    given[7] = 3
    failures = ["label", "decode", "label", "label"]
    first = write_export(tmp_path / "1", rows[:900], given[:900], NAMES, failures, per_unit=64, per_chunk=16)
    second = write_export(tmp_path / "2", rows[900:], given[900:], NAMES, per_unit=48, per_chunk=48)
    used = [row for row in range(1700) if row not in (5, 7, 600)]
    for cache_rows in (0, 2048, 100_000):
        data = Embeddings([first, second], 3, cache_rows=cache_rows)
        assert (len(data), data.unlabelled, data.unknown, data.failed) == (1697, 2, 4, 1)
        assert data.counts.tolist() == np.bincount(labels[used]).tolist()
        for _ in range(2):
            blocks = list(data.blocks())
            np.testing.assert_array_equal(np.concatenate([block[0] for block in blocks]), rows[used].astype(np.float16))
            np.testing.assert_array_equal(np.concatenate([block[1] for block in blocks]), labels[used])


def test_an_image_is_on_one_side_whatever_shard_it_is_in(tmp_path: Path) -> None:
    rows, labels = gaussians(2000, 4, 3)
    export = write_export(tmp_path, rows, labels.tolist(), NAMES, ["label"] * 3)
    fitted = Embeddings([export], 3, held_out(0.25, 0, inverse=True))
    judged = Embeddings([export], 3, held_out(0.25, 0))
    assert len(fitted) + len(judged) == 2000
    assert fitted.unknown + judged.unknown == 3
    assert 430 < len(judged) < 570
    assert not as_set(list(fitted.blocks())) & as_set(list(judged.blocks()))
    keys = [f"k{i}" for i in range(50)]
    assert held_out(0.25, 0)(keys).tolist() != held_out(0.25, 1)(keys).tolist()
    assert held_out(0.25, 0)(keys)[::-1].tolist() == held_out(0.25, 0)(keys[::-1]).tolist()


def test_exports_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one, other = (
        write_export(tmp_path / str(size), np.ones((4, size), np.float32), [0, 1, 0, 1], NAMES) for size in (3, 5)
    )
    with pytest.raises(ExportError, match=r"different sizes: \[3, 5\]"):
        Embeddings([one, other], 3)
    one.manifest = one.manifest.model_copy(
        update={"layout": one.manifest.layout.model_copy(update={"embedding": None})}
    )
    with pytest.raises(ExportError, match=r"output\.embedding: false"):
        Embeddings([one], 3)


def peak(path: Path, count: int) -> int:
    """Bytes at the peak of training and judging, beyond what there was before."""
    rows, labels = gaussians(count, 128, 10)
    export = write_export(path, rows, labels.tolist(), [str(name) for name in range(10)], per_unit=2048)
    del rows
    settings = TrainingConfig(iterations=2, cache_rows=2048)
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        data = Embeddings([export], 10, cache_rows=settings.cache_rows)
        correct(train(data, settings)[0], data)
        return tracemalloc.get_traced_memory()[1] + max(0, pa.total_allocated_bytes() - arrow)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    """Six times the rows, 7.7 MB more of embeddings; numpy's and Python's own allocations are traced."""
    peak(tmp_path / "warm", 6_000)
    small, large = peak(tmp_path / "small", 6_000), peak(tmp_path / "large", 36_000)
    assert large < 1.1 * small, (small, large)
