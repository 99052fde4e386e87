"""Hostile and odd input: a named failure or a clear refusal, and good rows untouched."""

import math
import pickle
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from finer_ray.config.loading import load_config, parse_config
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, InputError
from finer_ray.images.decode import decode
from finer_ray.images.sample import Sample
from finer_ray.images.transform import Transform
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.shards import ShardRef, find_shards
from finer_ray.shards.formats import FORMATS
from finer_ray.store.reading import Export, open_export
from finer_ray.store.verify import verify_export
from tests.conftest import photo, write_tar
from tests.hostile import images, kinds
from tests.hostile.kinds import CONFIGS, KINDS, Kind
from tests.hostile.through import MAX_BYTES, MAX_PIXELS, TRANSFORM, Outcome, same, through


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The good samples in a shard of each format with nothing else in it."""
    root = tmp_path_factory.mktemp("clean")
    shards = {
        "webdataset": kinds.among()(root),
        "parquet": kinds.table_of([])(root),
        "folder": kinds.image_folder(lambda _: None)(root),
    }
    return {name: through(ref) for name, ref in shards.items()}


def test_the_clean_shards_are_clean(clean: dict[str, Outcome]) -> None:
    for name in FORMATS:
        assert (clean[name].failures, clean[name].problem) == ([], None)
        assert [key for key, _ in clean[name].images] == list(kinds.FOLDER if name == "folder" else kinds.GOOD)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_shard(kind: Kind, tmp_path: Path, clean: dict[str, Outcome]) -> None:
    ref = kind.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    start = time.process_time()
    outcome = through(ref)
    assert time.process_time() - start < 5
    assert sorted(tmp_path.rglob("*")) == before, "reading wrote files"

    assert (outcome.problem is None) == (kind.problem is None), outcome.problem
    assert (kind.problem or "") in (outcome.problem or "")
    failures = {key: (stage, message) for key, stage, message in outcome.failures}
    assert failures.keys() == kind.fails.keys(), outcome.failures
    for key, (stage, words) in kind.fails.items():
        assert failures[key][0] == stage
        assert words in f"{stage}: {failures[key][1]}"
    found = dict(outcome.images)
    assert found.keys() == {*kind.good, *kind.reads}
    expected = dict(clean[ref.format].images)
    assert all(same(found[key], expected[key]) for key in kind.good)
    for key, shown in kind.reads.items():
        if shown is not None:
            np.testing.assert_array_equal(found[key].image, TRANSFORM.apply(shown))
            assert shown.size in ((found[key].width, found[key].height), (80, 64))


def test_there_are_many_kinds_and_the_page_has_them_all() -> None:
    """If this fails: `python -m tests.hostile.kinds`, and commit."""
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 40
    assert kinds.PAGE.read_text(encoding="utf-8").split(kinds.MARK)[1].strip() == kinds.table().strip()


@pytest.mark.parametrize(("name", "text", "words"), CONFIGS, ids=lambda value: value[:40])
def test_config(name: str, text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_config("job.yaml")
    assert time.process_time() - start < 10
    assert words in str(caught.value)
    assert len(str(caught.value)) < 3000
    assert sorted(tmp_path.iterdir()) == [tmp_path / "job.yaml"]


def test_a_config_that_is_no_file_is_read_no_further_than_its_limit() -> None:
    with pytest.raises(ConfigError, match="longer than"):
        load_config("/dev/zero")


def test_values_of_any_size_are_shown_short() -> None:
    tree: dict[str, Any] = {"input": {"shards": "a.tar"}, "model": {}, "output": {"url": "out"}}
    for value in ("x" * 10**7, [list(range(10**5))] * 10, 16**10_000, {"a": "b" * 10**7}):
        for place in ("saliency", "compute", "x" * 10**6):
            with pytest.raises(ConfigError) as caught:
                parse_config({**tree, place: {"maps": value, "actors_min": value, "y" * 10**6: value}})
            assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "pattern", ["s-{0..999999999}.tar", "{a,b}" * 40 + ".tar", "{0..9}" * 12, "{1..%s}" % ("9" * 5000)]
)
def test_a_range_of_a_billion_shards_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="more than a million"):
        find_shards([pattern])


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


Job = Callable[..., Config]


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".npz", ".safetensors"])
def test_a_checkpoint_with_code_is_refused_and_runs_nothing(suffix: str, tmp_path: Path, job: Job, clip: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / f"model{suffix}"
    contents: list[Callable[[], Any]] = [
        lambda: torch.save({"state_dict": {"x": Code(marker)}}, path),
        lambda: torch.save({"state_dict": {"x": Code(marker)}}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps({"state_dict": Code(marker)})),
    ]
    for write in contents:
        write()
        for backbone, rest in (("timm:test_resnet", {}), (clip, {"head": "none", "classes": ["a"]})):
            for match in ("name", "order"):
                model = {"backbone": backbone, "weights": str(path), "match": match, "image_size": None, **rest}
                with pytest.raises(ConfigError, match=r"model\.weights"):
                    build_classifier(job("a.tar", model=model).model)
        with pytest.raises(ConfigError, match=r"model\.head"):
            build_classifier(job("a.tar", model={"head": str(path)}).model)
    assert not marker.exists()
    Code(marker).__reduce__()[0](marker)
    assert marker.exists(), "the code would have run"


def test_weights_that_hold_nan_are_refused(tmp_path: Path, job: Job) -> None:
    plain = build_classifier(job("a.tar").model)
    state = timm.create_model("test_resnet").state_dict()
    first = next(name for name, value in state.items() if value.is_floating_point())
    state[first][0] = math.nan
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=rf"holds NaN .* in 1 tensors \({first}\)"):
        build_classifier(job("a.tar", model={"weights": str(tmp_path / "model.safetensors")}).model)
    head = torch.zeros(3, plain.embedding_size)
    head[1, 1] = math.nan
    save_file({"weight": head}, tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match="holds NaN"):
        build_classifier(job("a.tar", model={"head": str(tmp_path / "head.safetensors")}).model)


PEAK = """
import resource, sys
from finer_ray.shards import ShardRef
from tests.hostile.through import through
for path, memory in zip(sys.argv[1::2], sys.argv[2::2]):
    line = next(line for line in open("/proc/self/status") if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (int(line.split()[1]) * 1024 + int(memory), resource.RLIM_INFINITY))
    outcome = through(ShardRef(path, "parquet" if path.endswith("parquet") else "webdataset"), 2**28, 10**8)
    print(len(outcome.images), len(outcome.failures), *(message[:90] for *_, message in outcome.failures[:1]))
    del outcome
