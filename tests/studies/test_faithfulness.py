"""The faithfulness study with two backbones, against every step written out."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError
from finer_ray.images.decode import decode
from finer_ray.models import Classifier, ClassNames, build_classifier
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from finer_ray.saliency.registration import Registration
from finer_ray.shards import ShardRef, fields_of, read_unit
from finer_ray.studies.attributes import choose, read_attributes
from finer_ray.studies.faithfulness import _on_map, another
from finer_ray.studies.faithfulness_plan import make_plan
from tests.conftest import sample, write_tar

Job = Callable[..., Config]
NAMES = ["crow", "rook", "robin", "finch", "swan"]
ATTRIBUTES = {
    "crow": {"black bill": 0.9, "long tail": 0.6, "crest": 0.5, "white breast": 0.1},
    "rook": {"black bill": 0.2, "white breast": 0.9, "long tail": 0.7},
    "robin": ["red breast", "thin bill"],
    "finch": ["thin bill"],
}


@pytest.fixture
def jobs(tmp_path: Path, job: Job, clip: str) -> tuple[Config, Config, Path]:
    """A probe on a CNN that sees the middle of the photos, a CLIP that sees more. Crow and rook alike, robin and finch
    alike, and the swan like a rook."""
    members = [m for i in range(14) for m in sample(f"p{i:02d}", i, NAMES[i % 5])] + sample("none", 30)[:1]
    tar = str(write_tar(tmp_path / "a.tar", members))
    size = timm.create_model("test_resnet").num_features
    base = torch.rand((3, size), generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn((5, size), generator=torch.Generator().manual_seed(1))
    weight = base[[0, 0, 1, 1, 2]] + noise + torch.tensor([0, 0, 0, 0, 1.0])[:, None] * base[0]
    save_file({"weight": weight}, str(tmp_path / "probe.safetensors"), {"classes": json.dumps(NAMES)})
    own = {"head": str(tmp_path / "probe.safetensors"), "crop_pct": 0.6}
    words = {"backbone": clip, "weights": "random", "image_size": None, "head": "text", "classes": NAMES}
    attributes = tmp_path / "attributes.json"
    attributes.write_text(json.dumps(ATTRIBUTES))
    kept = {"max_failures": 0.5}
    settings = {"gamma": 0.6, "selection": [1, 2], "target": "predicted", "registration": "stretch"}
    return (
        job(tar, model=own, input=kept, saliency=settings),
        job(tar, model=words, input=kept, saliency={"gamma": 0.7}),
        attributes,
    )


def bilinear(heat: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Values at (y, x) in cells, centres at whole numbers, edges repeated."""
    y, x = (np.clip(at, 0, size - 1) for at, size in ((y, heat.shape[0]), (x, heat.shape[1])))
    top, left = (
        np.minimum(np.floor(at).astype(int), size - 2) for at, size in ((y, heat.shape[0]), (x, heat.shape[1]))
    )
    dy, dx = (y - top)[:, None], (x - left)[None]
    corner = [[heat[np.ix_(top + i, left + j)] for j in (0, 1)] for i in (0, 1)]
    upper, lower = (row[0] * (1 - dx) + row[1] * dx for row in corner)
    return np.asarray(upper * (1 - dy) + lower * dy)


def over_window(heat: NDArray[Any], share: float, inner: float, grid: int) -> NDArray[Any]:
    """The middle of a map of the middle `share` of the (80 x 64) photo's shorter side: the middle `inner` of it."""
    at = 0.5 + inner / share * ((np.arange(grid) + 0.5) / grid - 0.5)
    return bilinear(heat, at * heat.shape[1] - 0.5, at * heat.shape[0] - 0.5)


