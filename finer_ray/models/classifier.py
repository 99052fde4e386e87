"""The classifier that is explained: a cut backbone and a head, checked against the library's own forward."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.images.transform import Transform
from finer_ray.models.backbone import one_size
from finer_ray.models.cam_layer import DEFAULT, FINAL, split_at
from finer_ray.models.checkpoint import fingerprint
from finer_ray.models.classes import ClassNames, read_classes
from finer_ray.models.cut import Cut
from finer_ray.models.head import JoinedHead, LinearHead, blank_head, read_probe
from finer_ray.models.libraries import LIBRARIES
from finer_ray.models.network import hub_asked_once
from finer_ray.models.registering import measure
from finer_ray.models.split import Split, Unsupported
from finer_ray.saliency.block_stack import BlockStack
from finer_ray.saliency.registration import Registration
from finer_ray.saliency.split_classifier import Activation, Attention

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
        grid_size: (h, w) of the maps; of `model.resize: native` the largest that there is.
        embedding_size: E.
        activation_size: D, channels of the CAM layer.
        activation: how logits become probabilities.
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
        self.grid_size, self.embedding_size, self.activation_size = (0, 0), 0, 0
        self.model_fingerprint = self.head_fingerprint = ""
        self.activation: Activation = "softmax"
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
    def stack(self) -> BlockStack | None:
        """See `Split.stack`."""
        return self.split.stack

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
            logits: Tensor = self.head(self.split.encode(images))
        return logits

    def measured_registration(self) -> Registration:
        """Where in the input the cells of the maps look; takes seconds, see `finer_ray.models.registering`.

        Raises:
            ConfigError: the model has no derivatives at its pixels.
        """
        try:
            return measure(self.split, self.transform, self.grid_size)
        except RuntimeError as error:
            raise ConfigError(
                f"saliency.registration: where this model's cells look cannot be measured ({error}); to stretch maps "
                "over the input instead, write saliency.registration: stretch"
            ) from error

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
            with hub_asked_once():
                backbone = config.library.build(config, () if names is None else names.names, concepts.names)
        except Unsupported as error:
            raise _unsupported(config, str(error)) from None
    head = backbone.head
    if config.head == "none":
        # As wide as the embedding once that is measured.
        head = blank_head(0 if names is None else len(names))
    if head is None:
        head, listed = read_probe(Path(config.head).expanduser(), config.head_scale)
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
    transform = backbone.transform.in_multiples(backbone.split.multiple)
    classifier = Classifier(backbone.split, joined, transform, names, concepts)
    classifier.activation = config.activation
    classifier.eval().requires_grad_(False)
    classifier.sources = dict(backbone.sources)
    _measure(classifier, config, backbone.identity or config.backbone)
    return classifier


def _measure(classifier: Classifier, config: ModelConfig, identity: str) -> None:
    """Sizes and fingerprints, and the proof that the cut computes what the library does."""
    if config.cam_layer == FINAL and classifier.compares_directions:
        raise _unsupported(
            config, "the logits are of embeddings of unit length, of which patches have no shares: name a layer instead"
        )
    transform = classifier.transform
    size, count = transform.size, 2
    if transform.resize == "native":
        # Of other aspect than the largest, and first, because that may take long.
        (height, width), step = transform.size, transform.multiple[1]
        size, count = (height, max(1, width // step // 2) * step), 1
        try:
            _proven(classifier, config, size, count)
        except ConfigError as error:
            raise one_size(f"at {height}x{size[1]}: {error.__cause__ or error}") from None
    with _refusals(config, size):
        classifier.split = split_at(classifier.split, config.cam_layer, _noise(2, size))
    cut = _proven(classifier, config, transform.size, count)
    classifier.grid_size = (cut.activation.shape[2], cut.activation.shape[3])
    classifier.embedding_size, classifier.activation_size = cut.embedding.shape[1], cut.activation.shape[1]
    classifier.model_fingerprint = fingerprint(
        classifier.split.state_dict(),
        identity,
        str(config.pool),
        transform.key,
        *([] if config.cam_layer == DEFAULT else [config.cam_layer]),
        *_arguments(config),
    )
    classifier.head_fingerprint = fingerprint(
        classifier.head.state_dict(),
        str(classifier.head.normalize),
        *classifier.classes.names,
        *classifier.concepts.names,
    )


@torch.no_grad()
def _proven(classifier: Classifier, config: ModelConfig, size: tuple[int, int], count: int) -> Cut:
    """Some random images of (height, width), cut, which computes what the library does. Raises ConfigError."""
    images = _noise(count, size)
    with _refusals(config, size):
        theirs = classifier.split(images)
        cut = classifier.cut(images)
    embedding = cut.embedding
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
    return cut


def _noise(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(0))


@contextmanager
def _refusals(config: ModelConfig, size: tuple[int, int]) -> Iterator[None]:
    """What a model does not do, as a ConfigError."""
    try:
        yield
    except Unsupported as error:
        raise _unsupported(config, str(error)) from None
    except (RuntimeError, AssertionError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise _unsupported(config, f"its forward pass at {size[0]}x{size[1]} fails: {error}") from error


def _arguments(config: ModelConfig) -> list[str]:
    """What `model.kwargs` add to a fingerprint; nothing where there are none, as before there were any."""
    return [json.dumps(config.kwargs, sort_keys=True)] if config.kwargs else []


def _unsupported(config: ModelConfig, why: str) -> ConfigError:
    if config.cam_layer != DEFAULT:
        return ConfigError(f"model.cam_layer: {config.cam_layer!r} of {config.backbone} cannot be explained: {why}")
    return ConfigError(
        f"model.backbone: {config.backbone} cannot be explained: {why}. Supported are "
        f"{', '.join(library.supported for library in LIBRARIES.values())}; others may be by model.cam_layer, the name "
        "of a module whose output is a map or tokens"
    )
