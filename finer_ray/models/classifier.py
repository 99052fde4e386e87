"""The classifier that is explained: a cut backbone and a head, checked against the library's own forward."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.images.transform import Transform
from finer_ray.models.checkpoint import fingerprint
from finer_ray.models.classes import ClassNames, read_classes
from finer_ray.models.cut import Cut
from finer_ray.models.head import JoinedHead, LinearHead, blank_head, read_probe
from finer_ray.models.libraries import LIBRARIES
from finer_ray.models.split import Split, Unsupported
from finer_ray.saliency.split_classifier import Attention

# Relative to the largest value; a wrong cut is off by far more, other summation orders by less.
TOLERANCE = 1e-3


class Classifier(nn.Module):
    """A classifier cut at its CAM layer; `finer_ray.saliency.explain` takes it as it is.

    Attributes:
        split: the image encoder.
        head: embedding (B, E) to logits (B, C).
        transform: from a photo to the input.
        classes: names of the C classes.
        concepts: names of the texts whose logits follow those of the classes.
        grid_size: (h, w) of the maps.
        embedding_size: E.
        model_fingerprint, head_fingerprint: hashes of what decides the outputs.
        sources: see `Backbone.sources`.
    """

    head: LinearHead | JoinedHead

    def __init__(
        self,
        split: Split,
        head: LinearHead | JoinedHead,
        transform: Transform,
        classes: ClassNames,
        concepts: ClassNames,
    ) -> None:
        super().__init__()
        self.split, self.head = split, head
        self.transform, self.classes, self.concepts = transform, classes, concepts
        self.grid_size, self.embedding_size = (0, 0), 0
        self.model_fingerprint = self.head_fingerprint = ""
        self.sources: dict[str, str] = {}

    @property
    def class_count(self) -> int:
        """C."""
        return len(self.classes)

    @property
    def side_blocks(self) -> int:
        """See `Split.side_blocks`."""
        return self.split.side_blocks

    @property
    def compares_directions(self) -> bool:
        """Whether the classes' logits are of embeddings of unit length, as those of texts are."""
        return (self.head.classes if isinstance(self.head, JoinedHead) else self.head).normalize

    def cut(self, images: Tensor) -> Cut:
        """Images, normalised (B, 3, H, W), after one forward pass."""
        cut: Cut = self.split.cut(images)
        return cut

    def class_weights(self) -> Tensor:
        """The head's weights (C, E)."""
        return self.head.weight

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C), with no graph."""
        with torch.no_grad():
            logits: Tensor = self.head(self.split.embed(images))
        return logits

    def differentiable(self, images: Tensor) -> Tensor:
        """Logits (B, C), with a graph down to the pixels."""
        with torch.enable_grad():
            logits: Tensor = self.head(self.split.tail(*self.split.trunk(images)))
        return logits

    def patch_embeddings(self, images: Tensor, attention: Attention, blocks: int) -> Tensor:
        """Embeddings of the patches (B, h*w, E), see `Split.side_stream`."""
        with torch.no_grad():
            return self.split.side_stream(images, attention, blocks)


def build_classifier(config: ModelConfig) -> Classifier:
    """The classifier that `model.*` of the config describes, in eval mode, on the CPU, in float32.

    Raises:
        ConfigError: anything in the section that cannot be done, with its config path.

    >>> model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64))
    >>> model.class_count, model.grid_size
    (1000, (2, 2))
    """
    names = None if config.classes is None else read_classes(config.classes)
    concepts = ClassNames((), kind="concept") if config.concepts is None else read_classes(config.concepts, "concepts")
    if config.head == "native" and not config.library.native_head:
        raise ConfigError(
            f"model.head: {config.library.name} backbones have no native classifier; use the path of a safetensors file"
            f"{', or text (with model.classes)' * config.library.text_tower}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            backbone = config.library.build(config, () if names is None else names.names, concepts.names)
        except Unsupported as error:
            raise _unsupported(config, str(error)) from None
    head = backbone.head
    if config.head == "none":
        # As wide as the embedding once that is measured.
        head = blank_head(0 if names is None else len(names))
    if head is None:
        head, listed = read_probe(Path(config.head).expanduser())
        if names is None and listed is not None:
            names = ClassNames(tuple(listed))
    if names is None and backbone.classes:
        names = ClassNames(backbone.classes)
    names = names or ClassNames.numbered(len(head.weight))
    if len(names) != len(head.weight):
        raise ConfigError(f"model.classes: {len(names)} names for a head with {len(head.weight)} classes")
    if len(names) < 2:
        raise ConfigError("model.classes: a classifier needs two classes at least")
    joined = head if backbone.concepts is None else JoinedHead(head, backbone.concepts)
    classifier = Classifier(backbone.split, joined, backbone.transform, names, concepts)
    classifier.eval().requires_grad_(False)
    classifier.sources = dict(backbone.sources)
    _measure(classifier, config, backbone.identity or config.backbone)
    return classifier


@torch.no_grad()
def _measure(classifier: Classifier, config: ModelConfig, identity: str) -> None:
    """Sizes and fingerprints, and the proof that the cut computes what the library does."""
    height, width = classifier.transform.size
    images = torch.randn((2, 3, height, width), generator=torch.Generator().manual_seed(0))
    try:
        theirs = classifier.split(images)
        cut = classifier.cut(images)
    except Unsupported as error:
        raise _unsupported(config, str(error)) from None
    except (RuntimeError, AssertionError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise _unsupported(config, f"its forward pass at {height}x{width} fails: {error}") from error
    embedding, grid = cut.embedding, cut.activation
    if config.head == "none":
        classifier.head = blank_head(len(classifier.classes), embedding.shape[1])
    if embedding.ndim != 2 or embedding.shape[1] != classifier.head.weight.shape[1]:
        raise ConfigError(
            f"model.head: its weights are for embeddings of {classifier.head.weight.shape[1]}, "
            f"{config.backbone} gives {tuple(embedding.shape[1:])}"
        )
    ours = classifier.head(embedding) if config.head == "native" else embedding
    # Weights that give NaN are no fault of the cut; such images become failures one by one.
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > TOLERANCE * theirs.abs().max():
        raise _unsupported(config, "cut at the CAM layer it does not compute what the library's forward does")
    classifier.grid_size = (grid.shape[2], grid.shape[3])
    classifier.embedding_size = embedding.shape[1]
    classifier.model_fingerprint = fingerprint(
        classifier.split.state_dict(), identity, str(config.pool), repr(classifier.transform), *_arguments(config)
    )
    classifier.head_fingerprint = fingerprint(
        classifier.head.state_dict(),
        str(classifier.head.normalize),
        *classifier.classes.names,
        *classifier.concepts.names,
    )


def _arguments(config: ModelConfig) -> list[str]:
    """What `model.kwargs` add to a fingerprint; nothing where there are none, as before there were any."""
    return [json.dumps(config.kwargs, sort_keys=True)] if config.kwargs else []


def _unsupported(config: ModelConfig, why: str) -> ConfigError:
    return ConfigError(
        f"model.backbone: {config.backbone} cannot be explained: {why}. Supported are "
        f"{', '.join(library.supported for library in LIBRARIES.values())}"
    )
