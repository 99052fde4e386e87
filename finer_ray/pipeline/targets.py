"""The spec: the config's section `saliency` with its names turned into indices of the head's logits."""

from functools import lru_cache
from typing import Any

from finer_ray.config.schema import ClassReferences, ConceptConfig, Config, TargetsConfig
from finer_ray.config.section import MISSING_PLUGIN
from finer_ray.errors import ConfigError
from finer_ray.models import Classifier
from finer_ray.pipeline.reference_files import references_by_class, taxa_by_class, with_references
from finer_ray.saliency.methods import METHODS
from finer_ray.saliency.selection import CHOOSE
from finer_ray.saliency.spec import SaliencySpec
from finer_ray.shards.splits import split_hint

# Labels whose classes are remembered.
MAX_LABELS = 4096
NO_LABEL = (
    " (-1 often marks no label: to do without labels, set input.fields.label: '' and a saliency.target other than "
    "label)"
)


def saliency_spec(config: Config, classifier: Classifier) -> SaliencySpec:
    """What is asked of every image.

    Raises:
        LookupError: there is no such class or concept.
        ConfigError: a map's method is of a plugin that this process lacks.
    """
    saliency = config.saliency
    maps = saliency.specs()
    if unknown := [wanted.cam for wanted in maps if wanted.cam not in METHODS]:
        raise ConfigError(f"this process knows no CAM method {unknown[0]!r}: {MISSING_PLUGIN}")
    saliency = with_references(config, classifier.classes).saliency
    selection: Any = saliency.selection
    by_class = None
    if isinstance(selection, list):
        selection = tuple(classifier.classes.index(name) for name in selection)
    elif isinstance(selection, ClassReferences):
        selection, by_class = "logit", references_by_class(selection, classifier.classes)
    concept, pairs, references = saliency.concept, None, saliency.references
    if concept is not None:
        references = 1
        of_class = _pairs(concept, classifier)
        if concept.by == "predicted":
            pairs = tuple(of_class[index] for index in range(len(classifier.classes)))
    target = saliency.target
    several = target if isinstance(target, TargetsConfig) else None
    return SaliencySpec(
        maps=maps,
        references=references,
        selection=selection,
        by_class=by_class,
        taxa=None if saliency.within is None else taxa_by_class(saliency.within, classifier.classes),
        by_image=bool(config.input.fields.references),
        pairs=pairs,
        targets=1 if several is None else several.count,
        positives=several is not None and several.positives is not None,
        settings={name: getattr(saliency, name) for name, method in METHODS.items() if method.settings},
        gamma=saliency.gamma,
    )


def check_saliency(config: Config, classifier: Classifier) -> None:
    """Raises ConfigError with its place where the section names classes or concepts that there are not, or a map
    that this classifier cannot have; and where the classifier cannot be compiled, and should."""
    saliency = config.saliency
    concept = saliency.concept
    if config.compute.compile and not classifier.split.compilable:
        raise ConfigError(
            f"compute.compile: {config.model.backbone} is cut inside the library's own forward pass at this CAM layer, "
            "and so cannot be compiled up to it; leave compile: false"
        )
    try:
        place = "saliency.concept" if concept is not None else "saliency.selection"
        saliency_spec(config, classifier)
        place = "saliency.target"
        Targets(config, classifier)
        if isinstance(saliency.target, TargetsConfig) and saliency.target.count > len(classifier.classes):
            raise LookupError(f"{saliency.target.count} targets of a classifier with {len(classifier.classes)} classes")
    except LookupError as error:
        raise ConfigError(f"{place}: {error.args[0]}") from None
    for number, wanted in enumerate(saliency.specs()):
        reason = METHODS[wanted.cam].refusal(classifier, concept is not None)
        if reason is not None:
            raise ConfigError(
                f"saliency.maps.{number}: {reason} (model.backbone is {config.model.backbone}, model.head is "
                f"{config.model.head!r})"
            )


