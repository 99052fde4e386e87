"""Photos of a unit on their way from the loader to the model: as pixels, or encoded and decoded on its device."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from finer_ray.config import Config, InputConfig
from finer_ray.pipeline import photos as photos_module
from finer_ray.pipeline.cluster import connected
from finer_ray.pipeline.columns import pack_some, unpack_some
from finer_ray.pipeline.export import export
from finer_ray.pipeline.feeding import Feeder
from finer_ray.pipeline.loading import Loader
from finer_ray.pipeline.photos import Photos
from finer_ray.shards import Fields, ShardRef, Transform, index_shard
from finer_ray.store.export import Export, open_export
from finer_ray.store.manifest import Unit
from finer_ray.store.verify import verify_export
from tests.conftest import Members, photo, sample, write_tar
from tests.hostile import images
from tests.pipeline.exports import same
from tests.shards.test_deferred import OTHERS, PLAIN

Job = Callable[..., Config]
TRANSFORM = Transform((64, 64))
DEVICE = {"decoder": "device", "max_failures": 1.0}
# Looks right from its headers, and has no tables to be decoded with.
WITHOUT_TABLES = PLAIN[: PLAIN.index(b"\xff\xdb")] + PLAIN[PLAIN.index(b"\xff\xc0") :]


def loaded(folder: Path, members: Members, **settings: Any) -> tuple[pa.Table, InputConfig]:
    """All samples of a tar, as the loader gives them."""
    tar = write_tar(folder / "a.tar", members)
    config = InputConfig.model_validate({"shards": str(tar), **settings})
    index = index_shard(ShardRef(str(tar), "webdataset"), Fields.defaults("webdataset"), 10**6)
    unit = Unit(0, str(tar), "webdataset", index.starts[0], 0, index.count)
    return Loader(config, TRANSFORM, region=True, patience=0)(unit), config


def of(table: pa.Table, config: InputConfig) -> Photos:
    return Photos(table, TRANSFORM, config, Feeder(torch.device("cpu")))


@pytest.mark.parametrize(
    "present", [[True, False, True, True], [False] * 4, [True] * 4, [False, True, False, False], []]
)
def test_packed_values_come_back_also_from_a_slice_and_from_a_file(present: list[bool]) -> None:
    values = np.arange(sum(present) * 6, dtype=np.int16).reshape(-1, 2, 3)
    array = pack_some(values, np.array(present, bool))
    array.validate(full=True)
    assert array.null_count == present.count(False)
    expected = iter(values)
    wanted = [next(expected) if here else None for here in present]
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("x", array.type)])) as writer:
        writer.write_table(pa.table({"x": array}))
    read = pa.ipc.open_stream(sink.getvalue()).read_all()["x"]
    columns = {0: [pa.chunked_array([array]), read, pa.chunked_array([array[:2], array[2:]])], 1: [read[1:], read[1:3]]}
    for first, some in columns.items():
        for column in some:
            found, places = unpack_some(column, np.int16, (2, 3))
            assert len(places) == len(column)
            for place, value in zip(places, wanted[first : first + len(column)], strict=True):
                if value is not None:
                    np.testing.assert_array_equal(found[place], value)


def test_a_loaded_unit_holds_each_photo_once(tmp_path: Path) -> None:
    """No pixels of the encoded ones, no bytes of the decoded, and neither of those that failed."""
    members = [("a.jpg", photo(1)), ("b.jpg", photo(2, format="PNG")), ("c.jpg", b"none"), ("d.jpg", photo(4))]
    table, _ = loaded(tmp_path, members, decoder="device")
    assert table["encoded"].to_pylist() == [photo(1), None, None, photo(4)]
    assert [value is not None for value in table["pixels"].to_pylist()] == [False, True, False, False]
    assert table["pixels"].combine_chunks().buffers()[2].size == 3 * 64 * 64
    assert table["width"].to_pylist() == [80, 80, None, 80]
    plain, _ = loaded(tmp_path, members)
    assert plain["encoded"].null_count == 4
    assert plain["pixels"].null_count == 1


def test_rows_come_in_the_order_asked_for_whoever_decoded_them(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", photo(i, format="PNG" if i % 3 == 1 else "JPEG")) for i in range(7)]
    expected, failed = of(*loaded(tmp_path, members)).take(np.arange(7))
    assert failed == {}
    photos = of(*loaded(tmp_path, members, decoder="device"))
    for rows in ([0, 1, 2, 3, 4, 5, 6], [6, 1], [1, 4], [5], [3, 0, 4]):
        found, failed = photos.take(np.array(rows))
        assert failed == {}
        assert (found.shape, found.dtype) == ((len(rows), 64, 64, 3), torch.uint8)
        assert (found.int() - expected[rows].int()).abs().max() <= 2


def test_what_the_device_refuses_the_cpu_decodes_or_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        ("a.jpg", PLAIN),
        ("b.jpg", WITHOUT_TABLES),
        ("c.png", images.encode(images.plain(), "PNG")),
        ("d.jpg", PLAIN),
    ]
    expected, _ = loaded(tmp_path, members)
    table, config = loaded(tmp_path, members, decoder="device")
    assert table["stage"].to_pylist() == [None] * 4
    found, errors = of(table, config).take(np.arange(4))
    assert {place: (error.stage, error.message) for place, error in errors.items()} == {
        1: (expected["stage"][1].as_py(), expected["error"][1].as_py())
    }
    pixels, places = unpack_some(expected["pixels"], np.uint8, (64, 64, 3))
    assert (found.int() - torch.tensor(pixels[places[[0, 2, 3]]]).int()).abs().max() <= 2

    def refuses(encoded: list[bytes], *_: object) -> tuple[torch.Tensor, list[int]]:
        return torch.zeros((len(encoded), 3, 64, 64), dtype=torch.uint8), [*range(len(encoded))]

    monkeypatch.setattr(photos_module, "decode_batch", refuses)
    found, errors = of(table, config).take(np.arange(4))
    assert [*errors] == [1]
    np.testing.assert_array_equal(found.numpy(), pixels[places[[0, 2, 3]]])
    found, errors = of(table, config).take(np.array([1]))
    assert [*errors] == [0]
    assert len(found) == 0


def hard() -> Members:
    """Good photos with labels, boxes and masks, among every kind that is left to the CPU and some that break later."""
    mask, other = (images.encode(Image.new("L", size, 255), "PNG") for size in ((80, 64), (5, 6)))
    members = [member for i in range(9) for member in sample(f"a{i}", i, i % 7, [10, 8, 60, 50])]
    members += [(f"b {kind}.jpg", data) for kind, data in OTHERS.items()]
    members += [("c0.jpg", photo(20)), ("c0.mask.png", mask), ("c1.jpg", photo(21)), ("c1.mask.png", other)]
    members += [("d0.jpg", WITHOUT_TABLES), *sample("d1", 22, 5000)]
    # Two faults at once: the photo's comes first.
    members += [("e0.jpg", WITHOUT_TABLES), ("e0.mask.png", other)]
    members += [("e1.jpg", WITHOUT_TABLES), ("e1.json", json.dumps({"label": 5000}).encode())]
    return members


def exported(job: Job, tar: Path, out: Path, **settings: Any) -> Export:
    # A random network's classes are too near to each other to be left to it.
    question = {"target": 3, "selection": [5, 6, 7]}
    sections = {"output": {"url": str(out)}, "saliency": question, "compute": {"batch_size": 5}}
    for name, values in settings.items():
        sections[name] = {**sections.get(name, {}), **values}
    config = job(str(tar), **sections)
    export(config)
    assert verify_export(config.output.url) == []
    return open_export(config.output.url)


def test_an_export_decoded_on_the_device_is_the_cpus_but_for_rounding(tmp_path: Path, job: Job) -> None:
    tar = write_tar(tmp_path / "a.tar", hard())
    cpu = exported(job, tar, tmp_path / "cpu", input={"max_failures": 1.0})
    device = exported(job, tar, tmp_path / "device", input=DEVICE)
    assert device.failures.equals(cpu.failures)
    faults = {line["key"]: line["stage"] for line in cpu.failures.to_pylist()}
    stages = {"c1": "region", "d0": "decode", "e0": "decode", "e1": "decode", "b cut": "decode"}
    assert {key: faults[key] for key in stages} == stages
    assert "d1" in cpu.images["key"].to_pylist()
    exact = ["row", "key", "label", "target", "references", "width", "height"]
    assert device.images.select(exact).equals(cpu.images.select(exact))
    assert device.metrics["region"].equals(cpu.metrics["region"])
    rows = cpu.images["row"].to_pylist()
    assert len(rows) > 15
    for name in cpu.manifest.layout.maps:
        a, b = cpu.maps(rows, name), device.maps(rows, name)
        assert np.abs(a - b).max() <= 0.02 * np.abs(a).max()
    np.testing.assert_allclose(device.tensors["embedding"][rows], cpu.tensors["embedding"][rows], rtol=0.02, atol=0.02)
    # What the CPU decoded is the same to the bit.
    for line in cpu.images.to_pylist():
        if line["key"] in ("b progressive", "b CMYK", "b turned", "b a PNG"):
            np.testing.assert_array_equal(
                device.tensors["embedding"][line["row"]], cpu.tensors["embedding"][line["row"]]
            )


def test_what_is_wrong_with_a_photo_comes_before_its_label(tmp_path: Path, job: Job) -> None:
    tar = write_tar(tmp_path / "a.tar", hard())
    wanted = {"target": "label", "selection": [5, 6, 7]}
    for decoder in ("cpu", "device"):
        options = {"max_failures": 1.0, "decoder": decoder}
        made = exported(job, tar, tmp_path / decoder, input=options, saliency=wanted)
        faults = {line["key"]: line["stage"] for line in made.failures.to_pylist()}
        stages = {"c0": "target", "c1": "region", "d0": "decode", "d1": "label", "e0": "decode", "e1": "decode"}
        assert {key: faults[key] for key in stages} == stages


def test_the_device_is_really_asked(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    decode_batch = photos_module.decode_batch

    def counted(encoded: list[bytes], *rest: Any) -> tuple[torch.Tensor, list[int]]:
        asked.append(len(encoded))
        return decode_batch(encoded, *rest)

    monkeypatch.setattr(photos_module, "decode_batch", counted)
    tar = write_tar(tmp_path / "a.tar", [member for i in range(9) for member in sample(f"a{i}", i)])
    exported(job, tar, tmp_path / "cpu")
    assert asked == []
    # Units of 8 rows in batches of 5.
    exported(job, tar, tmp_path / "device", input=DEVICE)
    assert asked == [5, 3, 1]


@pytest.fixture
def _cluster() -> Iterator[None]:
    with connected():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_on_ray_it_is_the_same_export(tmp_path: Path, job: Job) -> None:
    tar = write_tar(tmp_path / "a.tar", hard())
    here = exported(job, tar, tmp_path / "here", input=DEVICE)
    on_ray = exported(job, tar, tmp_path / "ray", input=DEVICE, compute={"runner": "ray"})
    same(on_ray, here)
