"""Scoring: metrics of maps that have an order of pixels, and of those that have none."""

import torch

from finer_ray.config.schema import MetricsConfig, ModelConfig
from finer_ray.models import build_classifier
from finer_ray.pipeline.scoring import Scorer
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from finer_ray.saliency.explanation import Explanation

METRICS = MetricsConfig(deletion=True, insertion=True, drops=True, steps=3)


def explained() -> tuple[Scorer, torch.Tensor, Explanation]:
    """Two images, three maps; the second map of the first image is zero everywhere."""
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64))
    images = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    found = explain(
        model, images, SaliencySpec((MapSpec("gradcam"), MapSpec("reverse", gamma=0.9, reverse=True), MapSpec("finer")))
    )
    # Where all cells of the objective are negative, ReLU leaves nothing.
    found.maps[0, 1] = (-found.maps[0, 1] - 1).relu()
    found.maps[:, 2] = found.maps[:, 2] + 1
    return Scorer(METRICS, model, torch.device("cpu"), 2**26), images, found


def test_a_map_that_is_zero_everywhere_has_no_metrics() -> None:
    scorer, images, found = explained()
    region = torch.zeros((2, 64, 64), dtype=torch.bool)
    region[:, 10:40, 10:40] = True
    scores = scorer(images, found, region)
    wanted = {"deletion_auc", "insertion_curve", "relative_drop_05", "confidence_drop_10", "probability_05"}
    assert wanted | {"localisation", "pointing_hit", "reference_probabilities_10"} <= scores.keys()
    for name, values in scores.items():
        assert values[0, 1].isnan().all(), name
        assert values[:, 2].isfinite().all(), name
    # Other maps' metrics are what they are without it.
    other = Explanation(**{**vars(found), "maps": found.maps[:, [0, 2]]})
    for name, values in scorer(images, other, region).items():
        torch.testing.assert_close(scores[name][:, [0, 2]], values, equal_nan=True)
