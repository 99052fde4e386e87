"""Map embedding: what the model sees where the finer map is high, as one vector of an image.

With the finer map w = relu(M_0 - gamma * mean_k M_k) of an image and the activation A of its cells,

    v = sum over cells of w A / |sum over cells of w A|

that is, the direction of the activation's mean, weighted by the map. A plain embedding says what is in the image; this
one what tells the target from its references there.
"""

from finer_ray.lazy import Tensor, functional, torch
from finer_ray.saliency.aggregation import contrast


def map_embedding(activation: Tensor, basis: Tensor, references: Tensor, gamma: float) -> Tensor:
    """The activation of each image, pooled by its finer map.

    Args:
        activation: A of the CAM layer, (B, D, h, w) float32 or float64.
        basis: (B, 1+K, h, w), the contrast basis of one target of each image, finite.
        references: (B, K) int64 of that target; -1 is none.
        gamma: strength of the comparison; 0 pools by the baseline map.

    Returns:
        (B, D) of the activation's dtype and of length 1; 0 where the map is zero everywhere.

    >>> activation = torch.tensor([[[[3.0, 0.0]], [[4.0, 9.0]]]])
    >>> basis = torch.tensor([[[[2.0, 1.0]], [[1.0, 2.0]]]])
    >>> map_embedding(activation, basis, torch.tensor([[7]]), gamma=0.5)
    tensor([[0.6000, 0.8000]])
    """
    with torch.no_grad(), torch.autocast(activation.device.type, enabled=False):
        weights = contrast(basis, gamma, present=references >= 0).flatten(1)
        # At most 1, so that no product overflows.
        shares = weights / weights.amax(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        pooled = activation.flatten(2) @ shares[:, :, None].to(activation.dtype)
        # In float64, in which no square overflows.
        smallest = torch.finfo(torch.float64).tiny
        return functional.normalize(pooled[..., 0].double(), dim=1, eps=smallest).to(activation.dtype)
