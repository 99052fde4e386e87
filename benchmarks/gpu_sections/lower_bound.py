"""The lower bound: operations and bytes that an image cannot do without."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_sections.setting import Record, Setting
from benchmarks.operations import Operations
from finer_ray.models import Classifier
from finer_ray.pipeline.results import model_outputs
from finer_ray.saliency import Explanation, SaliencySpec, explain

# Of half precision.
HALF = 2


def lower_bound(setting: Setting, record: Record, found: Record) -> None:
    """Operations (a multiply-add is two) and bytes per image, of the forward pass and of the engine."""
    for name, options in setting.models.items():
        found[name] = _of(setting.load(options))


@torch.no_grad()
def _of(model: Classifier) -> dict[str, Any]:
    images = torch.randn((1, 3, *model.transform.size))
    explanation = explain(model, images, SaliencySpec())
    activation = model.cut(images).activation
    return {
        "operations": {
            "forward": _operations(lambda: model.head(embedding_of(model, images))),
            "engine": _operations(lambda: explain(model, images, SaliencySpec())),
        },
        "bytes": {
            "weights, once a batch": HALF * sum(weight.numel() for weight in model.state_dict().values()),
            "activation of the CAM layer": HALF * activation.numel(),
            "to the device (uint8 pixels)": images.numel(),
            "from the device": _bytes(model_outputs(explanation, model)),
            "stored of tensors": _stored(explanation),
        },
    }


def embedding_of(model: Classifier, images: Tensor) -> Tensor:
    """By the library's own forward pass, without its classifier where it kept one."""
    encoder = model.split.encoder
    features = encoder.forward_features(images)
    embedding: Tensor = encoder.forward_head(features, pre_logits=True)
    return embedding


def _operations(run: Any) -> int:
    with Operations() as counter:
        run()
    return int(counter.count)


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(values.numel() * values.element_size() for values in tensors.values())


def _stored(explanation: Explanation) -> int:
    halves = explanation.maps.numel() + explanation.basis.numel() + explanation.embedding.numel()
    scales = explanation.maps.shape[1] + 1
    return HALF * halves + 4 * (scales + explanation.references.numel())