def inputs(model: Classifier, tar: str) -> torch.Tensor:
    samples = list(read_unit(ShardRef(tar, "webdataset"), fields_of("webdataset"), 0, 14, 2**28))
    pixels = np.stack([decode(one, model.transform, 10**8).image for one in samples])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.transform.mean, model.transform.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def test_the_study(tmp_path: Path, jobs: tuple[Config, Config, Path]) -> None:
    files = [tmp_path / "classes.yaml", tmp_path / "texts.yaml"]
    for file, config in zip(files, jobs, strict=False):
        file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = ["study", "faithfulness", *map(str, files), "--attributes", str(jobs[2]), "--word", "bird"]
    result = CliRunner().invoke(app, [*command, "--to", str(tmp_path / "s")])
    assert result.exit_code == 0, result.output

    lines = {line["name"]: line for line in pq.read_table(tmp_path / "s/faithfulness.parquet").to_pylist()}
    assert list(lines) == NAMES
    assert [line["most_similar_name"] for line in lines.values()] == [
        "rook",
        "crow",
        "finch",
        "robin",
        lines["swan"]["most_similar_name"],
    ]
    asked = {name: [pair["text"] for pair in line["attributes"]] for name, line in lines.items()}
    assert asked["crow"] == ["black bill", "crest"]
    assert asked["rook"] == ["white breast", "long tail"]
    assert asked["robin"] == ["red breast"]
    assert [pair["difference"] for pair in lines["crow"]["attributes"]] == pytest.approx([0.7, 0.5])
    assert (asked["finch"], lines["finch"]["note"]) == ([], "it has no attribute more strongly than 'robin'")
    assert lines["swan"]["note"] == "the file gives no attributes for it"
    assert [line["count"] for line in lines.values()] == [3, 3, 3, 0, 0]

    # Step by step: the nearest weights, the maps of both models, one grid over what both see.
    job = yaml.safe_load(files[0].read_text())
    model = build_classifier(jobs[0].model)
    unit = torch.nn.functional.normalize(model.class_weights(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    target = torch.tensor([i % 5 for i in range(14)])
    maps = (MapSpec("gradcam"), MapSpec("finer", gamma=0.6))
    found = explain(
        model,
        inputs(model, job["input"]["shards"][0]),
        SaliencySpec(maps, 1),
        target,
        cosines.argmax(1)[target][:, None],
    )
    texts = sorted({text for name in asked for text in asked[name]})
    words = build_classifier(jobs[1].model.model_copy(update={"concepts": [*texts, "bird"]}))
    photos = inputs(words, job["input"]["shards"][0])
    images = pq.read_table(tmp_path / "s/faithfulness_images.parquet").to_pylist()
    assert [line["key"] for line in images] == [f"p{i:02d}" for i in range(14) if i % 5 < 3]
    grid = max(*model.grid_size, *words.grid_size)
    means, pairs = {}, {}
    for line in images:
        row = line["row"]
        mean = np.zeros((grid, grid))
        for text in asked[NAMES[row % 5]]:
            concept = torch.tensor([5 + texts.index(text)])
            spec = SaliencySpec((MapSpec("m", gamma=0.7),), 1)
            heat = explain(words, photos[row : row + 1], spec, concept, torch.tensor([[5 + len(texts)]])).maps[0, 0]
            mean += over_window((heat / heat.max()).numpy(), 1.0, 0.6, grid) / len(asked[NAMES[row % 5]])
        means[row] = mean
        pairs[row] = [over_window(heat.numpy(), 0.6, 0.6, grid) for heat in found.maps[row]]
    compared, others = 0, another(len(images))
    for place, line in enumerate(images):
        for side, heat in zip(("baseline", "finer"), pairs[line["row"]], strict=True):
            a, b = heat.ravel(), means[line["row"]].ravel()
            if not a.any():
                assert line[f"{side}_cosine"] is line[f"{side}_pearson"] is None
                continue
            compared += 1
            expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert line[f"{side}_cosine"] == pytest.approx(expected, abs=5e-3)
            assert line[f"{side}_pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=2e-2)
        # The control is another image's.
        finer, partner = pairs[line["row"]][1].ravel(), means[images[others[place]]["row"]].ravel()
        if finer.any():
            expected = finer @ partner / np.linalg.norm(finer) / np.linalg.norm(partner)
            assert line["shuffled_cosine"] == pytest.approx(expected, abs=5e-3)
    assert compared > 12
    crows = np.array([line["finer_cosine"] for line in images if line["class"] == 0], float)
    crows = crows[~np.isnan(crows)]
    assert lines["crow"]["finer_cosine_mean"] == pytest.approx(crows.mean())
    assert lines["crow"]["finer_cosine_stderr"] == pytest.approx(crows.std(ddof=1) / np.sqrt(len(crows)))

    overall = {
        (o["comparison"], o["measure"]): o
        for o in pq.read_table(tmp_path / "s/faithfulness_overall.parquet").to_pylist()
    }
    by_class = [lines[name]["finer_cosine_mean"] for name in NAMES[:3]]
    total = overall["finer", "cosine"]
    assert total["classes"] == 3
    assert total["mean"] == pytest.approx(np.mean(by_class))
    assert min(by_class) <= total["low"] < total["mean"] < total["high"] <= max(by_class)
    difference = overall["finer - baseline", "cosine"]["mean"]
    assert difference == pytest.approx(total["mean"] - overall["baseline", "cosine"]["mean"])
    with Image.open(tmp_path / "s/faithfulness.png") as figure:
        assert len(np.unique(np.asarray(figure.convert("RGB")).reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("count", [2, 3, 100])
def test_another_image_is_never_the_same(count: int) -> None:
    others = another(count)
    assert sorted(others) == list(range(count))
    assert all(other != place for place, other in enumerate(others))


def plan(jobs: tuple[Config, Config, Path], attributes: Any = None, **texts: Any) -> Any:
    if attributes is not None:
        jobs[2].write_text(json.dumps(attributes))
    text_job = jobs[1].model_copy(update=texts)
    return make_plan(jobs[0], text_job, jobs[2], "bird", jobs[2].parent / "s")


def test_what_is_wrong_stops_before_any_work(tmp_path: Path, jobs: tuple[Config, Config, Path]) -> None:
    other = jobs[1].model.model_copy(update={"classes": ["crow", "rook", "finch", "robin", "swan"]})
    with pytest.raises(ConfigError, match="at 2: 'robin' in the class job, 'finch' in the text job"):
        plan(jobs, model=other)
    fewer = jobs[1].model.model_copy(update={"classes": NAMES[:4]})
    with pytest.raises(ConfigError, match="at 4: 'swan' in the class job, None in the text job"):
        plan(jobs, model=fewer)
    shard = str(write_tar(tmp_path / "b.tar", sample("x", 1)))
    with pytest.raises(ConfigError, match="no shard in common"):
        plan(jobs, input=jobs[1].input.model_copy(update={"shards": [shard]}))
    with pytest.raises(ConfigError, match="concepts need a backbone with a text tower"):
        plan(jobs, model=jobs[0].model)
    with pytest.raises(ConfigError, match=r"no class is called 'robbin' \(nearest: robin"):
        plan(jobs, {"robbin": ["red breast"]})
    with pytest.raises(ConfigError, match=r"no class has an attribute to be asked about.*most similar class"):
        plan(jobs, {"robin": ["red breast"]})
    with pytest.raises(ConfigError, match="'bird' is compared with itself"):
        plan(jobs, {"robin": ["bird"], "finch": []})
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "attributes.json: the file: Invalid JSON"),
        ('{"crow": {"bill": 1.5}}', r"crow.*less than or equal to 1; it must hold"),
        ('{"crow": "bill"}', "crow"),
        ('{"crow": [], "a crow": []}', "'crow' stands there twice"),
    ],
)
def test_wrong_attributes(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "attributes.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_attributes(path, ClassNames(("crow", "rook"), {"a crow": 0}))
    with pytest.raises(ConfigError, match="cannot read the attributes"):
        read_attributes(tmp_path / "none.json", ClassNames(("crow", "rook")))


def test_equal_differences_keep_the_files_order() -> None:
    own = {"c": 0.5, "a": 0.5, "b": 1.0, "d": 0.5}
    (first, second) = choose({0: own, 1: {"b": 0.9}}, [1, 0], ("x", "y"))
    assert [text for text, _ in first.attributes] == ["c", "a", "d"]
    assert second.note == "it has no attribute more strongly than 'x'"


def test_windows_are_laid_on_maps_through_the_registration() -> None:
    """Place u of a map is its cell u * cells - 1/2, for `resample`; x and y have cells of their own."""

    def on_map(registration: Registration | None) -> list[float]:
        layout = SimpleNamespace(grid=(4, 5), registration=registration)
        made: Any = SimpleNamespace(manifest=SimpleNamespace(layout=layout, transform={"size": [40, 80]}))
        found: list[float] = _on_map(made, torch.tensor([[0.25, 0.5, 1.0, 0.75]]))[0].tolist()
        return found

    assert on_map(None) == pytest.approx([0.25, 0.5, 1.0, 0.75])
    x, y = ([((pixel - first) / step + 0.5) / cells for pixel in ends] for ends, first, step, cells in
            (((19.5, 79.5), 10, 15, 5), ((19.5, 29.5), 3, 10, 4)))  # fmt: skip
    assert on_map(Registration((3.0, 10.0), (10.0, 15.0))) == pytest.approx([x[0], y[0], x[1], y[1]])
