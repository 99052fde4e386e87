"""A backbone: a cut encoder, the transform its images need, and the classifier it came with."""

from dataclasses import dataclass

from finer_ray.images.transform import Transform
from finer_ray.models.head import LinearHead
from finer_ray.models.split import Split


@dataclass(frozen=True)
class Backbone:
    """What a library's model becomes here.

    Attributes:
        split: the image encoder, cut at its CAM layer.
        transform: from a photo to the encoder's input.
        head: the classes, where the config wants the model's own classifier or its text tower.
        concepts: the texts of `model.concepts`, where there are any.
        identity: what the model's fingerprint says of its architecture; '' where that is `model.backbone` itself.
    """

    split: Split
    transform: Transform
    head: LinearHead | None = None
    concepts: LinearHead | None = None
    identity: str = ""
