"""A backbone: a cut encoder, the transform its images need, and the classifier it came with."""

from dataclasses import dataclass

from finer_ray.models.head import LinearHead
from finer_ray.models.split import Split
from finer_ray.shards import Transform


@dataclass(frozen=True)
class Backbone:
    """What a library's model becomes here.

    Attributes:
        split: the image encoder, cut at its CAM layer.
        transform: from a photo to the encoder's input.
        native: the model's own classifier, where it has one that is wanted.
    """

    split: Split
    transform: Transform
    native: LinearHead | None = None
