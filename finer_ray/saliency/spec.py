"""The question: what is asked of every image."""

from dataclasses import dataclass
from typing import Literal

from finer_ray.saliency.budget import MASKED_MEMORY
from finer_ray.saliency.gem import Gem
from finer_ray.saliency.mask import Mask
from finer_ray.saliency.rise import Rise

CamName = Literal["gradcam", "layercam", "scorecam", "rise", "mask", "gem"]


@dataclass(frozen=True)
class Map:
    """One saliency map that is asked for.

    Attributes:
        name: under which it is stored.
        cam: one of `CamName`.
        gamma: 0 for the baseline.
        aggregation, reverse: see `finer_ray.saliency.contrast`.
        weighting: see `finer_ray.saliency.reference_weights`.
    """

    name: str
    cam: CamName = "gradcam"
    gamma: float = 0.0
    aggregation: str = "mean_before_relu"
    weighting: str = "equal"
    reverse: bool = False


GRADCAM, FINER = Map("gradcam"), Map("finer_gradcam", gamma=0.6)
RISE, MASK, GEM = Rise(), Mask(), Gem()


@dataclass(frozen=True)
class Question:
    """What is asked of every image.

    Attributes:
        maps: the maps wanted.
        references: K.
        selection: `logit`, `weight`, or the class indices that every image is compared with.
        pairs: where given, the target and the one reference for each predicted class; then `references` is 1.
        memory: bytes that masked images may take at a time.
        rise, mask, gem: settings of these methods.
    """

    maps: tuple[Map, ...] = (GRADCAM, FINER)
    references: int = 3
    selection: Literal["logit", "weight"] | tuple[int, ...] = "logit"
    pairs: tuple[tuple[int, int], ...] | None = None
    memory: int = MASKED_MEMORY
    rise: Rise = RISE
    mask: Mask = MASK
    gem: Gem = GEM

    def reference_count(self, classes: int) -> int:
        """K for a classifier with this many classes: never more than there are others."""
        if not isinstance(self.selection, str):
            return len(self.selection)
        return min(self.references, classes - 1)
