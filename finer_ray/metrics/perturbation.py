"""Perturbation: what the model says of an image that loses, or gains, its pixels in the order of a map.

Pixels are ordered by the map, brought to the image's pixels, ties by position. A map that is zero everywhere has no
order of pixels, and so no metric that depends on one, see `where_ordered`.
"""

from collections.abc import Callable

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.registration import Registration, draw

Probabilities = Callable[[Tensor, Tensor], Tensor]
Change = Callable[[Tensor, Tensor], Tensor]
# Of which every image has one; a prime, so that what pixels have in common does not decide.
RANDOM_MAPS = 1009


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


def random_ranks(images: Tensor, grid: tuple[int, int], registration: Registration | None = None) -> Tensor:
    """The order of pixels by a random map, as coarse as the maps are: what an explanation that knows nothing gives.

    Which map, an image's own pixels decide, so that it has the same one in whatever batch it is.

    Args:
        images: (B, 3, H, W) float.
        grid: (h, w) of the maps.
        registration: of the maps; None: stretched.

    Returns:
        (B, 1, H, W), see `ranks`.
    """
    maps = torch.rand((RANDOM_MAPS, *grid), generator=torch.Generator().manual_seed(0))
    # The bits as a number; sums of whole numbers are the same in any order.
    chosen = images.float().contiguous().view(torch.int32).sum((1, 2, 3)) % RANDOM_MAPS
    own = maps.to(images.device, non_blocking=True).index_select(0, chosen)[:, None]
    return ranks(own, (images.shape[2], images.shape[3]), registration)


def first_alike(order: Tensor, counts: list[int]) -> Tensor:
    """Of every map and count the first map of the image with the same pixels among its first, itself if no other has.

    Two orders have the same first n pixels where n pixels are among the first n of both.

    Args:
        order: (B, M, H, W), see `ranks`.
        counts: how many pixels, S of them.

    Returns:
        (B, M, S) int64.
    """
    flat, wanted = order.flatten(2), torch.tensor(counts, dtype=order.dtype, device=order.device)
    batch, maps = flat.shape[:2]
    found = torch.arange(maps, device=order.device)[None, :, None].repeat(batch, 1, len(counts))
    for later in range(1, maps):
        for earlier in reversed(range(later)):
            # The count at which a pixel is among the first of both.
            at = torch.bucketize(torch.maximum(flat[:, later], flat[:, earlier]), wanted, right=True)
            both = at.new_zeros((batch, len(counts) + 1)).scatter_add_(1, at, torch.ones_like(at)).cumsum(1)[:, :-1]
            found[:, later] = torch.where(both == wanted, earlier, found[:, later])
    return found


def replacing(images: Tensor, fill: Tensor) -> Change:
    """The change that puts a fill in the place of pixels.

    Args:
        images: (B, 3, H, W).
        fill: (B, 3, H, W), or what broadcasts to it.
    """
    fill = fill.expand_as(images)
    return lambda owner, gone: torch.where(gone[:, None], fill[owner], images[owner])


def masked(
    probabilities: Probabilities, images: Tensor, change: Change, order: Tensor, counts: list[int], memory: int
) -> Tensor:
    """Probabilities of images whose first pixels in an order are changed; all variants of a batch share forwards.

    On a CPU, masks in which maps of an image agree are run once. On other devices all are: which ones agree would have
    to be waited for.

    Args:
        probabilities: images (n, 3, H, W) and which of the batch each was made of (n,) to (n, J).
        images: (B, 3, H, W).
        change: which of the batch (n,) and which pixels go (n, H, W) bool to images (n, 3, H, W).
        order: (B, M, H, W), see `ranks`.
        counts: how many pixels, S of them in rising order, of which there may be none.
        memory: bytes, see `finer_ray.saliency.budget`.

    Returns:
        (B, M, S, J).
    """
    batch, maps = order.shape[:2]
    if not counts:
        return images.new_empty((batch, maps, 0, 1))
    taken = torch.tensor(counts, dtype=order.dtype).to(images.device, non_blocking=True).repeat(batch * maps)
    chosen, places = _each_once(order, counts)
    rows, flat = chosen // len(counts), order.flatten(0, 1)
    found = []
    for part, row in zip(*(values.split(in_flight(images, memory)) for values in (chosen, rows)), strict=True):
        gone, owner = flat[row] < taken[part, None, None], row // maps
        with torch.no_grad():
            found.append(probabilities(change(owner, gone), owner))
    return torch.cat(found).index_select(0, places).reshape(batch, maps, len(counts), -1)


def _each_once(order: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Which of the masks (B, M, S), flat, are run, (n,), and the place among them of each, (B * M * S,)."""
    batch, maps = order.shape[:2]
    every = torch.arange(batch * maps * len(counts), device=order.device)
    if order.device.type != "cpu" or maps == 1:
        return every, every
    first = first_alike(order, counts)
    own = (first == torch.arange(maps)[:, None]).flatten()
    # Of the first map that is alike the place in the flat order, and how many of those before it are run.
    source = (every.reshape(first.shape) + (first - torch.arange(maps)[:, None]) * len(counts)).flatten()
    return every[own], (own.cumsum(0) - 1)[source]
