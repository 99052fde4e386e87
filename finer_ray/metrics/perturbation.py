"""Perturbation: what the model says of an image that loses, or gains, its pixels in the order of a map.

Pixels are ordered by the map, brought to the image's pixels, ties by position. A map that is zero everywhere has no
order of pixels, and so no metric that depends on one, see `where_ordered`.
"""

from collections.abc import Callable

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.registration import Registration, draw

Probabilities = Callable[[Tensor, Tensor], Tensor]


def ranks(maps: Tensor, size: tuple[int, int], registration: Registration | None = None) -> Tensor:
    """The place of every pixel in the order of saliency, 0 for the most salient.

    Args:
        maps: (B, M, h, w).
        size: (H, W) of the image.
        registration: of the maps; None: stretched.

    Returns:
        (B, M, H, W) int32, each a permutation of 0 to H*W - 1.
    """
    order = draw(maps, size, registration).flatten(2).argsort(dim=2, descending=True, stable=True)
    places = torch.arange(order.shape[2], dtype=torch.int32, device=maps.device).expand_as(order)
    return torch.empty_like(places).scatter_(2, order, places).reshape(*order.shape[:2], *size)


def where_ordered(values: Tensor, maps: Tensor) -> Tensor:
    """Values that came of the order of maps, NaN where a map is zero everywhere.

    Args:
        values: (B, M, ...) float.
        maps: (B, M, h, w) non-negative.
    """
    blank = (maps == 0).flatten(2).all(2)
    return values.masked_fill(blank.reshape(*blank.shape, *[1] * (values.ndim - 2)), torch.nan)


def replaced(
    probabilities: Probabilities, images: Tensor, fill: Tensor, order: Tensor, counts: list[int], memory: int
) -> Tensor:
    """Probabilities of images whose first pixels in an order are replaced; all variants of a batch share forwards.

    Args:
        probabilities: images (n, 3, H, W) and which of the batch each was made of (n,) to (n, J).
        images: (B, 3, H, W).
        fill: (B, 3, H, W), or what broadcasts to it.
        order: (B, M, H, W), see `ranks`.
        counts: how many pixels, S of them, of which there may be none.
        memory: bytes, see `finer_ray.saliency.budget`.

    Returns:
        (B, M, S, J).
    """
    fill = fill.expand_as(images)
    batch, maps = order.shape[:2]
    taken = torch.tensor(counts).to(images.device, non_blocking=True).repeat(batch * maps)
    rows = torch.arange(batch * maps, device=images.device).repeat_interleave(len(counts))
    flat, found, step = order.flatten(0, 1), [], in_flight(images, memory)
    for first in range(0, len(rows), step):
        row = rows[first : first + step]
        gone = flat[row] < taken[first : first + step, None, None]
        owner = row // maps
        with torch.no_grad():
            found.append(probabilities(torch.where(gone[:, None], fill[owner], images[owner]), owner))
    return torch.cat(found).reshape(batch, maps, len(counts), -1) if found else images.new_empty((batch, maps, 0, 1))
