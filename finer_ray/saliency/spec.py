"""The spec: what is asked of every image; and what the names of maps in a config mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finer_ray.config.section import Section
from finer_ray.saliency.aggregation import Aggregation
from finer_ray.saliency.budget import MASKED_MEMORY
from finer_ray.saliency.objective import Weighting
from finer_ray.saliency.registration import Registration

# In front of a method's name: the map that compares, with the section's gamma. The name alone is the baseline.
FINER = "finer_"


@dataclass(frozen=True)
class MapSpec:
    """One saliency map that is asked for.

    Attributes:
        name: under which it is stored.
        cam: name of its method, see `finer_ray.saliency.methods`.
        gamma: strength of the comparison; 0 for the baseline.
        aggregation: over the references, see `finer_ray.saliency.aggregation`.
        weighting: of the references, see `finer_ray.saliency.reference_weights`.
        reverse: whether it explains the references instead of the target.
    """

    name: str
    cam: str = "gradcam"
    gamma: float = 0.0
    aggregation: Aggregation = "mean_before_relu"
    weighting: Weighting = "equal"
    reverse: bool = False


def maps_of(saliency: Mapping[str, Any]) -> tuple[MapSpec, ...]:
    """The maps of a config's section `saliency`.

    Args:
        saliency: the section as `model_dump` gives it and a manifest holds it: `maps`, each a name or a mapping, and
            what these leave open.

    >>> maps_of({"maps": ["gradcam", "finer_gradcam"], "gamma": 0.6})[1].gamma
    0.6
    """
    usual = {name: saliency[name] for name in ("gamma", "aggregation", "weighting") if name in saliency}
    return tuple(_map(item, usual) for item in saliency["maps"])


def _map(item: str | Mapping[str, Any], usual: Mapping[str, Any]) -> MapSpec:
    if not isinstance(item, str):
        return MapSpec(**{**usual, **{key: value for key, value in item.items() if value is not None}})
    gamma = usual.get("gamma", 0.0) if item.startswith(FINER) else 0.0
    return MapSpec(**{**usual, "name": item, "cam": item.removeprefix(FINER), "gamma": gamma})


def baselines(maps: Sequence[MapSpec]) -> dict[str, str]:
    """For each map that compares (gamma is not 0), the first of the same method that does not, where there is one.

    A reversed map has none: it explains the references, not the target.

    Returns:
        Names of baselines by names of maps.
    """
    forward = [wanted for wanted in maps if not wanted.reverse]
    plain = {wanted.cam: wanted.name for wanted in reversed(forward) if wanted.gamma == 0}
    return {wanted.name: plain[wanted.cam] for wanted in forward if wanted.gamma != 0 and wanted.cam in plain}


@dataclass(frozen=True)
class SaliencySpec:
    """What is asked of every image.

    Attributes:
        maps: the maps wanted.
        references: K.
        selection: `logit`, `weight` or `top`, see `finer_ray.saliency.selection`, or the class indices that every image
            is compared with.
        by_class: (C, K) int64, the references of each class, -1 for none, in place of `selection`; or None.
        taxa: (C,) int64, the number of each class's taxon, -1 for none; then `logit`, `weight` and `top` choose among
            classes of the target's taxon alone. None: among all.
        by_image: whether images may name references of their own.
        pairs: where given, the target and the one reference for each predicted class; then `references` is 1.
        targets: how many classes of each image are explained, those with the highest logits.
        positives: of these only such whose sigmoid is 0.5 or more, and the highest in any case.
        memory: bytes that masked images may take at a time.
        settings: of methods, by name; a method's defaults where it is not among them.
        registration: where in the input's pixels the cells of maps have their centres, for methods that mask pixels;
            None: the grid stretched over the input, as other libraries take it.
        patches: n, of how many cells with the most evidence the activations are kept, see `finer_ray.saliency.patches`;
            0: of none.
        gamma: strength of the comparison by which these are chosen, and the cells of the map embedding weighed.
        map_embedding: whether the activation is also pooled by the finer map, see `finer_ray.saliency.map_embedding`.
    """

    maps: tuple[MapSpec, ...] = (MapSpec("gradcam"), MapSpec("finer_gradcam", gamma=0.6))
    references: int = 3
    selection: Literal["logit", "weight", "top"] | tuple[int, ...] = "logit"
    by_class: NDArray[np.int64] | None = field(default=None, compare=False)
    taxa: NDArray[np.int64] | None = field(default=None, compare=False)
    by_image: bool = False
    pairs: tuple[tuple[int, int], ...] | None = None
    targets: int = 1
    positives: bool = False
    memory: int = MASKED_MEMORY
    settings: Mapping[str, Section] = field(default_factory=dict)
    registration: Registration | None = None
    patches: int = 0
    gamma: float = 0.6
    map_embedding: bool = False

    def reference_count(self, classes: int) -> int:
        """K for a classifier with this many classes: never more than there are others."""
        if self.by_class is not None:
            return int(self.by_class.shape[1])
        if not isinstance(self.selection, str):
            return len(self.selection)
        return min(self.references, classes - 1)
