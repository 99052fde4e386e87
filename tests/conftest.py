"""Small data sets and models, made on the spot; one S3 server and one Ray cluster for all tests of a process."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import ray
from hypothesis import HealthCheck, settings
from PIL import Image

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.pipeline.cluster import connected

# An example takes as long as the machine's other work makes it take: that is no fault.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

Members = list[tuple[str, bytes]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What kills clusters takes longest: begun last, it would run on while the other process has nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("faults") is None)


def photo(seed: int, size: tuple[int, int] = (80, 64), format: str = "JPEG") -> bytes:
    """A smooth random photo, (width, height), encoded."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def sample(key: str, seed: int, label: int | str | None = None, box: list[float] | None = None) -> Members:
    """A photo with its JSON, as members of a tar."""
    note = {"label": label, "box_xyxy": box}
    return [(f"{key}.jpg", photo(seed)), (f"{key}.json", json.dumps(note).encode())]


def write_tar(path: Path, members: Members) -> Path:
    """A tar archive of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def jobs_in(folder: Path) -> Callable[..., Config]:
    """Makes configs for a tiny random CNN, run in this process; sections are overridden key by key."""

    def make(shards: Any, **sections: dict[str, Any]) -> Config:
        tree: dict[str, Any] = {
            "input": {"shards": shards},
            "model": {"backbone": "timm:test_resnet", "weights": "random", "image_size": 64},
            "output": {"url": str(folder / "out"), "rows_per_unit": 8, "rows_per_chunk": 4},
            "compute": {"executor": "inline"},
        }
        for name, values in sections.items():
            tree[name] = {**tree.get(name, {}), **values}
        return parse_config(tree)

    return make


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Config]:
    """Makes configs whose exports go to the test's own folder."""
    return jobs_in(tmp_path)


CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a tiny random open_clip model."""
    path = tmp_path_factory.mktemp("clip") / "tiny-clip.json"
    path.write_text(json.dumps(CLIP))
    open_clip.add_model_config(path)
    return "open_clip:tiny-clip"


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """An S3 server (`tests.s3.Server`) with the bucket `bucket`, which s3:// leads to; its keys are shared by tests."""
    from tests.s3 import served

    with served() as server:
        yield server


@pytest.fixture(scope="session")
def _cluster() -> Iterator[ExitStack]:
    with ExitStack() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_cluster(_cluster: ExitStack, s3: Any) -> None:
    """Ray on this machine: started for the first module that asks, ended with the last test.

    The server is there before, because Ray's workers inherit its address.
    """
    if not ray.is_initialized():
        _cluster.enter_context(connected())


@pytest.fixture(scope="module")
def no_ray_cluster(_cluster: ExitStack) -> None:
    """No Ray, for a module that starts a cluster of its own; the next that asks for `ray_cluster` gets a new one."""
    _cluster.close()


@pytest.fixture(scope="session")
def demo_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export `demo_export` of 12 small photos, two of them with one key, and one that is none."""
    from tests.store.exports import write_small_export

    return write_small_export(tmp_path_factory.mktemp("demo_like"))
