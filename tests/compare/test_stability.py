"""The population stability index, against its formula, and how often chance exceeds what is said of it."""

import numpy as np
import pytest

from finer_ray.compare.stability import of_counts, of_names, of_values


def test_it_is_the_formula_with_half_an_image_in_each_bin() -> None:
    p, q = np.array([10.5, 20.5, 0.5]) / 31.5, np.array([5.5, 0.5, 5.5]) / 11.5
    found = of_counts(np.array([10, 20, 0]), np.array([5, 0, 5]))
    assert found.psi == pytest.approx(sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True)))
    assert (found.bins, found.spread) == (3, pytest.approx(1 / 30 + 1 / 10))


def test_bins_are_deciles_of_the_first() -> None:
    values = np.arange(1000.0)
    # All of the second lies in the upper half, evenly.
    found, expected = of_values(values, values[500:]), of_counts(np.full(10, 100), np.repeat([0, 100], 5))
    assert found == expected
    # A scale that keeps the order keeps it.
    assert of_values(np.exp(values / 99), np.exp(values[500:] / 99)) == expected


@pytest.mark.parametrize("values", [np.arange(100.0), np.repeat([0.0, 1.0], [70, 30]), np.zeros(60)])
def test_a_sample_has_not_drifted_from_itself(values: np.ndarray) -> None:
    found = of_values(values, np.append(values, np.nan))
    assert found is not None
    assert found.psi == 0


def test_too_few_values_are_not_compared() -> None:
    assert of_values(np.arange(9.0), np.arange(9.0)) is None
    assert of_values(np.arange(99.0), np.full(9, np.nan)) is None
    assert of_names(np.arange(99), np.arange(9)) is None


def test_rare_names_are_one_bin() -> None:
    a, b = np.array([*"aaaaabbbbbbcd"]), np.array([*"aaabddxy"])
    assert of_names(a, b) == of_counts(np.array([5, 6, 2]), np.array([3, 1, 4]))


@pytest.mark.parametrize(("count", "others"), [(60, 60), (2000, 300)])
def test_chance_exceeds_its_limit_about_as_often_as_it_says(count: int, others: int) -> None:
    random = np.random.default_rng(0)
    found = [of_values(random.random(count), random.random(others)) for _ in range(400)]
    over = np.mean([measured is not None and measured.psi > measured.chance(0.05) for measured in found])
    # 400 draws tell 5 % to within 1.1 %; the bins are of the first sample alone, which takes a part of its chance away.
    assert 0.005 <= over <= 0.09
