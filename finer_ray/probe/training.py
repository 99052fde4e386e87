"""Training of linear probes: multinomial logistic regression on standardised embeddings.

    min over W, b:  mean_i CE(W z_i + b, label_i) + penalty / (2 N) |W|^2,   z = (e - mean) / deviation

The problem is convex, so that L-BFGS from zero finds its one minimum; loss and gradient are sums over pieces.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim import LBFGS

from finer_ray.models.head import LinearHead
from finer_ray.probe.config import TrainingConfig
from finer_ray.probe.embeddings import Embeddings

# Of the gradient's largest element, and of loss or weights between two iterations.
TOLERANCES = 1e-5, 1e-9


def train(data: Embeddings, settings: TrainingConfig, device: str = "cpu") -> tuple[LinearHead, int]:
    """A linear head trained on embeddings, which are read some at a time.

    Embeddings are standardised by their own mean and deviation, channel by channel; the standardisation is folded
    into weight and bias at the end.

    Args:
        data: what to train on, one image at least.
        settings: of the training.
        device: where to.

    Returns:
        The head, on the CPU, and the number of iterations; `settings.iterations` of them mean that it has not
        converged. The same rows, settings, device and number of threads give the same bits.
    """
    mean, deviation = _moments(data, settings.normalize)
    shift, scale = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, 1 / deviation))
    weight = torch.zeros((len(data.counts), data.size), device=device, requires_grad=True)
    bias = torch.zeros(len(data.counts), device=device, requires_grad=True)
    gradient, change = TOLERANCES
    optimiser = LBFGS(
        [weight, bias],
        max_iter=settings.iterations,
        max_eval=2 * settings.iterations,
        tolerance_grad=gradient,
        tolerance_change=change,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        optimiser.zero_grad()
        penalty = settings.penalty / (2 * len(data)) * weight.square().sum()
        penalty.backward()
        total = penalty.item()
        for rows, labels in data.blocks():
            inputs = (_features(rows, settings.normalize, device) - shift) * scale
            logits = functional.linear(inputs, weight, bias)
            loss = functional.cross_entropy(logits, _targets(labels, device), reduction="sum") / len(data)
            loss.backward()
            total += loss.item()
        return total

    optimiser.step(objective)
    head = _folded(weight, bias, mean, deviation, settings.normalize)
    return head, int(optimiser.state[weight]["n_iter"])


@torch.no_grad()
def correct(head: LinearHead, data: Embeddings) -> int:
    """How many images the head gives their own class, of `len(data)`."""
    hits = 0
    for rows, labels in data.blocks():
        predicted = head(torch.from_numpy(rows).float()).argmax(1)
        hits += int((predicted == _targets(labels, "cpu")).sum())
    return hits


def _moments(data: Embeddings, normalize: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, (E,) each; the deviation is 1 where a channel never changes."""
    total, squares = np.zeros(data.size), np.zeros(data.size)
    for rows, _ in data.blocks():
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
