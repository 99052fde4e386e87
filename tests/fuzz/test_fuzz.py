"""Fuzzing: structured, with hypothesis, and guided by coverage, with atheris."""

import importlib.util
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finer_ray.config.loading import load_config, parse_config
from finer_ray.config.schema import Config
from finer_ray.config.yaml_text import read_yaml
from finer_ray.errors import ConfigError
from finer_ray.images.decode import DecodeError, decode
from finer_ray.images.sample import Sample
from finer_ray.shards import ShardRef, fields_of, index_shard, list_keys, read_unit
from tests.fuzz import seeds
from tests.hostile.kinds import BASE
from tests.hostile.through import TRANSFORM

pytestmark = pytest.mark.faults
TARGETS = ("tar", "parquet", "config", "notes", "image")
FILES = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def agrees(path: Path, content: bytes, format: Any) -> list[Sample]:
    """The samples of these bytes as a shard: as many as were counted, with the keys that were listed."""
    path.write_bytes(content)
    ref, fields = ShardRef(str(path), format), fields_of(format)
    index = index_shard(ref, fields, 2)
    samples = []
    for unit, start in enumerate(index.starts):
        samples += list(read_unit(ref, fields, start, min(2, index.count - 2 * unit), 2**16))
    assert len(samples) == index.count
    if index.count:
        assert [sample.key for sample in samples] == list(list_keys(ref, fields))
    for sample in samples:
        assert (sample.image is None) == (sample.error is not None)
        assert len(sample.error or "") <= 1000
        sample.key.encode()
    return samples


NAMES = st.one_of(
    st.sampled_from(
        ["a.jpg", "a.json", "a.cls", "a.mask.png", "b/a.png", ".hidden.jpg", "../x.jpg", "/a.jpg", "a", ".", ""]
    ),
    st.text(max_size=300),
)
BODIES = st.one_of(st.binary(max_size=700), st.sampled_from([seeds.small(), b'{"label": 1}', b"3", b"{", b""]))
HEADER_TYPES = st.sampled_from([bytes([kind]) for kind in b"0012345679xgLKSVAD\0"])


