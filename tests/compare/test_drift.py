"""Drift of embeddings: found where there is some, and not in the few images by which components fit themselves."""

import numpy as np
import pytest

from finer_ray.compare.drift import LEVEL, embedding_drift
from finer_ray.compare.stability import Stability

WIDTH = 64


def sample(random: np.random.Generator, count: int, moved: float = 0.0) -> np.ndarray:
    """Embeddings whose directions matter ever less; of some the mean is moved in all of them."""
    return (random.standard_normal((count, WIDTH)) + moved) / np.sqrt(np.arange(WIDTH) + 1)


def drifted(a: np.ndarray, b: np.ndarray) -> list[str]:
    found: list[tuple[str, Stability]] = [(name, known) for name, known in embedding_drift(a, b) if known is not None]
    assert len(found) == 9
    return [name for name, known in found if known.psi > known.chance(LEVEL / len(found))]


@pytest.mark.parametrize(("count", "others"), [(40, 250), (250, 40), (60, 60)])
def test_two_samples_of_the_same_have_not_drifted(count: int, others: int) -> None:
    random = np.random.default_rng(0)
    alarms = [bool(drifted(sample(random, count), sample(random, others))) for _ in range(60)]
    # 60 draws tell 5 % to within 2.8 %.
    assert np.mean(alarms) < 0.14


def test_a_sample_that_moved_has() -> None:
    random = np.random.default_rng(0)
    assert drifted(sample(random, 200), sample(random, 150, moved=1.0))


def test_one_that_spreads_beside_the_components_has() -> None:
    random = np.random.default_rng(0)
    wider = sample(random, 200)
    wider[:, 20:] *= 1.5
    assert drifted(sample(random, 200), wider) == ["beside the components"]


def test_nothing_is_nothing() -> None:
    assert list(embedding_drift(np.zeros((0, 3)), np.ones((5, 3)))) == []
    # Embeddings that are all the same have no components.
    assert [(name, known and known.psi) for name, known in embedding_drift(np.ones((20, 3)), np.ones((30, 3)))] == [
        ("beside the components", pytest.approx(0, abs=0.02))
    ]
