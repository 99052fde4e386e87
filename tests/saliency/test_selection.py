"""Which classes a target is compared with: every ranking against a search of all classes, one by one."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from finer_ray.saliency import SaliencySpec, explain
from finer_ray.saliency.selection import CHOOSE, RANKINGS, choose_references, highest_logits, nearest, similar_weights
from tests.saliency.models import build, images

SEEDS = st.integers(0, 10**6)
ENOUGH = settings(max_examples=60, deadline=None)


def drawn(seed: int, rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and weights without ties, and targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((rows, classes), generator=generator, dtype=torch.float64)
    weight = torch.randn((classes, 5), generator=generator, dtype=torch.float64)
    return logits, weight, torch.randint(classes, (rows,), generator=generator)


def distance(ranking: str, logits: Tensor, weight: Tensor, target: int, other: int) -> float:
    if ranking == "weight":
        return -float(functional.cosine_similarity(weight[target], weight[other], dim=0))
    return float(-logits[other] if ranking == "top" else (logits[other] - logits[target]).abs())


def model_of(weight: Tensor) -> Any:
    return SimpleNamespace(class_count=len(weight), class_weights=lambda: weight)


@pytest.mark.parametrize("ranking", RANKINGS)
@given(seed=SEEDS, rows=st.integers(1, 4), classes=st.integers(2, 9), count=st.integers(0, 9), taxa=st.booleans())
@ENOUGH
def test_rankings(ranking: Any, seed: int, rows: int, classes: int, count: int, taxa: bool) -> None:
    logits, weight, target = drawn(seed, rows, classes)
    of = np.random.default_rng(seed).integers(-1, 3, classes) if taxa else None
    # A concept after the classes is nobody's reference.
    wide = torch.cat([logits, torch.full((rows, 1), 1e9)], dim=1)
    spec = SaliencySpec(references=count, selection=ranking, taxa=of)
    found = choose_references(model_of(weight), wide, target, spec)
    assert found.shape == (rows, spec.reference_count(classes))
    for row, c in enumerate(target.tolist()):
        others = [d for d in range(classes) if d != c and (of is None or of[c] == of[d] >= 0)]
        others.sort(key=lambda d: distance(ranking, logits[row], weight, c, d))
        expected = (others + [-1] * classes)[: found.shape[1]]
        assert found[row].tolist() == expected


@given(seed=SEEDS, classes=st.integers(2, 9))
@ENOUGH
def test_of_the_predicted_class_the_highest_are_the_closest(seed: int, classes: int) -> None:
    logits, weight, target = drawn(seed, 3, classes)
    predicted = logits.argmax(1)
    chosen = [
        choose_references(model_of(weight), logits, predicted, SaliencySpec(selection=ranking)).tolist()
        for ranking in ("logit", "top")
    ]
    assert chosen[0] == chosen[1]
    wrong = target != predicted
    assert (highest_logits(logits, target, 1)[wrong, 0] == predicted[wrong]).all()


def test_by_class_and_by_image() -> None:
    logits, weight, _ = drawn(0, 4, 5)
    target = torch.tensor([0, 1, 2, 3])
    by_class = np.array([[1, 2], [3, -1], [-1, -1], [3, 0], [0, 1]])
    spec = SaliencySpec(by_class=by_class)
    assert spec.reference_count(5) == 2
    assert choose_references(model_of(weight), logits, target, spec).tolist() == [[1, 2], [3, -1], [-1, -1], [-1, 0]]
    own = torch.tensor([[4, -1], [CHOOSE, CHOOSE], [2, 3], [-1, -1]])
    spec = SaliencySpec(references=2, selection="top", by_image=True)
    found = choose_references(model_of(weight), logits, target, spec, own)
    usual = highest_logits(logits, target, 2)
    assert found.tolist() == [[4, -1], usual[1].tolist(), [-1, 3], [-1, -1]]


def test_what_is_not_a_number_comes_last() -> None:
    scores = torch.tensor([[math.nan, 0.0, math.inf, -math.inf, 3.0]])
    assert nearest(scores, torch.tensor([1]), 2).tolist() == [[3, 4]]
    found = nearest(scores, torch.tensor([1]), 9, torch.tensor([0, 0, 0, 0, 1]))[0].tolist()
    assert found[0] == 3
    assert (sorted(found[1:3]), found[3:]) == ([0, 2], [-1])


def test_cosines_are_taken_in_the_weights_own_precision() -> None:
    """Also under autocast, in whose bfloat16 these neighbours are the same; and of a class without weights."""
    angle = torch.tensor([0.0, 3e-3, 2e-3, 1e-3, 2.0])
    weight = torch.stack([angle.cos(), angle.sin()], dim=1) * torch.tensor([1.0, 5.0, 0.1, 9.0, 1.0])[:, None]
    weight = torch.cat([weight, torch.zeros((1, 2))])
    with torch.autocast("cpu", torch.bfloat16):
        assert similar_weights(weight, torch.tensor([0, 5]), 3)[0].tolist() == [3, 2, 1]
        assert 5 not in similar_weights(weight, torch.tensor([0, 5]), 3)[1]


def test_an_explanation_takes_them() -> None:
    """A basis of the references, fewer where a taxon has no more, and finite maps."""
    model = build("resnet")
    x = images(model)
    target = torch.tensor([4, 7, 11])
    taxa = np.full(model.class_count, -1)
    taxa[[4, 5, 7]], taxa[[11, 1, 2, 3]] = 0, 1
    spec = SaliencySpec(references=2, selection="top", taxa=taxa)
    found = explain(model, x, spec, target)
    assert found.references[:2].sort(1).values.tolist() == [[5, 7], [4, 5]]
    assert set(found.references[2].tolist()) < {1, 2, 3}
    taxa[5] = -1
    fewer = explain(model, x, spec, target)
    assert fewer.references[:2].tolist() == [[7, -1], [4, -1]]
    assert fewer.basis[0, 2].isnan().all()
    assert fewer.maps.isfinite().all()
    own = torch.tensor([[7, -1], [CHOOSE, CHOOSE], [CHOOSE, CHOOSE]])
    both = explain(model, x, SaliencySpec(references=2, by_image=True), target, own)
    usual = explain(model, x, SaliencySpec(references=2), target)
    assert both.references.tolist() == [[7, -1], *usual.references[1:].tolist()]
    torch.testing.assert_close(both.maps[1:], usual.maps[1:])
    torch.testing.assert_close(both.maps[0], fewer.maps[0])
