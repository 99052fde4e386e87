"""Several targets of an image from one forward pass are as many explanations of one target each."""

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from finer_ray.models.cut import Cut
from finer_ray.saliency import MapSpec, Mask, Rise, SaliencySpec, explain
from finer_ray.saliency.explanation import distinct, highest_classes
from finer_ray.saliency.gem import Gem
from finer_ray.saliency.methods import METHODS
from finer_ray.saliency.objective import choice_probabilities, class_probabilities, probabilities
from tests.saliency.models import build, images
from tests.saliency.planted import Planted

FEW: dict[str, Any] = {"rise": Rise(masks=9), "mask": Mask(steps=3), "gem": Gem(depth=2)}


def of_every(cams: list[str]) -> tuple[MapSpec, ...]:
    """Of each method a baseline, and maps that compare by every kind of weights."""
    return tuple(
        MapSpec(f"{cam} {gamma} {aggregation} {weighting}", cam, gamma, aggregation, weighting)  # type: ignore[arg-type]
        for cam in cams
        for gamma, aggregation, weighting in (
            (0.0, "mean_before_relu", "equal"),
            (0.6, "mean_before_relu", "probability"),
            (1.5, "max_before_relu", "equal"),
        )
    )


@pytest.mark.parametrize("name", ["vit", "vit-avg", "resnet", "clip-tok"])
def test_is_the_explanation_of_each_alone(name: str) -> None:
    """To 1e-11 in float64: how many classes go through the tail together may decide the last bits."""
    model = build(name)
    x = images(model, 2)
    # Masked passes through the larger ones take too long.
    cams = [cam for cam in METHODS if name in ("resnet", "clip-tok") or not METHODS[cam].masked_passes]
    maps = of_every([cam for cam in cams if METHODS[cam].refusal(model, False) is None])
    spec = SaliencySpec(maps, references=2, settings=FEW)
    found = explain(model, x, SaliencySpec(maps, references=2, settings=FEW, targets=3))
    assert torch.equal(found.target, found.logits.argsort(1, descending=True)[:, :3])
    for rank, own in enumerate(found.by_target()):
        alone = explain(model, x, spec, target=found.target[:, rank])
        assert torch.equal(own.references, alone.references)
        torch.testing.assert_close(own.basis, alone.basis, rtol=1e-11, atol=1e-11 * float(alone.basis.abs().max()))
        torch.testing.assert_close(own.maps, alone.maps, rtol=1e-11, atol=1e-11 * float(alone.maps.max()))
    assert not torch.allclose(found.maps[:, 0], found.maps[:, 1])


def test_one_forward_pass_and_each_class_once_through_the_tail() -> None:
    model = build("resnet")
    x = images(model, 2)
    spec = SaliencySpec((MapSpec("g"), MapSpec("l", "layercam", 0.6)), targets=4)
    sent: list[int] = []
    back = Cut.leaf_gradient

    def counted(cut: Cut, cotangent: Tensor) -> Tensor:
        sent.append(len(cotangent))
        return back(cut, cotangent)

    with (
        mock.patch.object(Cut, "leaf_gradient", counted),
        mock.patch.object(model.split, "trunk", wraps=model.split.trunk) as trunk,
    ):
        found = explain(model, x, spec)
    assert trunk.call_count == 1
    classes = torch.cat([found.target[..., None], found.references], dim=-1).flatten(1)
    assert sent == [2] * max(len(set(row)) for row in classes.tolist())
    assert len(sent) < classes.shape[1]


@pytest.mark.parametrize("cam", ["scorecam", "rise"])
def test_masked_images_serve_all_targets(cam: str) -> None:
    model = build("resnet")
    x = images(model, 2)
    counts = []
    for targets in (1, 3):
        with mock.patch.object(model.split, "trunk", wraps=model.split.trunk) as trunk:
            explain(model, x, SaliencySpec((MapSpec("m", cam, 0.6),), settings=FEW, targets=targets))
        counts.append(trunk.call_count)
    assert counts[0] == counts[1] > 1


@given(st.lists(st.lists(st.integers(-1, 9), min_size=6, max_size=6), min_size=1, max_size=4))
def test_distinct_classes(rows: list[list[int]]) -> None:
    classes = torch.tensor(rows)
    found, places = distinct(classes)
    assert torch.equal(found.gather(1, places), classes)
    assert found.shape[1] == max(len(set(row)) for row in rows)
    assert all(len(set(kept)) == len(kept) for kept in ([c for c in row if c >= 0] for row in found.tolist()))


