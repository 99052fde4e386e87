"""The explaining actor: memory that does not do, processes that die, units side by side, and what never waits."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from finer_ray.config.schema import Config
from finer_ray.errors import WorkerError
from finer_ray.models import build_classifier
from finer_ray.models.split import Split
from finer_ray.pipeline import executor, explaining
from finer_ray.pipeline import export as job_of
from finer_ray.pipeline.export import export
from finer_ray.pipeline.planning import layout_of
from finer_ray.pipeline.resources import own_resources
from finer_ray.pipeline.stage import Stage
from finer_ray.saliency import explain
from finer_ray.store.reading import Export, open_export
from finer_ray.store.verify import verify_export
from tests.conftest import Members, photo, sample, write_tar
from tests.pipeline.exports import many, same

Job = Callable[..., Config]
METRICS = {"deletion": True, "insertion": True, "drops": True, "steps": 2}


def alike(a: Export, b: Export, tolerance: float) -> None:
    """Maps, bases and metrics up to what another order of sums makes of them."""
    assert a.images["key"].equals(b.images["key"])
    assert a.images["target"].equals(b.images["target"])
    rows = a.images["row"].to_pylist()
    for name in a.manifest.layout.maps:
        np.testing.assert_allclose(a.maps(rows, name), b.maps(rows, name), atol=tolerance)
    for name in ("localisation", "deletion_auc", "insertion_auc", "relative_drop_10"):
        mine, theirs = (of.metrics[name].to_numpy().astype(float) for of in (a, b))
        np.testing.assert_allclose(mine, theirs, atol=tolerance)


def too_large(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Make batches of more images than these fail as torch does; the sizes that were tried."""
    tried: list[int] = []

    def limited(model: Any, images: torch.Tensor, *rest: Any) -> Any:
        tried.append(len(images))
        if len(images) > most:
            torch.empty(2**60, dtype=torch.uint8)
        return explain(model, images, *rest)

    monkeypatch.setattr(explaining, "explain", limited)
    return tried


def test_out_of_memory_halves_the_batch(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "a.tar", [*many(9), ("bad.jpg", b"no photo"), *many(3, 20)])
    config = job(str(tar), metrics=METRICS, output={"url": str(tmp_path / "plain")}, compute={"batch_size": 8})
    export(config)
    tried = too_large(monkeypatch, 2)
    halved = job(str(tar), metrics=METRICS, compute={"batch_size": 8})
    export(halved)
    # 8 fails, both 4 fail, and batches of 2 are made from then on.
    assert tried[:7] == [8, 4, 2, 2, 4, 2, 2]
    assert max(tried[7:]) == 2
    assert verify_export(halved.output.url) == []
    made = open_export(halved.output.url)
    assert made.failures["key"].to_pylist() == ["bad"]
    alike(made, open_export(config.output.url), 1e-5)


