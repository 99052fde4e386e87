"""The sanity study: against Quantus' randomisation of the same model, and maps that do not look at the model."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from quantus.functions.similarity_func import correlation_spearman
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.errors import InputError
from finer_ray.images.decode import decode
from finer_ray.images.sample import Sample
from finer_ray.models import build_classifier
from finer_ray.models.randomising import parts_of, randomise, recalibrate
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from finer_ray.saliency.method import BatchContext, Cam, Method
from finer_ray.saliency.methods import METHODS
from finer_ray.studies.sanity import ANOTHER, NOTHING, sanity, sanity_table, verdicts
from tests.conftest import photo, sample, write_tar

Job = Callable[..., Config]


def _edges(context: BatchContext, _settings: None) -> Cam:
    """How much neighbouring pixels of each cell differ: no model at all."""
    steps = context.images.diff(dim=-1, append=context.images[..., -1:]).abs().mean(1)
    cells = torch.nn.functional.adaptive_avg_pool2d(steps, context.grid)
    return Cam(lambda a: cells[:, None] * a[..., :1, None].abs())


def _certain(context: BatchContext, _settings: None) -> Cam:
    """Edges, and zero where the target is not the class with the largest logit."""
    largest = context.model(context.images).argmax(1) == context.classes[:, 0]
    edges = _edges(context, None).raw
    return Cam(lambda a: edges(a) * largest[:, None, None, None])


# In the places of two that a config knows; plugins are known once a process begins.
EDGES, CERTAIN = "layercam", "scorecam"


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, prepare in ((EDGES, _edges), (CERTAIN, _certain)):
        monkeypatch.setitem(METHODS, name, Method(name, "", prepare))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Nine photos in two shards, one of them damaged."""
    members = [[m for i in range(4 * n, 4 * n + 4) for m in sample(f"p{i}", i)] for n in range(2)]
    for number, some in enumerate((members[0], [*members[1], ("broken.jpg", b"no photo")])):
        write_tar(tmp_path / f"s-{number}.tar", some)
    return str(tmp_path / "s-*.tar")


Columns = dict[tuple[str, str], list[float | None]]


def columns(table: pa.Table) -> Columns:
    found: Columns = {}
    for line in table.to_pylist():
        found.setdefault((line["map"], line["part"]), []).append(line["spearman"])
    return found


@pytest.mark.usefixtures("_fakes")
def test_maps_that_depend_on_the_model_and_such_that_do_not(shards: str, job: Job) -> None:
    maps = ["gradcam", "finer_gradcam", EDGES, CERTAIN]
    found = sanity(job(shards, saliency={"maps": maps, "target": {"top": 2}}), images=20)
    assert len(found.failures) == 1
    assert "broken" in found.failures[0]
    known = columns(found.table)
    parts = [part for name, part in known if name == EDGES]
    assert parts[:2] == [NOTHING, "the head"]
    assert parts[-2:] == ["conv1.0", ANOTHER]
    # Exactly 1: the same model twice; at every depth what knows of no model.
    assert all(known[name, NOTHING] == [1.0] * 8 for name in maps)
    assert all(known[EDGES, part] == [1.0] * 8 for part in parts[:-1])
    assert max(value or 0 for value in known[EDGES, ANOTHER]) < 1
    # Zero where a random model answers otherwise.
    assert None in known[CERTAIN, "the head"]
    assert set(known[CERTAIN, "the head"]) <= {None, 1.0}
    said = dict(line.split(" ", 1) for line in verdicts(found))
    assert said[EDGES].startswith("stays at 1.00 when all is random")
    assert "zero" in said[CERTAIN]
    assert sanity_table(found).row_count == len(parts)


