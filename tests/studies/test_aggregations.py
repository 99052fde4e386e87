"""The aggregation study against the model's own maps; the sweep under another aggregation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError
from finer_ray.metrics.localisation import localisation
from finer_ray.models import build_classifier
from finer_ray.report.photos import read_rows
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from finer_ray.saliency.aggregation import AGGREGATIONS
from finer_ray.store.reading import open_export
from finer_ray.studies.aggregations import aggregation_config
from finer_ray.studies.failure_cases import failure_cases_study
from finer_ray.studies.sweep import sweep_table
from tests.conftest import sample, write_tar

Job = Callable[..., Config]


def test_the_study(tmp_path: Path, job: Job) -> None:
    members = [m for i in range(9) for m in sample(f"p{i}", i, i, [10, 8, 60, 50])] + sample("plain", 20)[:1]
    settings: dict[str, Any] = {"gamma": 0.8, "references": 2, "aggregation": "max_before_relu", "maps": ["layercam"]}
    config = job(str(write_tar(tmp_path / "a.tar", members)), saliency=settings, metrics={"steps": 4})
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = ["study", "aggregation", str(file), "--to", str(tmp_path / "s"), "--set", "metrics.steps=3"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "mean_after_relu" in result.output
    assert "…" not in result.output
    with Image.open(tmp_path / "s" / "aggregation.png") as figure:
        assert len(np.unique(np.asarray(figure.convert("RGB")).reshape(-1, 3), axis=0)) > 50

    # Step by step: the maps of the model itself, and their energy in the box.
    made = open_export(str(tmp_path / "s" / "aggregation"))
    assert not Path(config.output.url).exists()
    model = build_classifier(config.model)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.transform.mean, model.transform.std))
    decoded = [found for _, found in read_rows(made, range(9), region=True)]
    images = (torch.from_numpy(np.stack([d.image for d in decoded])).permute(0, 3, 1, 2).float() / 255 - mean) / std
    regions = torch.from_numpy(np.stack([d.region for d in decoded if d.region is not None]))
    maps = (MapSpec("gradcam"), *(MapSpec(name, "gradcam", 0.8, name) for name in AGGREGATIONS))
    found = explain(model, images, SaliencySpec(maps, 2)).maps
    values = localisation(found, regions, made.manifest.layout.registration).double().numpy()
    lines = {
        (line["map"], line["metric"]): line for line in pq.read_table(tmp_path / "s/aggregation.parquet").to_pylist()
    }
    assert {metric for _, metric in lines} >= {"deletion_auc", "relative_drop_05", "relative_drop_10", "localisation"}
    assert lines["gradcam", "deletion_auc"]["count"] == 10
    for place, wanted in enumerate(maps):
        line, known = lines[wanted.name, "localisation"], values[~np.isnan(values[:, place]), place]
        assert line["count"] == len(known) > 5
        assert line["mean"] == pytest.approx(known.mean(), abs=1e-5)
        assert line["stderr"] == pytest.approx(known.std(ddof=1) / np.sqrt(len(known)), abs=1e-5)
        for other, column in (("gradcam", 0), ("mean_before_relu", 1)):
            difference = np.nanmean(values[:, place] - values[:, column])
            found = [line[f"{what}_to_{other}"] for what in ("low", "difference", "high")]
            if place == column:
                assert found == [None, None, None]
            else:
                assert found[1] == pytest.approx(difference, abs=1e-5)
                assert found[0] < found[1] < found[2]

    # The sweep of this export is under the job's aggregation.
    swept = {line["row"]: line["localisation"] for line in sweep_table(made, [0.8]).to_pylist()}
    np.testing.assert_allclose(np.array([swept[row] for row in range(9)], float), values[:, 2], atol=2e-3)
    assert np.nanmax(np.abs(values[:, 2] - values[:, 1])) > 0.01

    # Failure cases of a map with a name of its own.
    places = failure_cases_study(made, tmp_path / "s", "max_before_relu", "localisation", shown=3)
    worse = [line["row"] for line in pq.read_table(places[0]).to_pylist() if line["kind"] != "wrong_prediction"]
    differences = values[:, 2] - values[:, 0]
    assert worse == [row for row in np.argsort(differences, kind="stable") if differences[row] < 0]
    with Image.open(places[1]) as sheet:
        assert sheet.size[0] > 1000


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"references": 1}, r"saliency\.references: aggregations differ from two references on"),
        ({"selection": [3]}, r"saliency\.references"),
        ({"gamma": 0}, r"saliency\.gamma: with 0 every aggregation is the baseline"),
    ],
)
def test_a_job_that_compares_too_little_is_refused(section: dict[str, Any], message: str, job: Job) -> None:
    with pytest.raises(ConfigError, match=message):
        aggregation_config(job("a.tar", saliency=section), "out")
