"""Sums by pair against loops, whatever the batches."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finer_ray.pairs.evidence import Foremost, PairSums, cosines, evidence, sums_by_part

PARTS = 3


@st.composite
def images(draw: st.DrawFn) -> tuple[np.random.Generator, int, list[int]]:
    """Some images, and where their batches end."""
    count = draw(st.integers(0, 30))
    ends = draw(st.lists(st.integers(0, count), max_size=4))
    return np.random.default_rng(draw(st.integers(0, 99))), count, sorted(ends)


@given(images())
def test_sums_are_those_of_loops_whatever_the_batches(made: tuple[np.random.Generator, int, list[int]]) -> None:
    random, count, ends = made
    pair, gap = random.integers(0, 4, count), random.normal(size=count)
    cells, parts = random.normal(size=(count, 3, 5)), random.integers(0, 1 + PARTS, (count, 3, 5))
    # Images without a mask, with a grid of their own, and without evidence.
    parts[random.random(count) < 0.3] = 0
    cells[random.random(count) < 0.3, :, 3:] = np.nan
    cells[random.random(count) < 0.2] = np.nan
    sums = PairSums(5, PARTS, named=2)
    whole = PairSums(5, PARTS, named=2)
    bounds = [0, *ends, count]
    for first, last in itertools.pairwise(bounds):
        some = slice(first, last)
        sums.add_gaps(pair[some], gap[some])
        sums.add_evidence(pair[some], np.arange(count)[some], cells[some], parts[some])
    whole.add_gaps(pair, gap)
    whole.add_evidence(pair, np.arange(count), cells, parts)
    for name, value in vars(whole).items():
        for ours, theirs in zip(*([getattr(x, "rows", x)] for x in (getattr(sums, name), value)), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for number in range(5):
        mine = [i for i in range(count) if pair[i] == number]
        with_some = [i for i in mine if np.isfinite(cells[i]).any()]
        assert (sums.images[number], sums.compared[number]) == (len(mine), len(with_some))
        assert sums.gap[number] == pytest.approx(sum(gap[mine]))
        assert sums.evidence[number] == pytest.approx(sum(np.nansum(cells[i]) for i in with_some))
        positive = {i: sum(x for x in cells[i].ravel() if x > 0) for i in with_some}
        assert sums.positive[number] == pytest.approx(sum(positive.values()))
        named = sorted(with_some, key=lambda i: -positive[i])
        assert [row for row in sums.most.rows[number] if row >= 0] == named[:2]
        assert [row for row in sums.least.rows[number] if row >= 0] == named[::-1][:2]
        masked = [i for i in with_some if parts[i].any()]
        assert sums.with_parts[number] == pytest.approx(sum(positive[i] for i in masked))
        assert sums.all_cells[number] == sum(np.isfinite(cells[i]).sum() for i in masked)
        for part in range(PARTS):
            here = [cells[i][parts[i] == part + 1] for i in masked]
            assert sums.on_parts[number, part] == pytest.approx(sum(x[x > 0].sum() for x in here))
            assert sums.part_cells[number, part] == sum(np.isfinite(x).sum() for x in here)


@given(images(), st.integers(1, 4))
def test_the_foremost_are_those_of_a_sort_and_ties_go_to_the_first_row(
    made: tuple[np.random.Generator, int, list[int]], k: int
) -> None:
    random, count, ends = made
    pair, values, rows = random.integers(0, 3, count), random.integers(-2, 3, count), random.permutation(count)
    found = Foremost(3, k)
    bounds = [0, *ends, count]
    for first, last in itertools.pairwise(bounds):
        found.add(pair[first:last], values[first:last].astype(float), rows[first:last])
    for number in range(3):
        order = sorted((-values[i], rows[i]) for i in range(count) if pair[i] == number)[:k]
        assert [row for row in found.rows[number] if row >= 0] == [row for _, row in order]


def test_evidence_at_gamma_0_is_the_target_s_own_map() -> None:
    random = np.random.default_rng(0)
    basis, scale = random.normal(size=(2, 3, 2, 2)).astype(np.float16), random.random(2).astype(np.float32)
    basis[1, 2] = np.nan
    maps = basis.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]
    np.testing.assert_array_equal(evidence(basis, scale, 0.0)[:, 0], maps[:, 0])
    against = evidence(basis, scale, -1.0)
    np.testing.assert_array_equal(against[0], maps[0, 0] + maps[0, 1:])
    assert np.isnan(against[1, 1]).all()
    assert np.isfinite(against[1, 0]).all()


def test_sums_by_part_of_no_images() -> None:
    assert sums_by_part(np.empty((0, 2, 2)), np.empty((0, 2, 2), np.uint8), 4).shape == (0, 4)


def test_cosines_are_of_many_pairs_and_unknown_where_weights_are_zero() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(6, 8)).astype(np.float32)
    weight[2] = 0
    pairs = random.integers(0, 8, (10_000, 2))
    found = cosines(weight, pairs)
    unit = weight.astype(np.float64) / np.linalg.norm(weight.astype(np.float64), axis=1, keepdims=True).clip(1e-12)
    for (left, right), cosine in zip(pairs.tolist(), found.tolist(), strict=True):
        if max(left, right) > 5 or 2 in (left, right):
            assert np.isnan(cosine)
        else:
            assert cosine == pytest.approx(unit[left] @ unit[right], abs=1e-7)