def test_step_by_step_with_the_correlation_of_quantus(shards: str, job: Job) -> None:
    config = job(shards, saliency={"references": 2})
    found = sanity(config, images=5, seed=3)
    known, lines = columns(found.table), found.table.to_pylist()
    assert [line["key"] for line in lines[:10:2]] != sorted(line["key"] for line in lines[:10:2])

    model = build_classifier(config.model)
    mean, std = (np.array(values) for values in (model.transform.mean, model.transform.std))
    photos = {
        f"p{i}": np.asarray(decode(Sample("", photo(i)), model.transform, 10**6, False, False).image) for i in range(8)
    }
    stacked = np.stack([(photos[line["key"]] / 255 - mean) / std for line in lines[:10:2]])
    images = torch.from_numpy(stacked).permute(0, 3, 1, 2).float()
    spec = SaliencySpec((MapSpec("gradcam"), MapSpec("finer_gradcam", gamma=0.6)), 2)
    first = explain(model, images, spec)
    assert first.target.tolist() == [line["target"] for line in lines[:10:2]]
    generator, norms = torch.Generator().manual_seed(3), []
    for part in parts_of(model, images[:1]):
        randomise(part, generator)
        norms += part.norms
        recalibrate(model.split, norms, [images])
        maps = explain(model, images, spec, first.target, first.references).maps
        for place, wanted in enumerate(spec.maps):
            pairs = zip(first.maps[:, place].flatten(1).numpy(), maps[:, place].flatten(1).numpy(), strict=True)
            expected = [correlation_spearman(*pair) if all(map(np.ptp, pair)) else np.nan for pair in pairs]
            np.testing.assert_allclose(np.array(known[wanted.name, part.name], float), expected, atol=1e-6)
    assert not model.head.weight.equal(build_classifier(config.model).head.weight)


def test_the_command(shards: str, job: Job, tmp_path: Path) -> None:
    file, to = tmp_path / "job.yaml", tmp_path / "study"
    file.write_text(yaml.safe_dump(job(shards, saliency={"maps": ["finer_layercam"]}).model_dump(mode="json")))
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    command = ["sanity", str(file), "--to", str(to), "--images", "3", "--seed", "1"]
    said = [CliRunner().invoke(app, command) for _ in range(2)]
    assert [one.exit_code for one in said] == [0, 0]
    assert said[0].stdout == said[1].stdout
    assert "finer_layercam " in said[0].stdout
    assert "when all is random" in said[0].stdout
    assert sorted(path.name for path in to.iterdir()) == ["mine.txt", "sanity.parquet", "sanity.png"]
    assert not (tmp_path / "out").exists()
    table = pq.read_table(to / "sanity.parquet")
    assert set(table["key"].to_pylist()) <= {f"p{i}" for i in range(8)}
    assert table.filter(pc.equal(table["depth"], 0)).num_rows == 3
    with Image.open(to / "sanity.png") as figure:
        assert len(np.unique(np.asarray(figure.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_images_of_sizes_of_their_own_and_texts(tmp_path: Path, job: Job, clip: str) -> None:
    members = [m for i in range(3) for m in sample(f"p{i}", i)]
    members += [("tall.jpg", photo(7, (48, 96))), ("wide.jpg", photo(8, (96, 48)))]
    tar = write_tar(tmp_path / "a.tar", members)
    found = sanity(job(str(tar), model={"resize": "native", "image_size": 128}), images=5)
    known = columns(found.table)
    assert known["gradcam", NOTHING] == [1.0] * 5
    words = {
        "backbone": clip,
        "head": "text",
        "classes": ["cat", "dog"],
        "concepts": ["fur", "tail"],
        "image_size": None,
    }
    concept = {"by": "predicted", "default": ["fur", "tail"]}
    found = sanity(job(str(tar), model=words, saliency={"target": "concept", "concept": concept}), images=5)
    assert set(found.table["target"].to_pylist()) == {2}
    assert columns(found.table)["finer_gradcam", NOTHING] == [1.0] * 5


def test_what_is_wrong_is_said(tmp_path: Path, job: Job) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("model: {backbon: timm:test_resnet}\n")
    code = "import sys; from finer_ray.__main__ import main"
    code += f"\ntry: sys.argv[1:] = ['sanity', {str(file)!r}]; main()"
    code += "\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "False"], done
    assert "backbon" in done.stderr
    tar = write_tar(tmp_path / "a.tar", [("a.jpg", b"no photo"), ("b.jpg", b"none either")])
    with pytest.raises(InputError, match="none of 2 images can be explained"):
        sanity(job(str(tar)), images=2)
