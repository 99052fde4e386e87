"""Exports of several targets an image: what is stored of each is what a job with that single target stores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import save_file

from finer_ray.config.schema import Config, TargetsConfig
from finer_ray.errors import ConfigError, ExportError
from finer_ray.pipeline.export import export
from finer_ray.report.image_figure import draw_image
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from finer_ray.store.verify import verify_export
from tests.conftest import jobs_in, photo, sample, write_tar
from tests.pipeline.exports import files_of, many

CAMS = ("gradcam", "layercam", "scorecam", "rise")
MAPS = [name for cam in CAMS for name in (cam, f"finer_{cam}")]
SALIENCY = {"maps": MAPS, "references": 2, "weighting": "probability", "rise": {"masks": 8}}
METRICS = {"deletion": True, "drops": True, "steps": 3}
NAMES = ["crow", "finch", "owl"]


def three_classes(folder: Path, bias: list[float]) -> dict[str, Any]:
    """A model of three classes, so that three targets are all of them."""
    weight = torch.randn((3, 96), generator=torch.Generator().manual_seed(1)) / 4
    save_file({"weight": weight, "bias": torch.tensor(bias)}, folder / "head.safetensors")
    return {"head": str(folder / "head.safetensors"), "classes": NAMES}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Export]:
    """The export of three targets, those of each class alone, and that of the predicted class."""
    folder = tmp_path_factory.mktemp("several")
    job, shard = jobs_in(folder), str(write_tar(folder / "a.tar", [*many(5), ("bad.jpg", b"no photo")]))
    model = three_classes(folder, [0.0, 0.0, 0.0])
    exports = []
    for name, target in [("all", {"top": 3}), *((text, text) for text in (*NAMES, "predicted"))]:
        saliency, output = {**SALIENCY, "target": target}, {"url": str(folder / name)}
        export(job(shard, model=model, saliency=saliency, metrics=METRICS, output=output))
        exports.append(open_export(output["url"]))
    return exports


def test_equals_as_many_jobs_of_one_target(made: list[Export]) -> None:
    """Value for value as float32 allows: how many classes go through the tail together may decide the last bit."""
    several, *singles = made
    assert verify_export(several.folder.url) == []
    assert several.targets.num_rows == 3 * several.images.num_rows == 15
    assert several.target_metrics.num_rows == 15 * len(MAPS)
    for line in several.targets.to_pylist():
        row, rank, alone = line["row"], line["rank"], singles[line["target"]]
        for name in MAPS:
            ours, theirs = several.maps([row], name, target=rank), alone.maps([row], name)
            np.testing.assert_allclose(ours, theirs, atol=2e-3 * theirs.max(), err_msg=name)
        np.testing.assert_allclose(several.basis([row], rank), alone.basis([row]), atol=1e-6, rtol=2e-3)
        (image,) = alone.images.filter(pc.equal(alone.images["row"], row)).to_pylist()
        assert line["references"] == image["references"] == several.tensors["references"][row, rank].tolist()
        for name in ("target", "probability", "logit", "reference_logits", "reference_probabilities"):
            assert line[name] == pytest.approx(image[name], rel=1e-5)
        wanted = pc.and_(pc.equal(several.target_metrics["row"], row), pc.equal(several.target_metrics["rank"], rank))
        scores = several.target_metrics.filter(wanted).to_pylist()
        expected = alone.metrics.filter(pc.equal(alone.metrics["row"], row)).to_pylist()
        assert [score["map"] for score in scores] == MAPS
        for ours, theirs in zip(scores, expected, strict=True):
            for name in theirs.keys() - {"row", "class", "map", "region", "pointing_hit"}:
                # Null, here NaN, where the map is zero.
                values = (np.array(score[name], np.float64) for score in (ours, theirs))
                np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_first_target_is_the_job_with_the_prediction(made: list[Export]) -> None:
    several, single = made[0], made[-1]
    for name in ("row", "label", "target", "predicted", "references"):
        assert several.images[name].equals(single.images[name])
    for name in ("row", "class", "map", "region"):
        assert several.metrics[name].equals(single.metrics[name])
    np.testing.assert_allclose(several.maps(range(5), MAPS[1]), single.maps(range(5), MAPS[1]), rtol=2e-3, atol=1e-6)
    # And nothing of the kind is in the export of a job that has one target.
    assert several.tensors["maps"].metadata.dimension_names == ("row", "target", "map", "y", "x")
    assert single.tensors["maps"].metadata.dimension_names == ("row", "map", "y", "x")
    assert not {"targets", "target_metrics"} & single.manifest.tables.keys()
    assert single.targets.num_rows == single.target_metrics.num_rows == 0
    assert not any("target" in str(path) for path in files_of(Path(single.folder.url)))


def test_any_gamma_of_any_target(made: list[Export]) -> None:
    several = made[0]
    for target in range(3):
        stored = several.maps(range(5), "finer_gradcam", target=target)
        drawn = several.contrast(range(5), gamma=0.6, weighting="probability", target=target)
        np.testing.assert_allclose(drawn, stored, atol=2e-3 * np.abs(several.basis(range(5))).max())
    for read in (several.contrast, lambda rows, target: several.maps(rows, "gradcam", target=target), several.basis):
        with pytest.raises(ExportError, match=r"no target 3 .* targets 0 to 2"):
            read([0], target=3)
    with pytest.raises(ExportError, match="it has one target, 0"):
        made[1].maps([0], "gradcam", target=1)


def test_queries_and_figures(made: list[Export], tmp_path: Path) -> None:
    several = made[0]
    with connect(several) as connection:
        question = """SELECT n.name, count(*), max(abs(t.probability - m.deletion_curve[1])) FROM target_metrics AS m
            JOIN targets AS t USING (row, rank) JOIN names AS n ON n.class = t.target
            WHERE m.map = 'rise' AND len(t."references") = 2 GROUP BY n.name ORDER BY n.name"""
        found = connection.sql(question).fetchall()
        assert [(name, count) for name, count, _ in found] == [(name, 5) for name in NAMES]
        assert max(error for *_, error in found) < 1e-6
        assert connection.sql("SELECT count(*) FROM metrics").fetchall() == [(5 * len(MAPS),)]
    draw_image(several, 0, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()


def test_verify_finds_what_is_missing(made: list[Export]) -> None:
    several = open_export(made[0].folder.url)
    tables = several.manifest.tables
    for name, keep, finding in (
        ("target_metrics", lambda table: table.slice(1), "target_metrics of the map gradcam"),
        (
            "targets",
            lambda table: table.filter(pc.not_equal(table["rank"], 0)),
            "the first ones are not those of images",
        ),
        ("targets", lambda table: table.filter(pc.not_equal(table["rank"], 1)), "not one line for each target"),
    ):
        (file,) = tables[name]
        whole = several.folder.read_parquet(file)
        several.folder.write_table(file, keep(whole))
        try:
            assert any(finding in line for line in verify_export(several.folder.url, keys=False)), finding
        finally:
            several.folder.write_table(file, whole)
    assert verify_export(several.folder.url) == []


def test_positives_of_a_multi_label_classifier(tmp_path: Path, job: Callable[..., Config]) -> None:
    """Images have as many targets as classes of half or more, at most so many as are asked for; later runs go on, and a
    shard that changed is done anew."""
    shards = [str(write_tar(tmp_path / f"{name}.tar", many(12, first))) for name, first in (("a", 0), ("b", 20))]
    plain = job(shards[0], model=three_classes(tmp_path, [0.0, 0.0, 0.0]), output={"url": str(tmp_path / "plain")})
    export(plain.model_copy(update={"saliency": plain.saliency.model_copy(update={"target": TargetsConfig(top=3)})}))
    known = open_export(plain.output.url).targets
    middle = float(np.median(known.filter(pc.equal(known["target"], 1))["logit"].to_numpy()))
    # The first class is on every image, the second on every other one, the third on none.
    model = {**three_classes(tmp_path, [50.0, -middle, -50.0]), "activation": "sigmoid"}
    saliency = {"maps": ["layercam", "finer_gradcam"], "references": 1, "target": {"positives": 2}}

    def run(count: int) -> Export:
        config = job(shards[:count], model=model, saliency=saliency, metrics=METRICS)
        export(config.model_copy(update={"input": config.input.model_copy(update={"on_changed": "replace"})}))
        assert verify_export(config.output.url) == []
        return open_export(config.output.url)

    for count in (1, 2):
        found = run(count)
        assert found.images.num_rows == 12 * count
        counts = found.targets.group_by("row").aggregate([("rank", "count")])["rank_count"].to_pylist()
        assert set(counts) == {1, 2}
    later = found.targets.filter(pc.greater(found.targets["rank"], 0))
    assert min(later["probability"].to_pylist()) >= 0.5
    of_layercam = found.target_metrics.filter(pc.equal(found.target_metrics["map"], "layercam"))
    assert all(0 <= area <= 1 for area in of_layercam["deletion_auc"].to_pylist())
    logits = torch.tensor(found.targets["logit"].to_pylist())
    torch.testing.assert_close(torch.tensor(found.targets["probability"].to_pylist()), logits.sigmoid())
    rows = found.images["row"].to_pylist()
    lacking = sorted(set(rows) - set(later["row"].to_pylist()))
    assert np.isnan(found.maps(lacking, "layercam", target=1)).all()
    assert np.isnan(found.contrast(lacking, target=1)).all()
    [nothing] = found.maps(lacking[:1], "layercam", target=1, place="photo", normalized=True)
    [there] = found.maps(lacking[:1], "layercam", place="photo")
    assert np.isnan(nothing).all()
    assert nothing.shape == there.shape
    assert np.isfinite(found.maps(later["row"].to_pylist(), "layercam", target=1)).all()
    write_tar(Path(shards[0]), many(4, 50))
    again = run(2)
    assert set(again.targets["row"].to_pylist()) == set(again.images["row"].to_pylist())
    assert again.images.num_rows == 16


def test_a_list_of_labels_is_none_unless_it_holds_one(tmp_path: Path, job: Callable[..., Config]) -> None:
    labels: list[Any] = [[0, 2], [1], [], ["owl", "owl"], ["no such"], [0, None]]
    members = [
        part
        for place, value in enumerate(labels)
        for part in ((f"p{place}.jpg", photo(place)), (f"p{place}.json", json.dumps({"label": value}).encode()))
    ]
    wanted = {"saliency": {"target": {"top": 2}, "references": 1}, "model": three_classes(tmp_path, [0.0, 0.0, 0.0])}
    config = job(str(write_tar(tmp_path / "a.tar", members)), **wanted)
    export(config)
    found = open_export(config.output.url)
    assert found.images["label"].to_pylist() == [None, 1, None, 2, None]
    assert found.failures["error"].to_pylist() == ["json.label: a label must be an integer or a class name, got null"]
    table = pa.table({"image": [photo(place) for place in range(3)], "label": [[0, 2], [1], []]})
    pa.parquet.write_table(table, tmp_path / "b.parquet")
    config = job(str(tmp_path / "b.parquet"), **wanted, output={"url": str(tmp_path / "other")})
    export(config)
    assert open_export(config.output.url).images["label"].to_pylist() == [None, 1, None]


def test_what_cannot_be_asked(tmp_path: Path, job: Callable[..., Config]) -> None:
    shard = str(write_tar(tmp_path / "a.tar", sample("a", 1)))
    with pytest.raises(ConfigError, match=r"positives.* needs model\.activation: sigmoid"):
        job(shard, saliency={"target": {"positives": 2}})
    for wrong in ({}, {"top": 2, "positives": 2}):
        with pytest.raises(ConfigError, match=r"saliency\.target: give one of top and positives"):
            job(shard, saliency={"target": wrong}, model={"activation": "sigmoid"})
    with pytest.raises(ConfigError, match=r"saliency\.target\.top: .*less than or equal to 16"):
        job(shard, saliency={"target": {"top": 17}})
    config = job(shard, saliency={"target": {"top": 4}}, model=three_classes(tmp_path, [0.0, 0.0, 0.0]))
    with pytest.raises(ConfigError, match=r"saliency\.target: 4 targets of a classifier with 3 classes"):
        export(config)
