"""Training of linear probes: multinomial logistic regression on standardised embeddings."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from finer_ray.models.head import LinearHead
from finer_ray.probe.config import TrainingConfig
from finer_ray.probe.embeddings import Embeddings


def train(data: Embeddings, settings: TrainingConfig, device: str = "cpu") -> LinearHead:
    """A linear head trained on embeddings, which are read some at a time.

    Embeddings are standardised by their own mean and deviation, channel by channel, and the standardisation is folded
    into weight and bias. Training starts from zero, so that the seed decides the order of the rows and nothing else.

    Args:
        data: what to train on, one image at least.
        settings: of the training.
        device: where to.

    Returns:
        The head, on the CPU. The same rows, settings, device and number of threads give the same bits.
    """
    mean, deviation = _moments(data, settings.normalize)
    shift, scale = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, 1 / deviation))
    weight, bias = (
        torch.zeros(shape, device=device, requires_grad=True)
        for shape in ((len(data.counts), data.size), (len(data.counts),))
    )
    decayed: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
    optimiser = AdamW(decayed, lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = CosineAnnealingLR(optimiser, settings.epochs)
    random = np.random.default_rng(settings.seed)
    for _ in range(settings.epochs):
        for rows, labels in data.shuffled(random, settings.batch_size):
            inputs = (_features(rows, settings.normalize, device) - shift) * scale
            loss = functional.cross_entropy(functional.linear(inputs, weight, bias), _targets(labels, device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return _folded(weight, bias, mean, deviation, settings.normalize)


@torch.no_grad()
def correct(head: LinearHead, data: Embeddings) -> int:
    """How many images the head gives their own class, of `len(data)`."""
    hits = 0
    for rows, labels in data.in_order():
        predicted = head(torch.from_numpy(rows).float()).argmax(1)
        hits += int((predicted == _targets(labels, "cpu")).sum())
    return hits


def _moments(data: Embeddings, normalize: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, (E,) each; the deviation is 1 where a channel never changes."""
    total, squares = np.zeros(data.size), np.zeros(data.size)
    for rows, _ in data.in_order():
        values = _features(rows, normalize, "cpu").numpy().astype(np.float64)
        total += values.sum(0)
        squares += (values**2).sum(0)
    mean = total / len(data)
    variance = squares / len(data) - mean**2
    # What rounding leaves of a channel that never changes is no deviation.
    constant = variance <= 1e-9 * mean**2 + 1e-30
    return mean, np.sqrt(np.where(constant, 1.0, variance))


def _features(rows: NDArray[np.float16], normalize: bool, device: str) -> Tensor:
    features = torch.from_numpy(rows).to(device).float()
    return functional.normalize(features, dim=-1) if normalize else features


def _targets(labels: NDArray[np.int32], device: str) -> Tensor:
    return torch.from_numpy(labels).to(device).long()


def _folded(
    weight: Tensor, bias: Tensor, mean: NDArray[np.float64], deviation: NDArray[np.float64], normalize: bool
) -> LinearHead:
    """W ((e - mean) / deviation) + b as a plain linear head: W' = W / deviation, b' = b - W' mean."""
    folded = weight.detach().cpu().double() / torch.from_numpy(deviation)
    moved = bias.detach().cpu().double() - folded @ torch.from_numpy(mean)
    return LinearHead(folded, moved, normalize=normalize)
