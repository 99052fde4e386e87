"""A library of backbones: what a config may ask of it. No torch: the library itself is imported when it is used."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finer_ray.config.schema import ModelConfig
    from finer_ray.models.backbone import Backbone

# What begins names of backbones that a folder, or a repository of the Hugging Face hub, describes.
LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class Library:
    """A library; one that is a line of `LIBRARIES` (libraries.py), or defined in a plugin, is known everywhere.

    Attributes:
        name: what `model.backbone` begins with, before the colon; letters, digits and `_`.
        usage: values of `model.backbone`, for documents.
        supported: which of its models can be explained, for messages.
        module: with `build(config, classes, concepts) -> Backbone`, imported when a model is built; `__name__` where it
            is the same module.
        native_head: whether its models bring a linear classifier (`model.head: native`).
        text_tower: whether its models embed texts, too (`model.head: text`, `model.concepts`).
        repositories: whether all its names are of repositories of the hub, without `hf-hub:`.
    """

    name: str
    usage: str
    supported: str
    module: str
    native_head: bool = False
    text_tower: bool = False
    repositories: bool = False

    def is_folder(self, name: str) -> bool:
        """Whether a backbone's name is of a folder or repository, which holds its config and weights.

        >>> Library("clip", "clip:NAME", "CLIP", "clip").is_folder("hf-hub:imageomics/bioclip")
        True
        """
        return self.repositories or name.startswith((LOCAL_DIR, HF_HUB))

    def build(self, config: "ModelConfig", classes: tuple[str, ...], concepts: tuple[str, ...]) -> "Backbone":
        """The backbone of a config.

        Args:
            config: the section `model`.
            classes: names, for `head: text`; () where none are given.
            concepts: texts beside them.

        Raises:
            ConfigError: unknown name or tag, weights that do not fit, or an option that the model lacks.
            Unsupported: a model that cannot be cut.
        """
        backbone: Backbone = import_module(self.module).build(config, classes, concepts)
        return backbone
