"""Texts of traits, against derivatives of the model as a whole; and a small job from photos to named traits."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from birds.species import PARTS
from finer_ray.cli import app
from finer_ray.config.loading import load_config
from finer_ray.config.schema import Config, ModelConfig
from finer_ray.demo.run_demo import birds_config
from finer_ray.errors import QueryError
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export as run
from finer_ray.report.photos import read_photos
from finer_ray.store import derived
from finer_ray.store.reading import Export, open_export
from finer_ray.traits import pair_traits
from finer_ray.traits.texts import concept_evidence, scores, with_texts
from tests.conftest import Members, sample, write_tar

CONCEPTS = ["red", "green", "blue"]


def test_evidence_is_the_mean_gradient_of_each_concept(clip: str) -> None:
    """By autograd from the logits to the CAM layer's activations, one concept at a time, in float64."""
    config = ModelConfig(backbone=clip, weights="random", head="text", classes=["a", "b"], concepts=CONCEPTS)
    model = build_classifier(config)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = concept_evidence(model, images)
    assert found.shape == (2, 3, 4, 4)
    wide = build_classifier(config).double()
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (model.transform.mean, model.transform.std))
    pixels = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        activation, residual = wide.split.trunk(pixels)
    leaf = activation.clone().requires_grad_()
    with torch.enable_grad():
        logits = wide.head(wide.split.tail(leaf, residual))
        for q in range(3):
            (gradient,) = torch.autograd.grad(logits[:, 2 + q].sum(), leaf, retain_graph=True)
            alpha = wide.split.grid(gradient, (64, 64)).mean((2, 3), keepdim=True)
            expected = (alpha * wide.split.grid(leaf.detach(), (64, 64))).sum(1)
            assert np.abs(found[:, q] - expected.numpy()).max() < 1e-4 * expected.abs().max()


def test_a_concept_is_compared_with_itself_and_with_the_others() -> None:
    """A concept that has much everywhere stands out nowhere; of two that stand out at a cell neither does much."""
    evidence = np.zeros((1, 3, 1, 5))
    evidence[0, 0], evidence[0, 1, 0, 2], evidence[0, 2, 0, 3] = 100, 1, 7
    found = scores(evidence)
    assert found[0, :, 0, 2].argmax() == 1
    assert found[0, :, 0, 3].argmax() == 2
    assert found[0, 1, 0, 2] == pytest.approx(found[0, 2, 0, 3])
    alike = evidence.copy()
    alike[0, 2] = alike[0, 1]
    assert scores(alike)[0, 1, 0, 2] < found[0, 1, 0, 2]


@pytest.fixture
def job(clip: str, job: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """A job on ten photos with a tiny open_clip model."""
    photos: Members = [member for i in range(10) for member in sample(f"p{i:03d}", i, i % 2)]
    shard = str(write_tar(tmp_path / "in" / "a.tar", photos))
    model = {"backbone": clip, "head": "text", "classes": ["a", "b", "c"]}
    return lambda **more: job(shard, model={**model, **more}, saliency={"target": "label", "references": 1})


@pytest.mark.slow
def test_traits_are_named_by_the_model_that_made_the_export(job: Callable[..., Config]) -> None:
    run(job(concepts=CONCEPTS))
    export = open_export(job().output.url)
    found = pair_traits(export, *next(iter(_pairs(export))), resamples=0)
    named, lost = with_texts(export, found)
    assert lost == 0
    assert {trait.text for trait in named} <= set(CONCEPTS)
    assert [replace(trait, text=None, text_score=None) for trait in named] == found
    first = named[0]
    photos = np.stack(read_photos(export, [cell.row for cell in first.cells[:8]]))
    model = build_classifier(ModelConfig(**export.manifest.config["model"]))
    grids = scores(concept_evidence(model, torch.from_numpy(photos))).reshape(len(photos), 3, -1)
    mean = np.mean([grid[:, cell.cell] for grid, cell in zip(grids, first.cells, strict=False)], axis=0)
    assert (CONCEPTS[mean.argmax()], pytest.approx(mean.max(), rel=1e-4)) == (first.text, first.text_score)


def test_a_model_without_concepts_is_refused(job: Callable[..., Config]) -> None:
    run(job())
    with pytest.raises(QueryError, match=r"--texts: .*no concepts; name texts in model\.concepts"):
        with_texts(open_export(job().output.url), [])


@pytest.mark.slow
def test_drawn_birds_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's 48 birds, from photos to traits with parts, attributes and texts."""
    monkeypatch.chdir(tmp_path)
    birds = resources.files("finer_ray.demo") / "birds"
    tree = birds_config(tmp_path).model_dump(mode="json")
    tree["compute"] |= {"executor": "inline"}
    tree["metrics"] |= {"drops": False}
    tree["model"] |= {"concepts": str(birds / "concepts.json")}
    tree["saliency"] |= {"maps": ["finer_gradcam"]}
    tree["input"] |= {"shards": [str(birds / "*.tar")], "columns": {"looks": "json.attributes"}}
    Path("job.yaml").write_text(json.dumps(tree))
    run(load_config(Path("job.yaml")))
    out = str(tmp_path / "birds_export")
    said = CliRunner().invoke(app, ["traits", out, "--attributes", "looks", "--texts"])
    assert said.exit_code == 0, said.output
    export = open_export(out)
    traits = derived.read(export, "traits")
    assert f"{len(traits)} traits" in said.output
    texts = set(json.loads((birds / "concepts.json").read_text()))
    attributes = {text for line in export.images["looks"].to_pylist() for text in json.loads(line)}
    assert set(traits["text"].to_pylist()) <= texts
    assert set(traits["part"].to_pylist()) <= {*PARTS, None}
    assert set(traits["attribute"].to_pylist()) <= {*attributes, None}
    for column in ("text", "part", "attribute"):
        assert pc.count_distinct(traits[column]).as_py() > 5
    mass = traits.group_by(["kind", "class", "reference"]).aggregate([("mass", "sum")])["mass_sum"].to_numpy()
    assert (mass <= 1 + 1e-9).all()
    names = export.manifest.classes
    first = traits.filter(pc.equal(traits["kind"], "pair")).to_pylist()[0]
    pair, picture = ["traits", out, "--pair", first["name"], str(first["reference"])], tmp_path / "pair.png"
    shown = CliRunner().invoke(app, [*pair, "--picture", str(picture)])
    assert f"{first['name']} rather than {first['reference_name']}" in shown.output
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 400
        assert len(drawn.convert("RGB").getcolors(2**24) or ()) > 10_000
    alone = CliRunner().invoke(app, ["traits", out, "--picture", str(picture)])
    assert alone.exit_code == 2
    assert "--pair" in alone.output
    wrong = CliRunner().invoke(app, ["traits", out, "--pair", names[0][:-1], names[1]])
    assert f"nearest: {names[0]}" in str(wrong.exception)


def _pairs(export: Export) -> list[tuple[int, int]]:
    lines = zip(export.images["target"].to_pylist(), export.images["references"].to_pylist(), strict=True)
    return [(target, references[0]) for target, references in lines]