"""


def test_bombs_stay_within_memory(tmp_path: Path) -> None:
    """In a process that gets no more than 20 bytes for each of 16 million pixels, and some room beside; of Parquet, no
    more than a few values at a time."""
    many = [
        ("wide.png", images.encode(Image.new("I;16", (4000, 4000)), "PNG")),
        ("alpha.png", images.encode(Image.new("RGBA", (4000, 4000)), "PNG")),
        ("float.tif", images.encode(Image.new("F", (4000, 4000)), "TIFF", compression="tiff_lzw")),
        ("webp.webp", images.encode(Image.new("RGB", (4000, 4000)), "WEBP", lossless=True, method=0)),
        ("thin.jpg", images.encode(Image.new("L", (65_000, 1)), "JPEG")),
        ("tile.tif", images.tiled(46_000)),
    ]
    write_tar(tmp_path / "a.tar", [*kinds.good(), *many])
    value = np.random.default_rng(0).bytes(40 * 2**20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 32, pa.int32()), pa.array([value], pa.binary()))
    pq.write_table(
        pa.table({"image": pa.StructArray.from_arrays([column], ["bytes"])}),
        tmp_path / "dictionary.parquet",
        dictionary_pagesize_limit=2**30,
        store_schema=False,
    )
    zeros = pa.table({"image": pa.array([bytes(140 * 2**20)] * 2, pa.large_binary())})
    pq.write_table(zeros, tmp_path / "zeros.parquet", use_dictionary=False, compression="zstd", store_schema=False)
    limits = {"a.tar": 500 * 10**6, "zeros.parquet": 300 * 10**6, "dictionary.parquet": 1000 * 10**6}
    given = [text for name, limit in limits.items() for text in (str(tmp_path / name), str(limit))]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *given], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tar, zeros, dictionary = done.stdout.splitlines()
    assert tar.startswith("9 1 ")
    assert zeros.startswith("0 2 row group 0 cannot be read: ValueError: a decompression bomb")
    assert dictionary.startswith("0 32 ")


def test_a_thin_image_shows_what_resizing_all_of_it_would() -> None:
    """Only the part that the crop shows is resized where all of it would be 67 million pixels."""
    wide = images.plain(size=(6000, 4))
    transform = Transform((224, 224))
    whole = wide.resize(transform.resized(*wide.size), Image.Resampling.BICUBIC)
    left = round((whole.width - 224) / 2)
    expected = np.asarray(whole.crop((left, 0, left + 224, 224)), int)
    assert whole.width * whole.height > 2**26
    found = decode(Sample("k", images.encode(wide, "PNG")), transform, 10**6).image
    assert np.abs(found - expected).max() <= 1


def _made(folder: Path) -> list[tuple[ShardRef, Kind]]:
    """Every kind as a shard; those that are one sample among good ones are put into one shard together."""
    apart = [*kinds.tar_kinds(), *kinds.parquet_kinds(), *kinds.folder_kinds()]
    made = []
    for number, kind in enumerate(apart):
        place = folder / f"{number:03d}"
        place.mkdir(parents=True)
        made.append((kind.make(place), kind))
    members, fails, reads = kinds.good(), {}, {}
    for number, kind in enumerate([*kinds.image_kinds(), *kinds.note_kinds()]):
        with tarfile.open(kind.make(folder).url) as tar:
            bodies = [(info.name, tar.extractfile(info)) for info in tar if info.name.startswith("b.")]
            members += [(f"b{number}{name[1:]}", body.read()) for name, body in bodies if body]
        fails |= {f"b{number}": value for value in kind.fails.values()}
        reads |= {f"b{number}": value for value in kind.reads.values()}
    members += [("far.jpg", photo(9)), ("far.cls", b"5000"), ("../../secret.jpg", photo(30))]
    members += [(f"{folder.parent}/secret.jpg", photo(31))]
    reads |= {"../../secret": None, f"{folder.parent}/secret": None}
    reads["far"] = None
    kind = Kind("all of them", "", lambda _: ref, fails, reads)
    ref = ShardRef(str(write_tar(folder / "a.tar", members)), "webdataset")
    return [*made, (ref, kind)]


def _files(folder: Path) -> dict[Path, int]:
    out = folder / "out"
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if out not in (path, *path.parents)}


def _rows(made: Export, shard: str, keys: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """What an export holds of these images of a shard: lines, without their places, and tensors."""
    by_key = {line["key"]: line for line in made.images.to_pylist() if line["shard"] == shard}
    rows = [by_key[key].pop("row") for key in keys]
    lines = [{name: v for name, v in by_key[key].items() if name not in ("index", "shard", "key")} for key in keys]
    return lines, {name: made.tensors[name].oindex[rows] for name in made.manifest.layout.shapes()}


def test_finite_weights_that_give_nan_are_failures_of_every_image(tmp_path: Path, job: Job) -> None:
    state = timm.create_model("test_resnet").state_dict()
    variance = next(name for name in state if name.endswith("running_var"))
    state[variance] = torch.full_like(state[variance], -1.0)
    save_file(state, tmp_path / "model.safetensors")
    tar = write_tar(tmp_path / "a.tar", kinds.good())
    config = job(str(tar), model={"weights": str(tmp_path / "model.safetensors")}, input={"max_failures": 1.0})
    export(config)
    made = open_export(config.output.url)
    assert made.images.num_rows == 0
    assert made.failures["stage"].to_pylist() == ["model"] * 4
    assert all("not finite" in error for error in made.failures["error"].to_pylist())
    assert verify_export(config.output.url) == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_all_of_them_in_one_job_on_ray(tmp_path: Path, job: Job) -> None:
    """Good samples among them come out as an undisturbed job without Ray has them."""
    shards = _made(tmp_path / "in")
    (tmp_path / "secret.txt").write_text("nobody reads or writes this")
    clean = {"webdataset": kinds.among(), "parquet": kinds.table_of([]), "folder": kinds.image_folder(lambda _: None)}
    alone = {}
    for format, make in clean.items():
        (tmp_path / "clean" / format).mkdir(parents=True)
        alone[format] = make(tmp_path / "clean" / format).url
    limits = {"max_failures": 1.0, "max_image_pixels": MAX_PIXELS, "max_member_bytes": MAX_BYTES}
    units = {"rows_per_unit": 32, "rows_per_chunk": 8}
    # In batches of other sizes, and with other threads, results differ in their last bits.
    one = {"batch_size": 1, "threads_per_actor": 1}
    hostile = job([ref.url for ref, _ in shards], input=limits, output=units, compute={**one, "executor": "ray"})
    tidy = job(list(alone.values()), input=limits, compute=one, output={**units, "url": str(tmp_path / "out" / "tidy")})
    before = _files(tmp_path)
    export(hostile)
    export(tidy)
    made, expected = open_export(hostile.output.url), open_export(tidy.output.url)

    assert _files(tmp_path) == before, "files outside of the export were made or changed"
    assert verify_export(hostile.output.url) == []
    failures = {(f["shard"], f["key"] or ""): f"{f['stage']}: {f['error']}" for f in made.failures.to_pylist()}
    images = {(line["shard"], line["key"]) for line in made.images.to_pylist()}
    assert images == {(ref.url, key) for ref, kind in shards for key in {*kind.good, *kind.reads}}
    named = {(ref.url, key): words for ref, kind in shards for key, (_, words) in kind.fails.items()}
    named |= {(ref.url, ""): kind.problem for ref, kind in shards if kind.problem}
    assert failures.keys() == named.keys()
    assert all(words in failures[place] for place, words in named.items())
    for ref, kind in shards:
        if not (good := kind.good):
            continue
        (lines, tensors), (their, values) = _rows(made, ref.url, good), _rows(expected, alone[ref.format], good)
        assert lines == their, kind.name
        for name, array in tensors.items():
            np.testing.assert_array_equal(array, values[name], err_msg=f"{kind.name}: {name}")


def test_limits_are_on_by_default() -> None:
    tree = {"input": {"shards": "a.tar"}, "model": {"backbone": "timm:test_resnet", "weights": "random"}}
    limits = parse_config({**tree, "output": {"url": "out"}}).input
    assert (limits.max_image_pixels, limits.max_member_bytes) == (10**8, 2**28)
