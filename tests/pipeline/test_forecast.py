"""The forecast: it plans as a run does, tries a few images, and writes nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import yaml
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.pipeline.export import export
from finer_ray.pipeline.forecast import forecast
from tests.conftest import write_tar
from tests.pipeline.exports import many

Job = Callable[..., Config]


def test_what_is_left_and_how_large_it_gets(tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "in" / "a.tar", [("bad.jpg", b"no photo"), *many(19)])
    (tmp_path / "in" / "b.tar").write_bytes(b"no tar")
    config = job(str(tmp_path / "in"))
    before = forecast(config)
    assert (before.shards, before.images, before.units, before.units_left, before.images_left) == (2, 20, 3, 3, 20)
    assert [text.split(": ", 1)[0] for text in before.problems] == [str(tmp_path / "in" / "b.tar")]
    assert before.tried == 8
    assert [text.split(":")[:2] for text in before.trial_failures] == [["bad", " decode"]]
    assert before.seconds_per_image > 0
    assert not (tmp_path / "out").exists()
    assert not [path for path in fsspec.filesystem("memory").find("/") if "forecast-" in path]

    export(config)
    out = Path(config.output.url)
    written = sum(path.stat().st_size for path in out.rglob("c/*/**/*") if path.is_file())
    # Arrays only: tables of so few lines are mostly headers.
    assert before.bytes > written
    after = forecast(config)
    assert (after.images_left, after.tried, after.seconds) == (0, 0, 0.0)
    write_tar(tmp_path / "in" / "c.tar", many(3, 50))
    assert forecast(config).images_left == 3
    with pytest.raises(ExportError, match="another config"):
        forecast(job(str(tmp_path / "in"), saliency={"gamma": 2.0}))


def test_on_the_command_line(tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "a.tar", many(9))
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job(str(tmp_path / "a.tar")).model_dump(mode="json")))
    said = CliRunner().invoke(app, ["export", str(file), "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "1, 9 images in 2 units" in said.output
    assert re.search(r"time     about \d+ s for one process like this \(\d+ ms an image", said.output)
    assert re.search(r"size     about [\d.]+ kB", said.output)
    assert not (tmp_path / "out").exists()