@st.composite
def header(draw: st.DrawFn) -> bytes:
    """A member: its header may lie of its size, kind and name, and its body be an extension header's records."""
    info = tarfile.TarInfo(draw(NAMES).replace("\0", ""))
    body = draw(BODIES)
    info.size = len(body)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogatepass")[-512:])
    block[156:157] = draw(st.one_of(st.just(b"0"), HEADER_TYPES))
    if block[156:157] in (b"x", b"g"):
        body = draw(st.one_of(records(), BODIES))
        block[124:136] = b"%011o\0" % len(body)
    if draw(st.integers(0, 9)) == 0:
        block[124:136] = draw(st.binary(min_size=12, max_size=12))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body + bytes(-len(body) % 512)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Pax records, with lengths that may lie."""
    found = b""
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(["path", "size", "mtime", "GNU.sparse.major", "linkpath", "é"]))
        value = draw(st.one_of(NAMES, st.integers(-5, 10**25).map(str)))
        record = f" {name}={value}\n".encode("utf-8", "surrogatepass")
        length = len(record) + len(str(len(record) + 2))
        found += str(length + draw(st.sampled_from([0, 0, 0, 1, -1, 10**6]))).encode() + record
    return found


@FILES
@given(members=st.lists(header(), max_size=6), end=st.sampled_from([bytes(1024), bytes(512), b"", b"\0" * 700 + b"x"]))
def test_any_members_of_a_tar(tmp_path: Path, members: list[bytes], end: bytes) -> None:
    agrees(tmp_path / "a.tar", b"".join(members) + end, "webdataset")


@st.composite
def mutated(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """One of these, with bytes changed, numbers put in, pieces left out, doubled or exchanged."""
    content = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, len(content))), draw(st.integers(1, 64))
        change = draw(st.sampled_from(["bytes", "number", "delete", "double", "cut"]))
        if change == "bytes":
            content[place : place + length] = draw(st.binary(min_size=1, max_size=length))
        elif change == "number":
            form = draw(st.sampled_from(["<I", ">I", "<Q", ">H"]))
            number = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63]))
            content[place : place + struct.calcsize(form)] = struct.pack(
                form, number % 2 ** (8 * struct.calcsize(form))
            )
        elif change == "delete":
            del content[place : place + length]
        elif change == "double":
            content[place:place] = content[place : place + length]
        else:
            del content[place:]
    return bytes(content)


@FILES
@given(content=mutated(seeds.tars()))
def test_a_mutated_tar(tmp_path: Path, content: bytes) -> None:
    agrees(tmp_path / "a.tar", content, "webdataset")


@FILES
@given(content=mutated(seeds.parquets()))
def test_a_mutated_parquet(tmp_path: Path, content: bytes) -> None:
    agrees(tmp_path / "a.parquet", content, "parquet")


@pytest.mark.parametrize("case", sorted((Path(__file__).parent / "cases").iterdir()), ids=lambda case: case.name)
def test_what_fuzzing_found(tmp_path: Path, case: Path) -> None:
    """statistics.parquet: asked for the sizes of a column, Arrow ended the process."""
    assert agrees(tmp_path / case.name, case.read_bytes(), "parquet")


@settings(max_examples=250, deadline=None)
@given(content=mutated(seeds.pictures()), as_mask=st.booleans())
def test_a_mutated_image(content: bytes, as_mask: bool) -> None:
    sample = Sample("k", seeds.small() if as_mask else content, mask=content if as_mask else None)
    try:
        decoded = decode(sample, TRANSFORM, 2**16)
    except DecodeError as error:
        assert error.stage in ("decode", "region") and len(error.message) <= 1000  # noqa: PT017, PT018
    else:
        assert decoded.image.shape == (64, 64, 3)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["auto", "predicted", "a.tar"]),
)
KEYS = st.one_of(st.sampled_from(sorted(Config.model_json_schema()["$defs"])), st.text(max_size=10), st.integers())
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


def _fields() -> list[tuple[str, str]]:
    return [(name, key) for name, part in Config.model_fields.items() for key in _model(part.annotation).model_fields]


def _model(annotation: Any) -> Any:
    return annotation if hasattr(annotation, "model_fields") else get_args(annotation)[0]


@TEXTS
@given(changes=st.lists(st.tuples(st.sampled_from(_fields()), TREES), min_size=1, max_size=4))
def test_any_values_in_a_config(changes: list[tuple[tuple[str, str], Any]]) -> None:
    tree: dict[str, Any] = yaml.safe_load(BASE)
    for (section, key), value in changes:
        tree.setdefault(section, {})[key] = value
    try:
        config = parse_config(tree)
    except ConfigError as error:
        assert len(str(error)) < 5000  # noqa: PT017
    else:
        assert parse_config(config.model_dump(mode="json")).fingerprint() == config.fingerprint()


@TEXTS
@given(
    text=st.one_of(
        st.text(max_size=100),
        TREES.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)),
        st.text(alphabet="ab:&*<-[]{}!|>'\"?%@,#~ \n0.x_", max_size=60),
        mutated([BASE.encode()]).map(lambda content: content.decode("utf-8", "replace")),
    )
)
def test_any_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8", errors="replace")
    try:
        load_config(tmp_path / "job.yaml")
    except ConfigError as error:
        assert len(str(error)) < 5000  # noqa: PT017


@TEXTS
@given(tree=TREES.filter(lambda tree: tree == tree))
def test_yaml_within_limits_is_read_as_pyyaml_does(tree: Any) -> None:
    text = yaml.safe_dump(tree)
    try:
        found = read_yaml(text)
    except ValueError as error:
        assert "64 bits" in str(error)  # noqa: PT017
    else:
        assert repr(found) == repr(yaml.safe_load(text))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has wheels for Linux on x86-64 alone")
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_for_a_while(target: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.fuzz",
        target,
        "-max_total_time=2",
        "-timeout=20",
        "-rss_limit_mb=3000",
    ]
    corpus = seeds.written(target, tmp_path / "corpus")
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(corpus)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
