"""The config's names as indices: maps, and which concept an image is asked about."""

from types import SimpleNamespace
from typing import Any

import pytest

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError
from finer_ray.models import ClassNames
from finer_ray.pipeline.targets import TargetError, Targets, check_saliency, saliency_spec
from finer_ray.saliency import MapSpec

CLASSES, CONCEPTS = ("crow", "cardinal", "finch"), ("bird", "red bill", "black wing")
MODEL: Any = SimpleNamespace(classes=ClassNames(CLASSES), concepts=ClassNames(CONCEPTS, kind="concept"))
BIRD, RED, BLACK = 3, 4, 5


def config(fields: dict[str, Any] | None = None, **saliency: Any) -> Config:
    tree = {
        "input": {"shards": ["a.tar"], "fields": fields or {}},
        "model": {"backbone": "open_clip:x", "weights": "random", "head": "text", "classes": [*CLASSES]},
        "saliency": saliency,
        "output": {"url": "out"},
    }
    tree["model"]["concepts"] = [*CONCEPTS]
    return parse_config(tree)


def concept(by: str, **options: Any) -> Config:
    fields = {"text": "json.concept", "contrast_text": "json.base"} if by == "image" else {}
    return config(fields, target="concept", concept={"by": by, **options})


def test_maps_take_what_they_leave_open_from_the_section() -> None:
    own = {"name": "far", "cam": "scorecam", "gamma": 2, "aggregation": "max_before_relu", "reverse": True}
    made = saliency_spec(
        config(maps=["layercam", "finer_layercam", own], gamma=0.7, weighting="probability", references=2), MODEL
    )
    assert made.maps == (
        MapSpec("layercam", "layercam", 0.0, weighting="probability"),
        MapSpec("finer_layercam", "layercam", 0.7, weighting="probability"),
        MapSpec("far", "scorecam", 2.0, "max_before_relu", "probability", True),
    )
    assert (made.references, made.selection, made.pairs) == (2, "logit", None)


def test_pairs_by_predicted_class() -> None:
    made = saliency_spec(
        concept("predicted", pairs={"cardinal": ["red bill", "bird"]}, default=["bird", "black wing"]), MODEL
    )
    assert made.pairs == ((BIRD, BLACK), (RED, BIRD), (BIRD, BLACK))
    assert made.reference_count(3) == 1


def test_pairs_by_label() -> None:
    targets = Targets(concept("label", pairs={"cardinal": ["red bill", "bird"]}, default=["black wing", "bird"]), MODEL)
    assert targets.label("cardinal") == 1
    assert targets.pair(1, None, None) == (RED, BIRD)
    assert targets.pair(0, None, None) == targets.pair(None, None, None) == (BLACK, BIRD)
    every = Targets(concept("label", pairs={name: ["red bill", "bird"] for name in CLASSES}), MODEL)
    with pytest.raises(TargetError, match="by is label, and the image has none"):
        every.pair(None, None, None)
    with pytest.raises(TargetError, match=r"no class is called 'cardinla' \(nearest: cardinal"):
        every.label("cardinla")


@pytest.mark.parametrize(
    ("wanted", "needed"),
    [
        (config(), False),
        (config(target="finch"), False),
        (config(target="label"), True),
        (concept("label", default=["black wing", "bird"]), True),
        (concept("predicted", default=["black wing", "bird"]), False),
        (concept("image", default=["black wing", "bird"]), False),
    ],
)
def test_which_jobs_need_labels(wanted: Config, needed: bool) -> None:
    assert Targets(wanted, MODEL).need_labels == needed


def test_labels_that_are_no_class() -> None:
    targets = Targets(config(target="label"), MODEL)
    for _ in range(2):
        assert targets.label(None) is None
        assert targets.label(" finch ") == 2
        with pytest.raises(
            TargetError, match=r"class -1 is out of range: .*marks no label: .*input\.fields\.label: ''"
        ):
            targets.label(-1)
        with pytest.raises(TargetError, match=r"class 3 is out of range: there are 0 to 2$") as caught:
            targets.label(3)
        assert caught.value.stage == "label"


def test_an_images_own_concept() -> None:
    targets = Targets(concept("image", default=["red bill", "bird"]), MODEL)
    assert targets.pair(None, "black wing", "red bill") == (BLACK, RED)
    assert targets.pair(None, "black wing", None) == (BLACK, BIRD)
    assert targets.pair(None, None, None) == (RED, BIRD)
    with pytest.raises(TargetError, match=r"no concept is called 'red bil' \(nearest: red bill.*model\.concepts"):
        targets.pair(None, "red bil", None)
    with pytest.raises(TargetError, match="the same"):
        targets.pair(None, "bird", "bird")
    alone = Targets(concept("image"), MODEL)
    with pytest.raises(TargetError, match="no contrast_text"):
        alone.pair(None, "red bill", None)
    with pytest.raises(TargetError, match="no text"):
        alone.pair(2, None, "bird")


def test_classes_and_labels_as_targets() -> None:
    assert Targets(config(target="finch"), MODEL).pair(0, None, None) == (2, None)
    assert Targets(config(target="label"), MODEL).pair(0, None, None) == (0, None)
    assert Targets(config(), MODEL).pair(0, None, None) == (None, None)
    with pytest.raises(TargetError, match="target is label"):
        Targets(config(target="label"), MODEL).pair(None, None, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (config(target="crowd"), r"saliency\.target: no class is called 'crowd' \(nearest: crow"),
        (config(selection=["crowd"]), r"saliency\.selection: no class"),
        (concept("label", pairs={"crowd": ["bird", "red bill"]}), r"saliency\.concept: no class"),
        (concept("label", default=["bird", "red bil"]), r"saliency\.concept: no concept .*nearest: red bill"),
        (
            concept("predicted", pairs={"crow": ["red bill", "bird"]}),
            r"'cardinal' has no pair, and there is no default",
        ),
        (concept("predicted", default=["bird", "bird"]), r"'bird' is compared with itself"),
    ],
)
def test_unknown_names_are_refused_with_their_place(wrong: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_saliency(wrong, MODEL)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"target": "concept"}, "need each other"),
        ({"concept": {"default": ["bird", "red bill"]}}, "need each other"),
        ({"target": "concept", "concept": {"by": "image"}}, r"needs input\.fields\.text"),
        ({"maps": [{"name": "a/b", "cam": "gradcam"}]}, r"saliency\.maps\.0\.name"),
        ({"maps": ["gradcam", {"name": "gradcam", "cam": "layercam"}]}, "names a map twice"),
        (
            {"maps": [{"name": "m", "cam": "gradcam", "gama": 1}]},
            r"saliency\.maps\.0\.gama: unknown key \(nearest: gamma",
        ),
        ({"weighting": "probabilty"}, r"nearest: probability"),
    ],
)
def test_wrong_sections(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**section)


def test_a_method_of_a_plugin_that_is_not_at_hand() -> None:
    """As in a worker of a cluster to which nobody has said so."""
    asked = config(maps=["gradcam"])
    saliency = asked.saliency.model_copy(update={"maps": ["finer_mine"]})
    with pytest.raises(ConfigError, match="knows no CAM method 'mine': FINER_RAY_PLUGINS"):
        saliency_spec(asked.model_copy(update={"saliency": saliency}), MODEL)
