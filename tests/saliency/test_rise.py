"""RISE against the paper's loop, mask by mask, with masks upsampled by scikit-image as in the authors' code."""

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import Tensor

from finer_ray.saliency import MapSpec, Rise, SaliencySpec, explain
from finer_ray.saliency.rise import rise_basis, smooth_masks
from tests.saliency.models import build, images
from tests.saliency.planted import HOT, Planted

FEW = Rise(masks=21, cells=5, keep=0.4, seed=3)


def one_mask(cells: Tensor, shift: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A mask by scikit-image, its border held constant."""
    count = len(cells)
    cell = np.ceil(np.array(size) / count).astype(int)
    larger = resize(cells.numpy(), (count + 1) * cell, order=1, mode="edge", anti_aliasing=False)
    top, left = (int(part * side) for part, side in zip(shift.tolist(), cell, strict=True))
    return larger[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("size", [(64, 96), (30, 21), (7, 5)])
def test_masks_are_scikit_images(size: tuple[int, int]) -> None:
    cells, shifts = FEW.draw()
    masks = smooth_masks(cells, shifts, size)
    assert masks.shape == (21, *size)
    for mask, grid, shift in zip(masks, cells, shifts, strict=True):
        np.testing.assert_allclose(mask, one_mask(grid, shift, size), atol=1e-5)


def test_masks_are_drawn_by_seed_alone() -> None:
    cells, shifts = Rise(masks=4000).draw()
    assert cells.shape == (4000, 7, 7)
    assert cells.unique().tolist() == [0, 1]
    assert abs(cells.mean().item() - 0.5) < 0.01
    assert ((shifts >= 0) & (shifts < 1)).all()
    assert smooth_masks(cells, shifts, (64, 64)).mean().item() == pytest.approx(0.5, abs=0.01)
    torch.manual_seed(5)
    again, _ = Rise(masks=4000).draw()
    other, _ = Rise(masks=4000, seed=1).draw()
    assert torch.equal(cells, again)
    assert not torch.equal(cells, other)


@pytest.mark.parametrize("name", ["resnet", "clip-tok"])
def test_is_the_papers_loop(name: str) -> None:
    model = build(name)
    x = images(model, 2)
    gamma, size = 0.7, (x.shape[2], x.shape[3])
    found = explain(model, x, SaliencySpec((MapSpec("r", "rise"), MapSpec("f", "rise", gamma)), settings={"rise": FEW}))
    cells, shifts = FEW.draw()
    for row in range(2):
        classes = [found.target[row], *found.references[row]]
        sums = torch.zeros((4, *size), dtype=torch.float64)
        for grid, shift in zip(cells, shifts, strict=True):
            mask = torch.from_numpy(one_mask(grid, shift, size)).double()
            chances = model(x[row : row + 1] * mask).softmax(1)[0]
            for place, index in enumerate(classes):
                sums[place] += chances[index] * mask / (21 * 0.4)
        height, width = (side // cell for side, cell in zip(size, found.maps.shape[2:], strict=True))
        coarse = sums.unfold(1, height, height).unfold(2, width, width).mean((3, 4))
        torch.testing.assert_close(found.maps[row, 0], coarse[0], rtol=1e-5, atol=1e-7)
        finer = (coarse[0] - gamma * coarse[1:].mean(0)).relu()
        torch.testing.assert_close(found.maps[row, 1], finer, rtol=1e-5, atol=1e-7)


def test_a_reference_weighs_by_its_share_of_the_plain_image() -> None:
    model = build("resnet")
    x = images(model, 2)
    basis = {}
    for weighting in ("probability", "probability_detached"):
        basis[weighting] = explain(
            model, x, SaliencySpec((MapSpec("f", "rise", 0.7, weighting=weighting),), settings={"rise": FEW})
        )
    made = basis["probability"]
    classes = torch.cat([made.target[:, None], made.references], dim=1)
    each = rise_basis(model, x, classes, made.maps.shape[2:], FEW, 2**30)  # type: ignore[arg-type]
    share = made.logits.gather(1, made.references).softmax(1)[:, :, None, None]
    expected = (each[:, 0] - 0.7 * (share * each[:, 1:]).sum(1)).relu()
    for result in basis.values():
        torch.testing.assert_close(result.maps[:, 0], expected)


def test_neither_batch_nor_memory_matters() -> None:
    model = build("resnet")
    x = images(model, 3)
    maps = (MapSpec("r", "rise"), MapSpec("f", "rise", 0.6))
    whole = explain(model, x, SaliencySpec(maps, settings={"rise": FEW})).maps
    for position in range(3):
        alone = explain(model, x[position : position + 1], SaliencySpec(maps, settings={"rise": FEW}, memory=1)).maps
        torch.testing.assert_close(alone[0], whole[position], rtol=1e-9, atol=1e-12)


def test_finds_what_the_model_looks_at() -> None:
    model = Planted()
    found = explain(model, model.images(), SaliencySpec((MapSpec("r", "rise"),), settings={"rise": Rise(masks=1000)}))
    places = found.maps[:, 0].flatten(1).argmax(1)
    assert places.tolist() == [HOT, HOT]
    level = found.maps[:, 0].flatten(1)
    assert (level[:, HOT] > 1.2 * level.median(1).values).all()
