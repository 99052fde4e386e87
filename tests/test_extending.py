"""The examples of docs/extending.md, as they stand there: a job with each of them."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finer_ray.config.loading import load_config
from finer_ray.errors import ConfigError
from finer_ray.plugins import VARIABLE
from finer_ray.store.reading import open_export
from tests.conftest import sample, write_tar

ROOT = Path(__file__).parents[1]


def example(name: str) -> str:
    """The source of an example: the block that begins with its file's name."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL | re.MULTILINE
    )
    [source] = [block for block in blocks if block.startswith(f"# {name}\n")]
    return source


def in_process(folder: Path, plugin: str, code: str) -> str:
    """What a Python process prints in which a file of a folder is a plugin.

    Args:
        folder: the working folder.
        plugin: name of the file.
        code: that is run.
    """
    (folder / plugin).write_text(example(plugin))
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, VARIABLE: plugin.removesuffix(".py"), "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def write_job(folder: Path, **sections: dict[str, Any]) -> None:
    """job.yaml in a folder, of four small images with boxes, to be run inline; and a name for it in Python."""
    tar = write_tar(folder / "a.tar", [m for i in range(4) for m in sample(f"p{i}", i, i % 2, [10, 8, 60, 50])])
    tree: dict[str, Any] = {
        "input": {"shards": str(tar)},
        "model": {"backbone": "timm:test_resnet", "weights": "random", "image_size": 64},
        "output": {"url": str(folder / "out"), "rows_per_unit": 32},
        "compute": {"executor": "inline"},
        **sections,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(tree))


EXPORT = """
from finer_ray.config.loading import load_config
from finer_ray.pipeline.export import export
from finer_ray.report.site import write_report
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from pathlib import Path

config = load_config("job.yaml")
export(config)
assert verify_export("out") == []
made = open_export("out")
write_report(made, Path("report"))
"""


@pytest.mark.slow
def test_a_cam_method(tmp_path: Path) -> None:
    """Its maps arrive in Zarr: of each cell and channel the positive part of gradient times activation, by autograd."""
    write_job(tmp_path, saliency={"maps": ["gradcam", "elementwise", "finer_elementwise"], "references": 2})
    code = """
import numpy as np, torch
from finer_ray.images.transform import Transform
from finer_ray.models import build_classifier
from finer_ray.report.photos import read_photos
from finer_ray.report.paper_table import baselines

assert baselines(made) == {"finer_elementwise": "elementwise"}
model, rows = build_classifier(config.model), made.images["row"].to_pylist()
images = torch.from_numpy(np.stack(read_photos(made, rows))).permute(0, 3, 1, 2) / 255
mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.transform.mean, model.transform.std))
activation, beside = model.split.trunk((images - mean) / std)
activation = activation.detach().requires_grad_()
logits = model.head(model.split.tail(activation, beside))
lines = made.images.to_pylist()
assert len(lines) == 4
for gamma, name in ((0.0, "elementwise"), (0.6, "finer_elementwise")):
    score = sum(
        logits[i, line["target"]] - gamma * logits[i, line["references"]].mean() for i, line in enumerate(lines)
    )
    (slope,) = torch.autograd.grad(score, activation, retain_graph=True)
    expected = (slope * activation).relu().sum(1).detach().numpy()
    np.testing.assert_allclose(made.maps(rows, name), expected, atol=2e-3 * expected.max())
    assert expected.max() > 0
print(set(made.metrics["map"].to_pylist()))
"""
    said = in_process(tmp_path, "my_cam.py", EXPORT + code)
    assert "finer_elementwise" in said
    assert "finer_elementwise" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.slow
def test_a_metric(tmp_path: Path) -> None:
    """Its column arrives in Parquet, its means in classes, its words in the report; off, it is not heard of."""
    write_job(tmp_path, metrics={"complexity": True})
    code = """
import pickle
import numpy as np
import scipy.stats
from finer_ray.report.paper_table import compare

rows = made.images["row"].to_pylist()
for name in made.manifest.layout.maps:
    cells = made.maps(rows, name).reshape(len(rows), -1).astype(float)
    expected = scipy.stats.entropy(cells, axis=1)
    mine = [line["complexity"] for line in made.metrics.to_pylist() if line["map"] == name]
    np.testing.assert_allclose(mine, expected, atol=2e-3)
    means = [line["complexity_mean"] for line in made.classes.to_pylist() if line["map"] == name]
    assert len(means) == 2
    np.testing.assert_allclose(np.mean(means), np.mean(mine), rtol=1e-5)
    assert compare(made)[name]["complexity"].count == 4
off = config.model_copy(update={"metrics": config.metrics.model_copy(update={"complexity": False})})
print(config.fingerprint(), off.fingerprint(), pickle.dumps(config).hex())
"""
    on, off, pickled = in_process(tmp_path, "my_metric.py", EXPORT + code).split()
    report = (tmp_path / "report" / "index.html").read_text()
    assert "Entropy ↓" in report
    assert "complexity of the map" in report
    # In a process that has never heard of it: nothing changes, exports are read, and such a job is refused.
    plain = tmp_path / "plain"
    plain.mkdir()
    write_job(plain)
    assert load_config(plain / "job.yaml").fingerprint() == off != on
    assert "complexity" not in open_export(str(tmp_path / "out")).metrics.column_names
    with pytest.raises(ConfigError, match=f"nothing of 'complexity': {VARIABLE} must name"):
        pickle.loads(bytes.fromhex(pickled))
