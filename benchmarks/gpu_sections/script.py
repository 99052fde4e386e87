"""The official script's loop: image by image, three modes, each with a forward and a whole backward pass in float32.

It is a fork of pytorch-grad-cam. Twice here: with that library's own FinerCAM, and in plain autograd with two hooks
and nothing on the host but the decoding, which is the least that such a loop takes.
"""

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu_sections.clock import seconds_of
from benchmarks.gpu_sections.photos import encoded_photos
from benchmarks.gpu_sections.setting import VIT, Record, Setting
from finer_ray.images.decode import decode
from finer_ray.images.sample import Sample
from finer_ray.models import Classifier

GAMMA = 0.6
# Its three modes: gamma, and the references by their place.
MODES = ((0.0, [1, 2, 3]), (GAMMA, [1, 2, 3]), (GAMMA, [1]))
WARM_UP_IMAGES = 2


def script(setting: Setting, record: Record, found: Record) -> None:
    """Images per second of both loops, decoding included as the script decodes."""
    # torch's own policy, which the script has; the sections before have set another.
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    model = setting.load(setting.models[VIT]).to(setting.device)
    model.split.encoder.requires_grad_(True)
    bodies = encoded_photos(setting, setting.script_images)
    loops = {"plain autograd": _by_hooks}
    if find_spec("pytorch_grad_cam"):
        loops["pytorch-grad-cam"] = _by_library
    for name, loop in loops.items():

        def run(bodies: list[bytes], loop: Any = loop) -> None:
            for body in bodies:
                loop(model, _image(setting, model, body))

        run(bodies[:WARM_UP_IMAGES])
        found[name] = len(bodies) / seconds_of(setting, lambda run=run: run(bodies))  # type: ignore[misc]


def _image(setting: Setting, model: Classifier, body: bytes) -> Tensor:
    pixels = decode(Sample(key="", image=body), model.transform, 10**8).image
    images = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.transform.mean, model.transform.std))
    return ((images - mean) / std).to(setting.device)


def _by_library(model: Classifier, image: Tensor) -> None:
    import pytorch_grad_cam

    encoder = model.split.encoder
    for gamma, references in MODES:
        with pytorch_grad_cam.FinerCAM(
            encoder, [encoder.blocks[-1].norm1], partial(model.split.grid, size=model.transform.size)
        ) as cam:
            cam(image, targets=None, alpha=gamma, comparison_categories=references)


def _by_hooks(model: Classifier, image: Tensor) -> None:
    encoder = model.split.encoder
    for gamma, references in MODES:
        encoder.zero_grad()
        kept: list[Tensor] = []
        hook = encoder.blocks[-1].norm1.register_forward_hook(_keeper(kept))
        logits = encoder(image)[0]
        hook.remove()
        order = (logits - logits.max()).abs().argsort()
        (logits[order[0]] - gamma * logits[order[references]].mean()).backward()
        gradient = kept[0].grad
        assert gradient is not None
        size = (image.shape[2], image.shape[3])
        activation = model.split.grid(kept[0].detach(), size)
        alpha = model.split.grid(gradient, size).mean((2, 3), keepdim=True)
        cam = functional.relu((activation * alpha).sum(1, keepdim=True))
        functional.interpolate(cam, image.shape[2:], mode="bilinear").cpu()


def _keeper(kept: list[Tensor]) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    return keep
