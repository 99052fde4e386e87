"""Masked images that metrics and maps have in common go through the model once, and nothing is changed by that."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_ray.config.schema import MetricsConfig, ModelConfig
from finer_ray.metrics.perturbation import first_alike, masked, random_ranks, ranks, replacing
from finer_ray.models import Classifier, build_classifier
from finer_ray.pipeline.scoring import Scorer
from finer_ray.saliency import Explanation, MapSpec, SaliencySpec, explain

BATCH, SIZE = 2, 64
OFF = dict.fromkeys(("localisation", "deletion", "insertion", "drops", "srg", "average_drop", "road"), False)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=SIZE))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn((BATCH, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))


def fine(found: Explanation) -> Explanation:
    """With maps of so many cells that no two agree by chance."""
    maps = torch.rand((*found.maps.shape[:2], 16, 16), generator=torch.Generator().manual_seed(1))
    return Explanation(**{**vars(found), "maps": maps})


@contextmanager
def counted(model: Classifier) -> Iterator[list[int]]:
    """How many images go through the model, call by call."""
    calls: list[int] = []
    hook = model.register_forward_pre_hook(lambda _module, inputs: calls.append(len(inputs[0])))
    try:
        yield calls
    finally:
        hook.remove()


def passes(model: Classifier, images: Tensor, found: Explanation, **metrics: bool | str) -> float:
    """Forward passes an image, without those of the fill alone, which is one for all images."""
    scorer = Scorer(MetricsConfig(**OFF | metrics), model, torch.device("cpu"), 2**26)
    with counted(model) as calls:
        scorer(images, found, None)
    return (sum(calls) - (metrics.get("deletion") is True)) / len(images)


def test_what_metrics_have_in_common_is_run_once(model: Classifier, images: Tensor) -> None:
    """Drops at 5 and 10 % are the first two of 20 steps."""
    found = explain(model, images, SaliencySpec())
    found = fine(found)
    assert passes(model, images, found, drops=True) == 4
    assert passes(model, images, found, deletion=True) == 38
    assert passes(model, images, found, deletion=True, drops=True) == 38
    # From the other end, and one random order for both maps.
    assert passes(model, images, found, deletion=True, srg=True) == 38 + 38 + 19
    # Into the same fill, insertion is the same as deletion from the other end.
    both = passes(model, images, found, deletion=True, srg=True, insertion=True, insert_into="mean")
    assert both == 38 + 38 + 19
    assert passes(model, images, found, average_drop=True) == 2
    assert passes(model, images, found, road=True) == 16


def test_maps_that_agree_are_run_once(model: Classifier, images: Tensor) -> None:
    """Without references the finer map is its baseline; a map of another scale has the same order."""
    found = explain(model, images, SaliencySpec((MapSpec("gradcam"), MapSpec("finer"), MapSpec("other", gamma=0.9))))
    found = fine(found)
    found.maps[0, 1] = 3 * found.maps[0, 0]
    found.maps[1, 2] = found.maps[1, 1]
    assert passes(model, images, found, deletion=True, drops=True) == 38
    scorer = Scorer(
        MetricsConfig(**OFF | {"deletion": True, "drops": True, "srg": True}), model, torch.device("cpu"), 2**26
    )
    every = scorer(images, found, None)
    for place in range(3):
        alone = scorer(images, Explanation(**{**vars(found), "maps": found.maps[:, [place]]}), None)
        for name, values in alone.items():
            torch.testing.assert_close(every[name][:, [place]], values, atol=1e-6, rtol=1e-5, equal_nan=True, msg=name)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), maps=st.integers(1, 4), same=st.booleans())
def test_which_masks_agree(seed: int, maps: int, same: bool) -> None:
    """Against the masks themselves, compared pixel by pixel."""
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, (2, maps, 2, 3), generator=drawn).float()
    if same:
        values[:, -1] = values[:, 0]
    order, counts = ranks(values, (2, 3)), [0, 1, 2, 4, 5, 6]
    found = first_alike(order, counts)
    for image in range(2):
        for step, count in enumerate(counts):
            gone = order[image] < count
            for place in range(maps):
                first = next(other for other in range(maps) if torch.equal(gone[other], gone[place]))
                assert found[image, place, step] == first
    content = torch.randn((2, 3, 2, 3), generator=drawn)
    weight = torch.randn((18, 2), generator=drawn)
    answers = masked(
        lambda changed, _owner: changed.flatten(1) @ weight,
        content,
        replacing(content, torch.zeros(1, 3, 1, 1)),
        order,
        counts,
        2**20,
    )
    gone = order[:, :, None] < torch.tensor(counts)[:, None, None]
    every = (content[:, None, None] * ~gone[:, :, :, None]).flatten(3) @ weight
    torch.testing.assert_close(answers, every)


def test_the_random_order_is_an_images_own(images: Tensor) -> None:
    many = torch.cat([images, torch.randn((6, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))])
    order = random_ranks(many, (4, 4))
    assert torch.equal(random_ranks(many.flip(0), (4, 4)).flip(0), order)
    assert torch.equal(random_ranks(many[3:4], (4, 4)), order[3:4])
    assert len({tuple(row) for row in order.flatten(1)[:, :50].tolist()}) == 8
    assert (order.flatten(1).sort(1).values == torch.arange(SIZE * SIZE)).all()


def test_neighbours_do_not_decide_what_shares_a_forward(images: Tensor) -> None:
    """Nor how many do: an image's last bits would depend on whether the maps of another one agree."""
    maps = torch.rand((BATCH, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    order, change = ranks(maps, (SIZE, SIZE)), replacing(images, torch.zeros(1, 3, 1, 1))

    def owners(order: Tensor) -> list[list[int]]:
        calls: list[list[int]] = []

        def answers(changed: Tensor, owner: Tensor) -> Tensor:
            calls.append(owner.tolist())
            return changed.new_zeros((len(owner), 1))

        masked(answers, images, change, order, [100, 200, 300, 400], 2**30)
        return calls

    alike = order.clone()
    alike[0, 1:] = alike[0, :1]
    assert owners(order) == [[0] * 8, [0] * 4, [1] * 8, [1] * 4]
    assert owners(alike) == [[0] * 4, [1] * 8, [1] * 4]