@pytest.mark.parametrize("batch", [5, 7])
def test_halves_of_odd_batches_are_filled_up_too(
    batch: int, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where batches have one size because they are compiled for."""
    tar = write_tar(tmp_path / "a.tar", many(8))
    tried = too_large(monkeypatch, 2)
    monkeypatch.setattr(explaining, "compiled", lambda trunk, mode: trunk)
    config = job(str(tar), compute={"batch_size": batch, "compile": True})
    export(config)
    assert tried[0] == batch
    assert tried[-1] == 2
    assert verify_export(config.output.url) == []


def damaged(count: int, bad: set[int]) -> Members:
    """Samples, some of whose photos are cut in the middle: their header is good, and decoding them fails."""
    return [
        (name, body[: len(body) // 2] if name.endswith(".jpg") and int(name[1:4]) in bad else body)
        for name, body in many(count)
    ]


@pytest.mark.parametrize(
    ("backbone", "batch", "maps", "counts"),
    [
        ("timm:test_vit", 32, ["gradcam", "finer_layercam"], [1, 5, 9, 13, 15]),
        ("timm:test_vit", 5, ["gradcam", "finer_layercam"], [1, 5, 9, 13, 15]),
        ("timm:test_efficientnet", 32, ["gradcam", "finer_layercam"], [5, 13]),
        ("timm:test_efficientnet", 5, ["gradcam", "finer_layercam"], [9, 15]),
        ("timm:test_vit", 5, ["finer_scorecam", "finer_rise", "finer_mask"], [9]),
    ],
)
def test_rows_that_fail_do_not_change_a_bit_of_the_others(
    backbone: str, batch: int, maps: list[str], counts: list[int], tmp_path: Path, job: Job
) -> None:
    def exported(name: str, bad: set[int]) -> Export:
        tar = write_tar(tmp_path / name / "a.tar", damaged(16, bad))
        config = job(
            str(tar),
            model={"backbone": backbone, "image_size": 32},
            input={"max_failures": 1.0},
            saliency={"maps": maps, "rise": {"masks": 9}, "mask": {"steps": 2}},
            metrics={"deletion": True, "drops": True, "steps": 3},
            compute={"batch_size": batch},
            output={"url": str(tmp_path / name / "out"), "rows_per_unit": 16},
        )
        export(config)
        return open_export(config.output.url)

    clean, order = exported("clean", set()), np.random.default_rng(1).permutation(16)
    for count in counts:
        bad = set(order[:count].tolist())
        made = exported(str(count), bad)
        rows = made.images["row"].to_pylist()
        assert rows == sorted(set(range(16)) - bad)
        for name in clean.manifest.layout.shapes():
            np.testing.assert_array_equal(made.tensors[name][:][rows], clean.tensors[name][:][rows], err_msg=name)
        for name in ("images", "metrics"):
            ours, theirs = (
                [{**line, "shard": ""} for line in getattr(of, name).to_pylist() if line["row"] in rows]
                for of in (made, clean)
            )
            assert ours == theirs


def test_a_batch_of_failures_alone_is_not_computed(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = too_large(monkeypatch, 100)
    config = job(
        str(write_tar(tmp_path / "a.tar", damaged(8, {0, 1, 2, 3, 5}))),
        input={"max_failures": 1.0},
        compute={"batch_size": 4},
    )
    export(config)
    assert tried == [4]
    assert open_export(config.output.url).images["key"].to_pylist() == ["p004", "p006", "p007"]


def labelled(labels: list[int | str | None]) -> Members:
    return [member for i, label in enumerate(labels) for member in sample(f"p{i:03d}", i, label, [10, 8, 60, 50])]


# In two units of eight rows.
LABELS: list[int | str | None] = [3, -1, None, "zebrra", 5000, -1, "zebrra", -1, 4, -1, "gnoo", 1]


def test_labels_that_are_no_class_become_null_and_are_told_of(tmp_path: Path, job: Job) -> None:
    tar = str(
        write_tar(tmp_path / "a.tar", [*labelled(LABELS), ("bad.jpg", b"no photo"), ("bad.json", b'{"label": -1}')])
    )
    config = job(tar, model={"classes": "imagenet-1k"})
    summary = export(config)
    made = open_export(config.output.url)
    assert made.images["label"].to_pylist() == [3, *[None] * 7, 4, None, None, 1]
    assert made.failures["stage"].to_pylist() == ["decode"]
    assert verify_export(config.output.url) == []
    (note,) = summary.notes
    assert note.startswith("8 images have a label that is no class, and are explained without it: class -1 is out of")
    assert "do without labels, set input.fields.label: '' and a saliency.target other than label): 4; " in note
    assert "no class is called 'zebrra' (nearest: zebra" in note
    # What is done is not told of again.
    assert export(config).notes == []

    strict = job(tar, model={"classes": "imagenet-1k"}, saliency={"target": "label"}, input={"max_failures": 1.0})
    strict = strict.model_copy(update={"output": strict.output.model_copy(update={"url": str(tmp_path / "strict")})})
    assert export(strict).notes == []
    failures = open_export(strict.output.url).failures.to_pylist()
    assert [line["stage"] for line in failures] == ["label", "target", *["label"] * 7, "decode"]
    assert "marks no label" in failures[0]["error"]


def test_numbers_that_are_names_of_folders_are_no_indices(tmp_path: Path, job: Job) -> None:
    for name in ("1", "2", "10"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.jpg").write_bytes(photo(int(name)))
    config = job(str(tmp_path / "in"))
    (note,) = export(config).notes
    assert open_export(config.output.url).images["label"].to_pylist() == [None] * 3
    assert "model.classes is not given" in note
    assert note.endswith("in sorted order): 3")
    named = job(str(tmp_path / "in"), model={"classes": [str(i) for i in range(1, 1001)]})
    named = named.model_copy(update={"output": named.output.model_copy(update={"url": str(tmp_path / "named")})})
    assert export(named).notes == []
    assert sorted(open_export(named.output.url).images["label"].to_pylist()) == [0, 1, 9]


def test_an_image_that_does_not_fit_alone_is_a_failure(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = write_tar(tmp_path / "a.tar", many(3))
    too_large(monkeypatch, 0)
    config = job(str(tar), input={"max_failures": 1.0})
    export(config)
    made = open_export(config.output.url)
    assert made.images.num_rows == 0
    assert {(line["stage"], line["error"]) for line in made.failures.to_pylist()} == {
        ("model", "one image alone takes more memory than the device has")
    }


def test_other_errors_are_not_taken_for_want_of_memory(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> Any:
        raise RuntimeError("a fault of the model")

    monkeypatch.setattr(explaining, "explain", broken)
    with pytest.raises(RuntimeError, match="a fault of the model"):
        export(job(str(write_tar(tmp_path / "a.tar", many(3)))))


@pytest.mark.slow
def test_compiled_batches_have_one_size(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "a.tar", [*many(5), ("bad.jpg", b"no photo"), *many(4, 20)])
    plain = job(str(tar), output={"url": str(tmp_path / "plain")})
    export(plain)
    tried = too_large(monkeypatch, 100)
    config = job(str(tar), compute={"compile": "reduce-overhead", "batch_size": 4})
    export(config)
    assert set(tried) == {4}
    alike(open_export(config.output.url), open_export(plain.output.url), 1e-4)


# Of an actor's process: where the first calls of its two threads wait for each other.
MEETING, MET = threading.Barrier(2), threading.local()


class Dying(Split):
    """A split whose process loses its GPU, as often as a folder has no more than so many marks.

    Args:
        split: that does the work.
        marks: the folder.
        times: how many.
        met: a file that is made when two threads are in here at a time; the first call of each waits for the other.
    """

    def __init__(self, split: Split, marks: str, times: int, met: str | None) -> None:
        super().__init__(split.encoder)
        self.inner, self.marks, self.times, self.met = split, marks, times, met

    def trunk(self, images: torch.Tensor) -> Any:
        found = len(list(Path(self.marks).iterdir()))
        if found < self.times:
            (Path(self.marks) / str(found)).touch()
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if self.met and not hasattr(MET, "before"):
            MET.before = True
            with suppress(threading.BrokenBarrierError):
                MEETING.wait(60)
                Path(self.met).touch()
        return self.inner.trunk(images)

    def tail(self, *given: Any) -> Any:
        return self.inner.tail(*given)

    def grid(self, activation: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.inner.grid(activation, size)


# The driver, which measures nothing then, keeps its device.
STRETCH = {"registration": "stretch"}


def dying(monkeypatch: pytest.MonkeyPatch, marks: Path, times: int, met: Path | None = None) -> None:
    marks.mkdir()

    def build(config: Any) -> Any:
        classifier = build_classifier(config)
        classifier.split = Dying(classifier.split, str(marks), times, met and str(met))
        return classifier

    monkeypatch.setattr(job_of, "build_classifier", build)


@pytest.mark.faults
@pytest.mark.usefixtures("ray_cluster")
def test_lost_gpus(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that loses its GPU ends, and another repeats its units; two units at a time change nothing. Where
    that does not help the job stops."""
    tar = str(write_tar(tmp_path / "a.tar", many(40)))
    plain = job(tar, output={"url": str(tmp_path / "plain")}, saliency=STRETCH)
    export(plain)
    compute = {"executor": "ray", "units_per_actor": 2}
    dying(monkeypatch, tmp_path / "once", 1, tmp_path / "met")
    config = job(tar, compute=compute, saliency=STRETCH)
    assert export(config).images == 40
    assert len(list((tmp_path / "once").iterdir())) == 1
    assert (tmp_path / "met").exists()
    assert verify_export(config.output.url) == []
    same(open_export(config.output.url), open_export(plain.output.url))
    assert not (Path(config.output.url) / "parts").exists()

    # Each loss takes another process.
    monkeypatch.setattr(executor, "MAX_LOSSES", 1)
    dying(monkeypatch, tmp_path / "always", 10**6)
    with pytest.raises(WorkerError, match=r"2 processes have lost their GPU, the last at unit \d; .*illegal"):
        export(job(tar, output={"url": str(tmp_path / "lost")}, compute=compute, saliency=STRETCH))


def test_calls_that_lose_their_gpu_together_are_one_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tells of its unit and ends the process; the others wait for that, and Ray repeats them."""
    ended, told, over = threading.Event(), [], threading.Event()

    def lost(table: pa.Table) -> pa.Table:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    schema = pa.schema([pa.field("unit", pa.int64())])
    actor = executor._Actor(Stage("explain", lambda: lost, schema, schema, rows=1), "out")
    monkeypatch.setattr(executor.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(executor.time, "sleep", lambda seconds: over.wait(20))
    monkeypatch.setattr(executor, "LOST_SECONDS", 0.2)
    calls = [
        threading.Thread(target=lambda unit=unit: told.append(actor(pa.table([[unit]], schema))), daemon=True)
        for unit in (3, 4)
    ]
    for thread in calls:
        thread.start()
    assert ended.wait(20)
    (line,) = [line for table in told for line in table.to_pylist()]
    assert line["lost_unit"] in (3, 4)
    assert "illegal memory access" in line["reason"]
    over.set()
    for thread in calls:
        thread.join()


def test_trials_leave_out_what_has_a_bound_of_its_own(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """And score as many maps as the job has, of as many images as they are told."""
    maps: list[Any] = ["gradcam", "rise", "finer_scorecam", "mask", "finer_gradcam"]
    config = job("a.tar", metrics=METRICS, saliency={"maps": maps})
    classifier = build_classifier(config.model)
    explainer = explaining.Explainer(classifier, config, layout_of(config, classifier), own_resources(config.compute))
    tried: list[Any] = []

    def seen(model: Any, images: torch.Tensor, spec: Any) -> Any:
        tried.append((len(images), [wanted.cam for wanted in spec.maps]))
        return explain(model, images, spec)

    monkeypatch.setattr(explaining, "explain", seen)
    monkeypatch.setattr(explainer, "_scorer", lambda images, found, region: tried.append(found.maps.shape[:2]))
    explainer._trial(3, scored=False)
    explainer._trial(2, scored=True)
    assert tried == [(3, ["gradcam", "gradcam"]), (2, ["gradcam", "gradcam"]), (2, 5)]


def test_a_lost_gpu_in_this_process_is_an_error(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    dying(monkeypatch, tmp_path / "marks", 1)
    config = job(str(write_tar(tmp_path / "a.tar", many(4))), saliency=STRETCH)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        export(config)
    export(config)
    assert open_export(config.output.url).images.num_rows == 4