class TargetError(LookupError):
    """An image's target cannot be told.

    Attributes:
        stage: `label`, `target` or `references`.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class Targets:
    """From an image's annotations to its label, its target and its reference.

    Raises:
        LookupError: the config names a class or a concept that there is not.
    """

    def __init__(self, config: Config, classifier: Classifier) -> None:
        self._classes, self._classifier = classifier.classes, classifier
        self._concept, self._wanted = config.saliency.concept, config.saliency.target
        self._pairs = {} if self._concept is None else _pairs(self._concept, classifier)
        self._fixed = None
        if not isinstance(self._wanted, TargetsConfig) and self._wanted not in ("predicted", "label", "concept"):
            self._fixed = self._classes.index(self._wanted)
        # Unknown labels come again and again, and their nearest names take long to find.
        self._label = lru_cache(MAX_LABELS)(self._find_label)

    @property
    def need_labels(self) -> bool:
        """Whether an image whose label is no class cannot be explained."""
        return self._wanted == "label" or (self._concept is not None and self._concept.by == "label")

    def label(self, label: int | str | None) -> int | None:
        """The index of a label. Raises TargetError where it is no class."""
        if label is None:
            return None
        index, reason = self._label(label)
        if reason is not None:
            raise TargetError("label", reason)
        return index

    def _find_label(self, label: int | str) -> tuple[int, str | None]:
        """The index of a label, or why it is no class."""
        try:
            return self._classes.index(label), None
        except LookupError as error:
            hint = split_hint(label) if isinstance(label, str) else NO_LABEL if label == -1 else ""
            return -1, f"{error.args[0]}{hint}"

    def own_references(self, named: list[dict[str, int | str | None]] | None, count: int) -> list[int]:
        """The classes that an image names to be compared with, -1 behind them; of one that names none, CHOOSE.

        Args:
            named: each a number or a name, the other None; or None.
            count: K.

        Raises:
            TargetError: more than K of them, one that is no class, or one named twice.
        """
        if not named:
            return [CHOOSE] * count
        # As exports have it: of -1 alone, an image is compared with nothing.
        named = [one for one in named if one["number"] != -1]
        if len(named) > count:
            raise TargetError(
                "references", f"the image names {len(named)} references, and the job compares with {count} at most"
            )
        found = []
        for one in named:
            index, reason = self._label(one["number"] if one["name"] is None else one["name"])
            if reason is not None:
                raise TargetError("references", reason)
            found.append(index)
        if len(set(found)) < len(found):
            raise TargetError("references", "the image names a reference twice")
        return found + [-1] * (count - len(found))

    def pair(self, label: int | None, text: str | None, contrast_text: str | None) -> tuple[int | None, int | None]:
        """Target and reference, None where the model is to choose.

        Args:
            label: of the image, or None.
            text, contrast_text: the image's own, or None.

        Raises:
            TargetError: what the config wants of this image it does not have.
        """
        if self._wanted == "label":
            if label is None:
                raise TargetError("target", "saliency.target is label, and the image has none, or several")
            return label, None
        if self._concept is None or self._concept.by == "predicted":
            return self._fixed, None
        if self._concept.by == "label":
            if label is None and self._concept.default is None:
                raise TargetError("target", "saliency.concept.by is label, and the image has none, or several")
            return self._pairs[-1 if label is None else label]
        return self._own(text, contrast_text)

    def _own(self, text: str | None, contrast_text: str | None) -> tuple[int, int]:
        default = self._pairs.get(-1)
        if (text is None or contrast_text is None) and default is None:
            missing = "text" if text is None else "contrast_text"
            raise TargetError("target", f"the image has no {missing}, and saliency.concept has no default")
        try:
            found = [None if own is None else concept_index(self._classifier, own) for own in (text, contrast_text)]
        except LookupError as error:
            raise TargetError("target", str(error.args[0])) from None
        target, reference = (own if own is not None else (default or (0, 0))[i] for i, own in enumerate(found))
        if target == reference:
            raise TargetError(
                "target", f"the image's text and its contrast_text are the same ({text or contrast_text!r})"
            )
        return target, reference


def concept_index(classifier: Classifier, text: str) -> int:
    """The logit of a concept. Raises LookupError."""
    try:
        return len(classifier.classes) + classifier.concepts.index(text)
    except LookupError as error:
        raise LookupError(f"{error.args[0]}; model.concepts lists them") from None


def _pairs(concept: ConceptConfig, classifier: Classifier) -> dict[int, tuple[int, int]]:
    """Target and reference by class, and for -1 the default. Raises LookupError."""
    given = {classifier.classes.index(name): pair for name, pair in concept.pairs.items()}
    found = {number: _indices(classifier, pair) for number, pair in given.items()}
    if concept.default is not None:
        default = _indices(classifier, concept.default)
        found = {-1: default, **dict.fromkeys(range(len(classifier.classes)), default), **found}
    elif concept.by != "image" and len(found) < len(classifier.classes):
        lacking = next(name for number, name in enumerate(classifier.classes.names) if number not in found)
        raise LookupError(f"the class {lacking!r} has no pair, and there is no default")
    if same := next((pair for pair in found.values() if pair[0] == pair[1]), None):
        raise LookupError(f"{classifier.concepts.names[same[0] - len(classifier.classes)]!r} is compared with itself")
    return found


def _indices(classifier: Classifier, pair: tuple[str, str]) -> tuple[int, int]:
    return concept_index(classifier, pair[0]), concept_index(classifier, pair[1])