def test_positives_are_those_of_half_or_more_and_the_first_in_any_case() -> None:
    logits = torch.tensor([[3.0, -1.0, 0.0, 2.0], [-3.0, -1.0, -2.0, -4.0], [9.0, 9.5, 9.2, 9.9]])
    model: Any = Planted()
    model.class_count = 4
    chosen = highest_classes(model, logits, 3, positives=True)
    assert chosen.tolist() == [[0, 3, 2], [1, -1, -1], [3, 1, 2]]
    assert highest_classes(model, logits, 2, positives=False).tolist() == [[0, 3], [1, 2], [3, 1]]


def test_a_target_that_is_not_there_has_no_map_and_disturbs_no_other() -> None:
    model = build("resnet")
    x = images(model, 2)
    target = torch.tensor([[5, -1, 7], [3, 4, -1]])
    spec = SaliencySpec(of_every(["gradcam", "layercam", "scorecam", "rise"]), references=2, settings=FEW)
    found = explain(model, x, spec, target)
    for row in range(2):
        for rank, index in enumerate(target[row].tolist()):
            if index < 0:
                assert found.references[row, rank].eq(-1).all()
                assert found.maps[row, rank].isnan().all()
                assert found.basis[row, rank].isnan().all()
                continue
            alone = explain(model, x[row : row + 1], spec, torch.tensor([index]))
            assert torch.equal(found.references[row, rank], alone.references[0])
            torch.testing.assert_close(found.maps[row, rank], alone.maps[0], rtol=1e-9, atol=1e-12)


def test_references_of_an_image_serve_each_of_its_targets_but_itself() -> None:
    model = build("resnet")
    x = images(model, 1)
    found = explain(model, x, SaliencySpec(), torch.tensor([[4, 8]]), torch.tensor([[8, 6]]))
    assert found.references.tolist() == [[[8, 6], [-1, 6]]]
    listed = explain(model, x, SaliencySpec(selection=(8, 6)), torch.tensor([[4, 8]]))
    assert torch.equal(listed.references, found.references)
    torch.testing.assert_close(listed.maps, found.maps)


def test_a_sigmoid_is_of_each_class_by_itself() -> None:
    model: Any = Planted()
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0]])
    classes = torch.tensor([[0, 2, 3, -1]])
    assert class_probabilities(model, logits, classes)[0, :2].tolist() == logits[:, :3].softmax(1)[0, [0, 2]].tolist()
    model.activation = "sigmoid"
    chances = class_probabilities(model, logits, classes)
    torch.testing.assert_close(chances[0, :2], 1 / (1 + (-logits[0, [0, 2]]).exp()))
    # The fourth is a concept, which has no probability among the classes, but one of its own.
    assert chances[0, 2:].isnan().all()
    torch.testing.assert_close(choice_probabilities(model, logits, classes)[0, :3], logits[0, [0, 2, 3]].sigmoid())
    assert probabilities(logits.half(), "sigmoid").dtype == torch.float32


def test_masked_methods_ask_for_sigmoids() -> None:
    """RISE is linear in the probabilities: its map is that of softmax, mask by mask exchanged for the sigmoid."""
    model: Any = Planted()
    x = model.images(1)
    spec = SaliencySpec((MapSpec("r", "rise"), MapSpec("m", "mask")), settings=FEW)
    usual = explain(model, x, spec, torch.tensor([0]))
    model.activation = "sigmoid"
    ours = explain(model, x, spec, torch.tensor([0]))

    class Binary(Planted):
        """Softmax over a logit and 0 is the sigmoid of that logit."""

        class_count = 2

        def differentiable(self, images: Tensor) -> Tensor:
            logits = super().differentiable(images)
            return torch.stack([logits[:, 0], torch.zeros_like(logits[:, 0])], dim=1)

    expected = explain(Binary(), x, spec, torch.tensor([0]), torch.tensor([[-1]]))  # type: ignore[arg-type]
    torch.testing.assert_close(ours.maps, expected.maps)
    assert not torch.allclose(ours.maps, usual.maps)
