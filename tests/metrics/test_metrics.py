"""The table of metrics: what each entry promises, and what follows from it."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from finer_ray.config.schema import MetricsConfig, ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.metrics.metric import Metric
from finer_ray.metrics.table import AVERAGED, CURVES, JUDGES, METRICS, OF_REGION, REPORTED, SWITCHES
from finer_ray.models import Classifier, build_classifier
from finer_ray.pipeline.scoring import Scorer
from finer_ray.saliency import Explanation, SaliencySpec, explain
from finer_ray.store.tables import CLASSES
from finer_ray.store.tables import METRICS as SCHEMA
from tests.saliency.test_methods import config

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
STEPS, REFERENCES, SIZE = 4, 3, 64
Batch = tuple[Classifier, Tensor, Explanation, Tensor]


@pytest.fixture(scope="module")
def batch() -> Batch:
    """A model, two images, what it says of them, and where their objects are."""
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=SIZE))
    images = torch.randn((2, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    region = torch.zeros((2, SIZE, SIZE), dtype=torch.bool)
    region[:, 10:40, 5:30] = True
    return model, images, explain(model, images, SaliencySpec(references=REFERENCES)), region


def scores(batch: Batch, wanted: set[str]) -> dict[str, Tensor]:
    model, images, explanation, region = batch
    switches = {name: name in wanted for name in SWITCHES}
    scorer = Scorer(MetricsConfig(**switches, steps=STEPS, fill="black"), model, torch.device("cpu"), 2**26)
    return scorer(images, explanation, region)


@EVERY
def test_it_has_a_column_and_words(metric: Metric) -> None:
    kind = {"float32": pa.float32(), "bool": pa.bool_()}[metric.dtype]
    for _ in metric.axes:
        kind = pa.list_(kind)
    assert SCHEMA.field(metric.name) == pa.field(metric.name, kind)
    assert metric.words
    assert metric.switch.description == MetricsConfig.model_fields[metric.switch.name].description
    assert getattr(MetricsConfig(), metric.switch.name) is metric.switch.default
    assert f"| {metric.name} |" in (ROOT / "docs" / "outputs.md").read_text()
    # Averages are of numbers.
    assert metric.name not in AVERAGED or not metric.axes
    summed = {f"{metric.name}_{what}" for what in ("count", "mean", "stderr")}
    assert summed & set(CLASSES.names) == (summed if metric.heading else set())
    assert metric.name not in CURVES or metric.x_title


@EVERY
def test_it_is_computed_alone_as_among_all(metric: Metric, batch: Batch) -> None:
    every, alone = scores(batch, set(SWITCHES)), scores(batch, {metric.switch.name})
    sizes = {"step": STEPS + 1, "reference": REFERENCES}
    assert every[metric.name].shape == (2, 2, *(sizes[axis] for axis in metric.axes))
    assert every[metric.name].isfinite().all()
    torch.testing.assert_close(alone[metric.name], every[metric.name])
    assert set(alone) == {other.name for other in METRICS.values() if other.switch is metric.switch}


@EVERY
def test_without_regions_the_others_are_the_same(metric: Metric, batch: Batch) -> None:
    model, images, explanation, region = batch
    scorer = Scorer(MetricsConfig(**dict.fromkeys(SWITCHES, True), steps=STEPS), model, torch.device("cpu"), 2**26)
    found = scorer(images, explanation, None)
    assert (metric.name in found) is not metric.of_region
    if metric.name in found:
        assert torch.equal(found[metric.name], scorer(images, explanation, region)[metric.name])


def test_no_two_are_called_alike() -> None:
    for called in ([metric.words for metric in METRICS.values()], [metric.title for metric in REPORTED.values()]):
        assert len(set(called)) == len(called)


def test_orders() -> None:
    """Of the paper's Tab. 4, and of what judges an image: where there is an annotation it is the truth."""
    assert [metric.title for metric in REPORTED.values()] == [
        "Del. ↓",
        "Ins. ↑",
        "RD.@0.05 ↑",
        "RD.@0.1 ↑",
        "CD.@0.05 ↑",
        "CD.@0.1 ↑",
        "SRG ↑",
        "Rand. ↓",
        "AvgDrop ↓",
        "Incr. ↑",
        "ROAD ↑",
        "Gini ↑",
        "Loc. ↑",
        "Point. ↑",
        "Rank ↑",
        "IoU ↑",
    ]
    assert list(JUDGES)[:4] == ["localisation", "relative_drop_05", "relative_drop_10", "deletion_auc"]
    # A random order is the same of every map.
    assert (list(JUDGES)[-1], set(JUDGES), set(OF_REGION)) == (
        "random_deletion_auc",
        set(AVERAGED),
        set(REPORTED) & set(OF_REGION),
    )


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_counts_for_the_fingerprint(name: str) -> None:
    base = config()
    turned = base.metrics.model_copy(update={name: not SWITCHES[name].default})
    assert base.model_copy(update={"metrics": turned}).fingerprint() != base.fingerprint()


@pytest.mark.parametrize("name", ["row", "map", "a b", "a; DROP TABLE"])
def test_names_that_are_no_columns_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a metric cannot be called"):
        replace(METRICS["localisation"], name=name)


def test_half_precision_is_for_the_model_alone(batch: Batch) -> None:
    """Metrics of maps alone are the same, to the bit, under the autocast that a job in bf16 runs in."""
    wanted = {"localisation", "rank_accuracy", "iou", "sparsity"}
    exact = scores(batch, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        found = scores(batch, wanted)
    assert len(found) == 5
    assert all(torch.equal(found[name], values) for name, values in exact.items())
