"""Coverage-guided fuzzing with atheris: `python -m tests.fuzz.fuzz TARGET [-max_total_time=60] [-runs=N] [CORPUS]`.

Targets: tar, parquet, config, notes, image. What a target raises is a finding; what follows its name goes to libFuzzer.
 Inputs worth keeping become cases of tests/hostile/kinds.py or of tests/fuzz/test_fuzz.py.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(
    include=["finer_ray.shards", "finer_ray.images", "finer_ray.config", "yaml", "tarfile", "PIL"]
):
    from finer_ray.config.loading import load_section
    from finer_ray.config.schema import Config
    from finer_ray.errors import ConfigError
    from finer_ray.images.decode import DecodeError, decode
    from finer_ray.images.sample import Sample
    from finer_ray.shards import ShardRef, fields_of, index_shard, list_keys, read_unit
    from finer_ray.shards.annotation import (
        FieldError,
        descend,
        parse_box,
        parse_json,
        parse_label,
        parse_text,
        text_label,
    )
    from tests.hostile.through import TRANSFORM

WORK = Path(tempfile.mkdtemp(prefix="fuzz"))
ROWS_PER_UNIT = 2
LIMIT = 2**16


def shard(data: bytes, format: Any) -> None:
    """Any bytes as a shard: counted, listed and read, it has as many samples each time."""
    path = WORK / "shard"
    path.write_bytes(data)
    ref, fields = ShardRef(str(path), format), fields_of(format)
    index = index_shard(ref, fields, ROWS_PER_UNIT)
    samples = []
    for unit, start in enumerate(index.starts):
        count = min(ROWS_PER_UNIT, index.count - unit * ROWS_PER_UNIT)
        samples += list(read_unit(ref, fields, start, count, LIMIT))
    assert len(samples) == index.count
    if index.count:
        assert [sample.key for sample in samples] == list(list_keys(ref, fields))
    assert all((sample.image is None) == (sample.error is not None) for sample in samples)
    assert len(index.problem or "") <= 1000


def tar(data: bytes) -> None:
    """A tar shard."""
    shard(data, "webdataset")


def parquet(data: bytes) -> None:
    """A Parquet shard."""
    shard(data, "parquet")


def config(data: bytes) -> None:
    """A job's YAML file: a config, or one plain error of bounded length."""
    path = WORK / "job.yaml"
    path.write_bytes(data)
    message = ""
    try:
        load_section(Config, path).fingerprint()
    except ConfigError as error:
        message = str(error)
    assert len(message) < 5000


def notes(data: bytes) -> None:
    """Annotations as JSON or text."""
    for parse in (parse_label, parse_text, lambda name, value: parse_box(name, value, "xywh")):
        with contextlib.suppress(FieldError):
            value = descend("json", parse_json("json", data), ("a",)) or parse_json("json", data)
            found = parse("json", value)
            assert not isinstance(found, str) or found.encode()
    with contextlib.suppress(FieldError):
        text_label("cls", data)


def image(data: bytes) -> None:
    """An encoded image, which is its own mask too."""
    for mask in (None, data):
        with contextlib.suppress(DecodeError):
            assert decode(Sample("k", data, mask=mask), TRANSFORM, 2**18).image.shape == (64, 64, 3)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tar": tar,
    "parquet": parquet,
    "config": config,
    "notes": notes,
    "image": image,
}


def main() -> None:
    """Fuzz one target until libFuzzer stops."""
    name, options = sys.argv[1], sys.argv[2:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
