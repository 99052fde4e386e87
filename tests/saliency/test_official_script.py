"""The modes of the authors' script, old and new, by the configs of docs/method.md: against pytorch-grad-cam.

The library has the objective of the script since March 2025. Those of before are written down here, as functions of the
logits, and explained by the library's Grad-CAM.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from pytorch_grad_cam import FinerCAM, GradCAM, base_cam
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from torch import Tensor

from finer_ray.config.schema import SaliencyConfig
from finer_ray.models import Classifier
from finer_ray.saliency import SaliencySpec, explain, reference_weights
from finer_ray.saliency.selection import closest_logits, highest_logits
from tests.saliency.models import build, images
from tests.saliency.test_libraries import TOKENS, Whole, layer_of

METHOD = Path(__file__).parents[2] / "docs" / "method.md"
ORIGINAL = base_cam.scale_cam_image
Objective = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-grad-cam's maps rescaled to [0, 1] as it does, but not upsampled."""
    monkeypatch.setattr(base_cam, "scale_cam_image", lambda cam, target_size=None: ORIGINAL(cam, None))


def section(number: int) -> SaliencyConfig:
    """`saliency` of a config in the documentation."""
    blocks = re.findall(r"```yaml\n(.*?)```", METHOD.read_text().split("## The authors' script")[1], re.DOTALL)
    found: SaliencyConfig = SaliencyConfig.model_validate(yaml.safe_load(blocks[number])["saliency"])
    return found


def ours(model: Classifier, x: Tensor, target: Tensor, saliency: SaliencyConfig) -> tuple[dict[str, Any], Tensor]:
    """Maps by name, rescaled as theirs, and the references."""
    spec = SaliencySpec(saliency.specs(), saliency.references, saliency.selection)  # type: ignore[arg-type]
    found = explain(model, x, spec, target)
    names = [wanted.name for wanted in spec.maps]
    return {name: rescaled(found.maps[:, place].numpy()) for place, name in enumerate(names)}, found.references


def rescaled(maps: NDArray[Any]) -> NDArray[Any]:
    """Twice: for the layer, and for all layers, of which there is one."""
    for _ in range(2):
        maps = maps - maps.min((1, 2), keepdims=True)
        maps = maps / (1e-7 + maps.max((1, 2), keepdims=True))
    return maps


def theirs(model: Classifier, name: str, x: Tensor, method: Any, each: list[dict[str, Any]]) -> NDArray[Any]:
    """Image by image, as the script does."""
    whole, found = Whole(model), []
    reshape = partial(model.split.grid, size=model.transform.size) if name in TOKENS else None
    for place, options in enumerate(each):
        with method(whole, [layer_of(model, name)], reshape) as cam:
            found.append(np.asarray(cam(x[place : place + 1], **options))[0])
    whole.requires_grad_(False)
    return np.stack(found)


@pytest.mark.parametrize("name", ["dinov2", "resnet"])
def test_since_march_2025(name: str) -> None:
    model = build(name)
    x = images(model)
    target = torch.tensor([4, 7, 11])
    maps, references = ours(model, x, target, section(0))
    modes: dict[str, dict[str, Any]] = {
        "Baseline": {"alpha": 0},
        "Finer-Default": {"comparison_categories": [1, 2, 3]},
        "Finer-Compare": {"comparison_categories": [1]},
    }
    assert set(modes) - {"Finer-Compare"} == set(maps)
    assert torch.equal(references, closest_logits(model(x), target, 3))
    alone, _ = ours(model, x, target, section(0).model_copy(update={"references": 1}))
    maps["Finer-Compare"] = alone["Finer-Default"]
    for mode, options in modes.items():
        each = [{"targets": None, "target_idx": c, **options} for c in target.tolist()]
        np.testing.assert_allclose(maps[mode], theirs(model, name, x, FinerCAM, each), atol=2e-6)
    # The modes are not each other, nor is the default of this package any of them.
    assert np.abs(maps["Finer-Default"] - maps["Finer-Compare"]).max() > 1e-2
    usual, _ = ours(model, x, target, SaliencyConfig())
    assert np.abs(maps["Finer-Default"] - usual["finer_gradcam"]).max() > 1e-2


def mean_of(alpha: float, c: int, others: list[int]) -> Objective:
    return lambda y: sum((y[..., c] - alpha * y[..., d] for d in others), torch.zeros(())) / len(others)


def weighted(c: int, others: list[int]) -> Objective:
    def objective(y: Tensor) -> Tensor:
        p = y.softmax(-1)
        total = sum((p[..., d] * (y[..., c] - y[..., d]) for d in others), torch.zeros(()))
        return total / (sum(p[..., d] for d in others) + 1e-9)

    return objective


@pytest.mark.parametrize("name", ["dinov2", "resnet"])
def test_before(name: str) -> None:
    """Compared were the classes with the highest logits, the target but for them."""
    model = build(name)
    x = images(model)
    target = torch.tensor([4, 7, 11])
    maps, references = ours(model, x, target, section(1))
    ranked = [[d for d in np.argsort(-row.numpy()).tolist() if d != c] for row, c in zip(model(x), target, strict=True)]
    assert references.tolist() == [line[:3] for line in ranked]
    assert torch.equal(references, highest_logits(model(x), target, 3))
    assert not torch.equal(references, closest_logits(model(x), target, 3))
    objectives: dict[str, Callable[[int, list[int]], Objective]] = {
        "w1": lambda c, others: mean_of(0.0, c, others),
        "aggregate": lambda c, others: mean_of(0.6, c, others),
        "Finer-Default": lambda c, others: mean_of(1.0, c, others),
        "Finer-Weighted": weighted,
    }
    assert set(objectives) == set(maps)
    for mode, objective in objectives.items():
        each = [{"targets": [objective(c, line[:3])]} for c, line in zip(target.tolist(), ranked, strict=True)]
        np.testing.assert_allclose(maps[mode], theirs(model, name, x, GradCAM, each), atol=2e-6)
    alone, _ = ours(model, x, target, section(1).model_copy(update={"references": 1}))
    each = [{"targets": [mean_of(1.0, c, line[:1])]} for c, line in zip(target.tolist(), ranked, strict=True)]
    np.testing.assert_allclose(alone["Finer-Default"], theirs(model, name, x, GradCAM, each), atol=2e-6)


@pytest.mark.parametrize("low", [-2.0, -8.0, -14.0])
def test_what_their_denominator_costs(low: float) -> None:
    """1e-9 over the references' probability, beside the derivative itself."""
    logits = torch.tensor([0.0, low, low - 1, low - 0.5, -3.0], dtype=torch.float64, requires_grad=True)
    theirs = torch.autograd.grad(FinerWeightedTarget(0, [1, 2, 3], 1.0)(logits), logits)[0]
    known = logits.detach()[1:4]
    exact = torch.zeros(5, dtype=torch.float64)
    exact[0], exact[1:4] = 1.0, -reference_weights(known, torch.ones(3, dtype=torch.bool), "probability")
    share = logits.softmax(0)[1:4].sum().item()
    error = (theirs - exact).abs().max().item()
    assert 0.3 < error / (1e-9 / share) < 30
