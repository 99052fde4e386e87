"""The whole job, once on Ray: good and bad input, resuming, appending, refusing."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, ExportError, InputError
from finer_ray.images.decode import decode
from finer_ray.models import build_classifier
from finer_ray.pipeline.explaining import saliency_spec
from finer_ray.pipeline.export import export
from finer_ray.saliency import explain
from finer_ray.shards import ShardRef, fields_of, read_unit
from finer_ray.store.reading import Export, open_export
from finer_ray.store.verify import verify_export
from tests.conftest import photo, sample, write_tar
from tests.pipeline.exports import files_of

Job = Callable[..., Config]
RAY = {"executor": "ray"}


def many(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    return [m for i in range(first, first + count) for m in sample(f"p{i:03d}", i, i % 7, [10, 8, 60, 50])]


def contents(export: Export) -> dict[str, Any]:
    """Everything that two runs must agree in."""
    tables = {name: getattr(export, name) for name in ("images", "metrics", "failures", "classes")}
    arrays = {name: export.tensors[name][:] for name in export.manifest.layout.shapes()}
    return {"tables": tables, "arrays": arrays}


def same(a: Export, b: Export) -> None:
    left, right = contents(a), contents(b)
    for name, table in left["tables"].items():
        assert table.equals(right["tables"][name]), name
    for name, array in left["arrays"].items():
        np.testing.assert_array_equal(array, right["arrays"][name], err_msg=name)


@pytest.mark.usefixtures("ray_cluster")
def test_every_format_and_every_fault(tmp_path: Path, job: Job) -> None:
    tar = write_tar(tmp_path / "in" / "a.tar", [*many(11), ("bad.jpg", b"no photo"), *sample("odd", 40, 5000)])
    whole = write_tar(tmp_path / "in" / "b.tar", many(9, 20))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    rows = [{"image": {"bytes": photo(i), "path": None}, "label": i} for i in range(5)] + [{"image": None, "label": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "c.parquet")
    (tmp_path / "folder" / "zebra").mkdir(parents=True)
    (tmp_path / "folder" / "zebra" / "x.png").write_bytes(photo(9, format="PNG"))
    (tmp_path / "in" / "d.tar").write_bytes(b"\x1f\x8bnot a tar" * 100)
    config = job([str(tmp_path / "in"), str(tmp_path / "folder")], input={"max_failures": 0.5}, compute=RAY)

    summary = export(config)
    made = open_export(config.output.url)

    assert verify_export(config.output.url) == []
    failures = {(Path(f["shard"]).name, f["key"], f["stage"]): f["error"] for f in made.failures.to_pylist()}
    assert ("a.tar", "bad", "decode") in failures
    assert "truncated" in failures["b.tar", None, "shard"]
    assert "not a tar archive" in failures["d.tar", None, "shard"]
    assert "null" in failures["c.parquet", "5", "read"]
    assert len(failures) == 4
    (note,) = summary.notes
    assert note.startswith("2 images have a label that is no class, and are explained without it: ")
    assert "class 5000 is out of range: there are 0 to 999: 1" in note
    assert "model.classes is not given" in note
    counts = made.images.group_by("shard").aggregate([("row", "count")]).to_pylist()
    by_name = {Path(line["shard"]).name: line["row_count"] for line in counts}
    assert by_name["a.tar"] == 12
    assert by_name["folder"] == 1
    assert by_name["c.parquet"] == 5
    assert 1 <= by_name["b.tar"] < 9
    assert summary.images == sum(by_name.values())
    assert made.images.filter(pa.compute.equal(made.images["shard"], str(tar)))["label"].to_pylist() == [
        *(i % 7 for i in range(11)),
        None,
    ]


def test_stored_maps_are_those_of_the_model(tmp_path: Path, job: Job) -> None:
    tar = write_tar(tmp_path / "a.tar", many(10))
    maps = ["gradcam", "finer_gradcam", "layercam", "finer_layercam", "scorecam", "finer_scorecam"]
    own: list[dict[str, Any]] = [
        {"name": "strong", "cam": "gradcam", "gamma": 2.0, "aggregation": "max_before_relu"},
        {"name": "weighted", "cam": "gradcam", "weighting": "probability"},
        {"name": "against", "cam": "gradcam", "gamma": 0.5, "reverse": True, "aggregation": "mean_after_relu"},
    ]
    config = job(str(tar), saliency={"gamma": 0.8, "references": 2, "maps": [*maps, *own]})
    export(config)
    made = open_export(config.output.url)

    classifier = build_classifier(config.model)
    samples = read_unit(ShardRef(str(tar), "webdataset"), fields_of("webdataset"), 0, 10, 2**28)
    transform = classifier.transform
    pixels = np.stack([decode(s, transform, 10**8).image for s in samples])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    spec = replace(saliency_spec(config, classifier), registration=made.manifest.layout.registration)
    expected = explain(classifier, (images - mean) / std, spec)

    rows = made.images["row"].to_numpy()
    assert made.images["references"].to_pylist() == expected.references.tolist()
    scale = made.tensors["basis_scale"].oindex[rows][:, None, None]
    again: dict[str, dict[str, Any]] = {
        "gradcam": {"gamma": 0.0},
        "finer_gradcam": {"gamma": 0.8},
        "strong": {"gamma": 2.0, "aggregation": "max_before_relu"},
        "weighted": {"gamma": 0.8, "weighting": "probability"},
        "against": {"gamma": 0.5, "reverse": True, "aggregation": "mean_after_relu"},
    }
    for place, name in enumerate([*maps, *(item["name"] for item in own)]):
        direct = expected.maps[:, place].numpy()
        bound = 2.0**-11 * direct.max((1, 2), keepdims=True) + 1e-6
        assert (np.abs(made.maps(rows, name) - direct) <= bound).all(), name
        if name in again:
            allowed = (1 + again[name]["gamma"]) * 2.0**-11 * scale + 1e-6
            assert (np.abs(made.contrast(rows, **again[name]) - direct) <= allowed).all(), name
    assert set(made.metrics["map"].to_pylist()) == set(made.manifest.layout.maps)
    assert made.maps(rows[:3], "gradcam", size=(50, 40)).shape == (3, 50, 40)
    backwards = made.contrast(rows[::-1], 0.8)
    np.testing.assert_array_equal(backwards[::-1], made.contrast(rows, 0.8))
    with pytest.raises(ExportError, match="no map 'rise'"):
        made.maps(rows, "rise")
    with pytest.raises(IndexError):
        made.maps([10_000], "gradcam")


def test_runs_again_only_for_what_is_new(tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "in" / "a.tar", many(10))
    config = job(str(tmp_path / "in" / "*.tar"))
    assert export(config).new == 10
    out = Path(config.output.url)
    first = files_of(out)
    (tmp_path / "in" / "late.tar").write_bytes(b"not yet written")
    assert export(config).new == 0
    assert open_export(config.output.url).failures["stage"].to_pylist() == ["shard"]
    write_tar(tmp_path / "in" / "late.tar", many(2, 90))
    assert export(config).new == 2
    assert open_export(config.output.url).failures.num_rows == 0
    first = files_of(out)
    assert export(config).new == 0
    assert files_of(out) == first

    write_tar(tmp_path / "in" / "b.tar", many(3, 50))
    assert export(config).new == 3
    assert verify_export(config.output.url) == []
    assert open_export(config.output.url).images.num_rows == 15
    kept = [path for path in first if "/c/" in str(path) or path.parent.name in ("images", "metrics")]
    assert kept
    assert all(path.read_bytes() == first[path] for path in kept)

    other = job(str(tmp_path / "in" / "*.tar"), saliency={"gamma": 0.5})
    with pytest.raises(ExportError, match=f"{config.fingerprint()}.*{other.fingerprint()}"):
        export(other)
    write_tar(tmp_path / "in" / "a.tar", many(4))
    with pytest.raises(ExportError, match=r"1 changed: .*a\.tar \(10 images then, 4 now\).*on_changed"):
        export(config)


def test_stops_where_the_input_is_simply_wrong_and_goes_on_after(tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "a.tar", [*many(8), *[(f"bad{i}.jpg", b"x") for i in range(8)]])
    config = job(str(tmp_path / "a.tar"))
    with pytest.raises(InputError, match="max_failures"):
        export(config)
    with pytest.raises(ExportError, match="has not finished"):
        open_export(config.output.url)
    # Nor does the same command pass the second time, when nothing is left to be explained.
    with pytest.raises(InputError, match="8 of 16"):
        export(config)
    with pytest.raises(ExportError, match="has not finished"):
        open_export(config.output.url)
    lenient = job(str(tmp_path / "a.tar"), input={"max_failures": 0.9})
    export(lenient)
    assert verify_export(lenient.output.url) == []
    assert open_export(lenient.output.url).manifest.counts == {"images": 8, "failures": 8}


def test_input_that_was_mended_is_done_anew_before_anything_is_published(tmp_path: Path, job: Job) -> None:
    """What nobody has seen need not be asked about, whatever `on_changed` says of published shards."""
    write_tar(tmp_path / "a.tar", [*many(8), *[(f"bad{i}.jpg", b"x") for i in range(8)]])
    config = job(str(tmp_path / "a.tar"))
    with pytest.raises(InputError, match="max_failures"):
        export(config)
    write_tar(tmp_path / "a.tar", many(15))
    summary = export(config)
    assert (summary.images, summary.failures, summary.new) == (15, 0, 15)
    assert summary.notes == [f"1 shards changed since their export; their rows are made anew: {tmp_path}/a.tar"]
    assert verify_export(config.output.url) == []


def test_targets_and_listed_references(tmp_path: Path, job: Job) -> None:
    members = [*sample("a", 1, 3), *sample("b", 2, 4), *sample("c", 3, None)]
    write_tar(tmp_path / "a.tar", members)
    saliency = {"target": "label", "selection": [3, 9]}
    config = job(str(tmp_path / "a.tar"), saliency=saliency, input={"max_failures": 1.0})
    export(config)
    made = open_export(config.output.url)
    assert made.images["target"].to_pylist() == [3, 4]
    assert made.images["references"].to_pylist() == [[-1, 9], [3, 9]]
    assert made.failures["stage"].to_pylist() == ["target"]
    assert verify_export(config.output.url) == []
    with pytest.raises(ConfigError, match=r"saliency\.target"):
        export(job(str(tmp_path / "a.tar"), saliency={"target": 99999}))


def test_verify_finds_what_is_wrong(tmp_path: Path, job: Job) -> None:
    tar = write_tar(tmp_path / "a.tar", many(10))
    config = job(str(tar))
    export(config)
    out = Path(config.output.url)
    next(path for path in (out / "saliency.zarr" / "maps" / "c" / "1").rglob("*") if path.is_file()).unlink()
    assert any("maps: rows not written" in line for line in verify_export(str(out)))
    file = next((out / "images").iterdir())
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file)
    findings = verify_export(str(out))
    assert any("no line in images or failures: [0]" in line for line in findings)
    write_tar(tar, many(9))
    assert any("holds 9 images now" in line for line in verify_export(str(out)))


@pytest.mark.usefixtures("ray_cluster")
def test_our_own_cluster_listens_on_loopback_alone() -> None:
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    sockets = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    raylets = [p for p in Path("/proc").glob("[0-9]*") if _command(p).startswith(("gcs_server", "raylet", "ray::"))]
    inodes = {inode for process in raylets for inode in _sockets(process)}
    listening = [line.split() for line in sockets.splitlines() if " 0A " in line]
    addresses = {fields[1].split(":")[0] for fields in listening if fields[9] in inodes}
    assert addresses
    assert addresses <= {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def _command(process: Path) -> str:
    try:
        return Path((process / "cmdline").read_bytes().split(b"\0")[0].decode()).name
    except OSError:
        return ""


def _sockets(process: Path) -> set[str]:
    found = set()
    try:
        for link in (process / "fd").iterdir():
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
                found.add(match[1])
    except OSError:
        pass
    return found


CONCEPTS = ["red bill", "black wing", "bird"]


def test_concepts_by_image(tmp_path: Path, job: Job, clip: str) -> None:
    """A text against another, named by each image: "red bill" against "bird"."""
    asked = ["red bill", "black wing", "blue tail", None]
    members = []
    for i, text in enumerate(asked):
        note = json.dumps({"concept": text, "label": i % 2}).encode()
        members += [*sample(f"p{i}", i)[:1], (f"p{i}.json", note)]
    tar = write_tar(tmp_path / "a.tar", members)
    model = {"backbone": clip, "weights": "random", "image_size": None, "head": "text"}
    config = job(
        str(tar),
        input={"fields": {"text": "json.concept", "contrast_text": "json.base"}, "max_failures": 1.0},
        model={**model, "classes": ["cat", "dog", "bird"], "concepts": CONCEPTS},
        saliency={
            "maps": ["gradcam", "finer_gradcam", "finer_layercam"],
            "target": "concept",
            "concept": {"by": "image", "default": ["red bill", "bird"]},
        },
    )
    export(config)
    made = open_export(config.output.url)
    assert verify_export(config.output.url) == []
    assert made.manifest.classes == ["cat", "dog", "bird", *CONCEPTS]
    lines = {line["key"]: line for line in made.images.to_pylist()}
    names = {
        key: [made.manifest.classes[i] for i in (line["target"], *line["references"])] for key, line in lines.items()
    }
    assert names == {"p0": ["red bill", "bird"], "p1": ["black wing", "bird"], "p3": ["red bill", "bird"]}
    assert all(line["references"] == [5] for line in lines.values())
    assert all(line["probability"] is None and 0 < line["predicted_probability"] <= 1 for line in lines.values())
    assert all(line["predicted"] < 3 and line["label"] in (0, 1) for line in lines.values())
    (failure,) = made.failures.to_pylist()
    assert (failure["key"], failure["stage"]) == ("p2", "target")
    assert "no concept is called 'blue tail'" in failure["error"]

    classifier = build_classifier(config.model)
    tokens = open_clip.get_tokenizer(clip.removeprefix("open_clip:"))([f"a photo of a {c}." for c in CONCEPTS])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.model.seed)
        theirs = open_clip.create_model(clip.removeprefix("open_clip:"), pretrained=None).eval()
    (first,) = read_unit(ShardRef(str(tar), "webdataset"), fields_of("webdataset"), 0, 1, 2**28)
    pixels = torch.from_numpy(decode(first, classifier.transform, 10**8).image).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (classifier.transform.mean, classifier.transform.std))
    with torch.no_grad():
        image = theirs.encode_image((pixels - mean) / std, normalize=True)
        logits = theirs.logit_scale.exp() * image @ theirs.encode_text(tokens, normalize=True).T
    assert lines["p0"]["logit"] == pytest.approx(logits[0, 0].item(), rel=1e-4)
    assert lines["p0"]["reference_logits"] == [pytest.approx(logits[0, 2].item(), rel=1e-4)]


def test_concepts_by_predicted_class(tmp_path: Path, job: Job, clip: str) -> None:
    tar = write_tar(tmp_path / "a.tar", many(6))
    model = {"backbone": clip, "weights": "random", "image_size": None, "head": "text"}
    pairs = {"c0": ["black wing", "bird"], "c1": ["bird", "red bill"]}
    config = job(
        str(tar),
        model={**model, "classes": [f"c{i}" for i in range(7)], "concepts": CONCEPTS},
        saliency={"target": "concept", "concept": {"pairs": pairs, "default": ["red bill", "bird"]}},
        metrics={"deletion": True, "steps": 2},
        compute={"batch_size": 4},
    )
    export(config)
    made = open_export(config.output.url)
    assert verify_export(config.output.url) == []
    wanted = {0: (8, 9), 1: (9, 7)}
    for line in made.images.to_pylist():
        assert (line["target"], *line["references"]) == wanted.get(line["predicted"], (7, 9))
    # A text has no probability among the classes, so its curve would be of nulls alone.
    assert made.metrics["deletion_auc"].null_count == made.metrics["deletion_curve"].null_count == 12


def test_perturbation_metrics(tmp_path: Path, job: Job) -> None:
    """Against the definitions, with the model run on images masked one by one."""
    tar = write_tar(tmp_path / "a.tar", many(5))
    wanted = {"deletion": True, "insertion": True, "drops": True, "steps": 10, "fill": "black", "insert_into": "white"}
    config = job(str(tar), metrics=wanted, compute={"batch_size": 2, "masked_memory": 10_000_000})
    export(config)
    made = open_export(config.output.url)
    assert verify_export(config.output.url) == []

    classifier = build_classifier(config.model)
    transform = classifier.transform
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    samples = read_unit(ShardRef(str(tar), "webdataset"), fields_of("webdataset"), 0, 5, 2**28)
    images = {line["key"]: line for line in made.images.to_pylist()}
    metrics = {(line["row"], line["map"]): line for line in made.metrics.to_pylist()}
    for one in samples:
        image = images[one.key]
        x = torch.from_numpy(decode(one, transform, 10**8).image).permute(2, 0, 1)[None].float() / 255
        classes = [image["target"], *image["references"]]

        def chances(x: torch.Tensor, classes: list[int] = classes) -> np.ndarray:
            with torch.no_grad():
                return classifier((x - mean) / std).softmax(1)[0, classes].numpy()

        before = chances(x)
        assert [image["probability"], *image["reference_probabilities"]] == pytest.approx(before, rel=1e-3)
        for name in ("gradcam", "finer_gradcam"):
            # The stored map is rounded to half precision, so that ties may be broken otherwise: the model's own.
            heat = explain(classifier, (x - mean) / std, saliency_spec(config, classifier)).maps[0]
            place = made.manifest.layout.maps.index(name)
            heat = torch.nn.functional.interpolate(heat[None, place : place + 1], size=(64, 64), mode="bilinear")
            order = heat.flatten().argsort(descending=True, stable=True)

            def masked(
                count: int, inside: float | torch.Tensor, base: torch.Tensor, order: torch.Tensor = order
            ) -> torch.Tensor:
                changed = base.clone().flatten(2)
                first = order[:count]
                changed[:, :, first] = inside if isinstance(inside, float) else inside.flatten(2)[:, :, first]
                return changed.unflatten(2, (64, 64))

            counts = [round(i / 10 * 4096) for i in range(11)]
            deletion = [chances(masked(count, 0.0, x))[0] for count in counts]
            insertion = [chances(masked(count, x, torch.ones_like(x)))[0] for count in counts]
            line = metrics[image["row"], name]
            assert line["deletion_curve"] == pytest.approx(deletion, abs=2e-4)
            assert line["insertion_curve"] == pytest.approx(insertion, abs=2e-4)
            assert line["deletion_curve"][0] == image["probability"]
            # 10 % is the first of the ten steps: one forward pass, and one number in both columns.
            assert line["deletion_curve"][1] == line["probability_10"]
            for kind in ("deletion", "insertion"):
                assert line[f"{kind}_auc"] == pytest.approx(np.trapezoid(line[f"{kind}_curve"], dx=0.1), rel=1e-6)
            assert line["deletion_auc"] == pytest.approx(np.trapezoid(deletion, dx=0.1), abs=2e-4)
            assert line["insertion_auc"] == pytest.approx(np.trapezoid(insertion, dx=0.1), abs=2e-4)
            for ending, count in (("05", 205), ("10", 410)):
                after = chances(masked(count, 0.0, x))
                drop = before - after
                assert line[f"probability_{ending}"] == pytest.approx(after[0], abs=2e-4)
                assert line[f"reference_probabilities_{ending}"] == pytest.approx(after[1:], abs=2e-4)
                assert line[f"relative_drop_{ending}"] == pytest.approx(drop[0] - drop[1:].mean(), abs=3e-4)
                assert line[f"confidence_drop_{ending}"] == pytest.approx(drop[0] / before[0], abs=0.05)
    assert set(made.classes["deletion_auc_count"].to_pylist()) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("wanted", [{"deletion": True}, {"insertion": True}, {"drops": True}])
def test_curves_are_there_where_they_were_asked_for(tmp_path: Path, job: Job, wanted: dict[str, bool]) -> None:
    config = job(str(write_tar(tmp_path / "a.tar", many(3))), metrics={**wanted, "steps": 1})
    export(config)
    made = open_export(config.output.url).metrics
    for kind in ("deletion", "insertion"):
        sizes = [None if curve is None else len(curve) for curve in made[f"{kind}_curve"].to_pylist()]
        assert sizes == [2 if kind in wanted else None] * 6


def test_gamma_sweep_is_the_stored_metric_at_the_jobs_gamma(tmp_path: Path, job: Job) -> None:
    """From the basis alone; regions are read again from the shards."""
    write_tar(tmp_path / "in" / "a.tar", [*many(11), *sample("plain", 99)[:1]])
    config = job(str(tmp_path / "in"))
    export(config)
    made = open_export(config.output.url)
    result = CliRunner().invoke(
        app,
        [
            "study",
            "gamma",
            config.output.url,
            "--to",
            str(tmp_path / "s"),
            "--low",
            "0",
            "--high",
            "1.2",
            "--step",
            "0.6",
        ],
    )
    assert result.exit_code == 0, result.output
    swept = {(line["row"], line["gamma"]): line for line in pq.read_table(tmp_path / "s" / "sweep.parquet").to_pylist()}
    assert len(swept) == 11 * 3
    for line in made.metrics.to_pylist():
        gamma = {"gradcam": 0.0, "finer_gradcam": 0.6}[line["map"]]
        if line["region"] is None:
            assert (line["row"], gamma) not in swept
            continue
        found = swept[line["row"], gamma]
        assert found["localisation"] == pytest.approx(line["localisation"], abs=5e-3)
    assert (tmp_path / "s" / "sweep.png").stat().st_size > 10_000
