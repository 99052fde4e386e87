"""A backbone: a cut encoder, the transform its images need, and the classifier it came with; what libraries share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from finer_ray.config.messages import nearest
from finer_ray.errors import ConfigError
from finer_ray.images.transform import Transform
from finer_ray.models.head import LinearHead
from finer_ray.models.split import Split

if TYPE_CHECKING:
    # The schema asks for the libraries, which a plugin defines with what is here.
    from finer_ray.config.schema import ModelConfig


@dataclass(frozen=True)
class Backbone:
    """What a library's model becomes here.

    Attributes:
        split: the image encoder, cut at its CAM layer.
        transform: from a photo to the encoder's input.
        head: the classes, where the config wants the model's own classifier or its text tower.
        concepts: the texts of `model.concepts`, where there are any.
        identity: what the model's fingerprint says of its architecture; '' where that is `model.backbone` itself.
        sources: repositories that it comes from, and their commits, for the manifest.
        classes: names of the head's classes, where the model brings them; () where it does not.
    """

    split: Split
    transform: Transform
    head: LinearHead | None = None
    concepts: LinearHead | None = None
    identity: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def unknown_model(config: "ModelConfig", models: Sequence[str]) -> ConfigError:
    """The error for a name that a library does not have, with the nearest of those that it has."""
    library, _, name = config.backbone.partition(":")
    return ConfigError(f"model.backbone: {library} has no model {name!r}{nearest(name, models)}")


def check_tag(config: "ModelConfig", tags: Sequence[str]) -> None:
    """Refuse `model.weights` that name neither a file nor one of a backbone's pretrained tags. Raises ConfigError."""
    if config.weights not in tags:
        raise ConfigError(
            f"model.weights: {config.weights!r} is neither a file nor a pretrained tag of {config.backbone}"
            f"{nearest(config.weights, tags)}; its tags: {', '.join(tags) or 'none'}; or: random"
        )


def check_pool(can_change: bool) -> None:
    """Refuse `model.pool` for a model whose pooling cannot be changed. Raises ConfigError."""
    if not can_change:
        raise ConfigError("model.pool: only ViTs with a class token or mean pooling can change their pooling")


def one_size(why: str) -> ConfigError:
    """The error for `model.resize: native` of a model that takes images of one size."""
    return ConfigError(
        "model.resize: native gives each photo a size of its own, which this model does not take; use pad, shortest or "
        f"squash ({why})"
    )


def transform_of(
    config: "ModelConfig", data: Mapping[str, Any], size: int | Sequence[int], resize: str, modes: Mapping[str, str]
) -> Transform:
    """The transform that a library describes, with what the config says otherwise.

    Args:
        config: the section `model`.
        data: the library's description, with crop_pct, interpolation, mean and std, and where it has one the grey level
            `fill_color` of borders; else they have the colour that normalisation maps to zero.
        size: of the model's input in pixels, (height, width) or the side of a square.
        resize: key of `data` for how images are resized.
        modes: its values of that key as values of `model.resize`.

    Raises:
        ConfigError: images are resized in another way, and `model.resize` does not choose one.
    """
    size = config.image_size or size
    height, width = (size, size) if isinstance(size, int) else size
    mode = config.resize or modes.get(data[resize])
    if mode is None:
        raise ConfigError(
            f"model.resize: this backbone was trained with {resize.replace('_', ' ')} {data[resize]!r}; "
            "say shortest, squash, pad or native to choose another"
        )
    # What was chosen to show the whole photo does so.
    whole = config.resize in ("pad", "native")
    mean = config.mean or tuple(data["mean"])
    return Transform(
        size=(height, width),
        resize=cast(Any, mode),
        crop_pct=config.crop_pct or (1.0 if whole else data["crop_pct"]),
        interpolation=config.interpolation or data["interpolation"],
        mean=mean,
        std=config.std or tuple(data["std"]),
        fill=_borders(mean, data.get("fill_color")) if mode == "pad" else (0, 0, 0),
    )


def _borders(mean: Sequence[float], grey: int | None) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(255 * value))) for value in mean)
    return (red, green, blue) if grey is None else (grey, grey, grey)
