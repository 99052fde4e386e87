"""Shards of birds: what they hold comes back through the job's own readers."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from birds.rendering import differing_mask
from birds.shards import Picture, pictures, write_birds
from birds.species import ATTRIBUTES, SPECIES, attributes, siblings
from finer_ray.errors import ConfigError, InputError
from finer_ray.models import ClassNames
from finer_ray.models.classes import read_classes
from finer_ray.shards import fields_of, find_shards, index_shard, read_unit

# Drawing takes half a minute, and is no part of the package.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One test picture of each species."""
    place = tmp_path_factory.mktemp("birds")
    write_birds(place, "test", per_class=1, size=112)
    return place


def test_the_jobs_readers_take_it_as_it_is(folder: Path) -> None:
    (ref,) = find_shards([str(folder / "*.tar")])
    fields = fields_of("webdataset", {"text": "json.concept", "contrast_text": "json.base"})
    index = index_shard(ref, fields, 1000)
    assert (index.count, index.problem) == (24, None)
    names = read_classes(str(folder / "classes.json"))
    concepts = read_classes(str(folder / "concepts.json"), "concepts")
    assert names == ClassNames(tuple(species.name for species in SPECIES))
    for place, sample in enumerate(read_unit(ref, fields, 0, 24, 2**20)):
        assert sample.error is None
        assert sample.label == place
        assert sample.key == f"test-{place:06d}"
        assert sample.contrast_text == "bird"
        assert sample.text in attributes(SPECIES[place])
        assert concepts.index(sample.text) == ATTRIBUTES.index(sample.text)
        again = Picture("test", place, 112).render()
        pixels = np.asarray(Image.open(io.BytesIO(sample.image or b"")))
        assert np.abs(pixels.astype(int) - again.image).mean() < 3
        mask = np.asarray(Image.open(io.BytesIO(sample.mask or b"")))
        np.testing.assert_array_equal(mask > 0, again.parts > 0)


def test_differs_is_the_union_over_siblings(folder: Path) -> None:
    for sample in webdataset.WebDataset(str(next(folder.glob("*.tar"))), shardshuffle=False):
        species = SPECIES[json.loads(sample["json"])["label"]]
        parts, differs = (np.asarray(Image.open(io.BytesIO(sample[name]))) for name in ("parts.png", "differs.png"))
        union = np.zeros(parts.shape, dtype=bool)
        for other in siblings(species):
            union |= differing_mask(parts, species, other)
        assert union.any()
        np.testing.assert_array_equal(differs > 0, union)


def test_json_says_what_is_true(folder: Path) -> None:
    by_name = {species.name: species for species in SPECIES}
    table = json.loads((folder / "attributes.json").read_text())
    assert list(table) == list(by_name)
    for sample in webdataset.WebDataset(str(next(folder.glob("*.tar"))), shardshuffle=False):
        note = json.loads(sample["json"])
        species, sibling = by_name[note["name"]], by_name[note["sibling"]]
        assert SPECIES[note["label"]] == species
        assert note["genus"] == species.genus == sibling.genus
        assert note["attributes"] == table[note["name"]] == attributes(species)
        assert set(attributes(species)) - set(attributes(sibling)) == {note["concept"]}
        assert note["concept"].endswith(note["part"])


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """`python -m birds`."""
    command = [sys.executable, "-m", "birds", *words, "--split", "test", "--per-class", "1", "--size", "112"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run(str(tmp_path / "file" / "x"))
    assert done.returncode == 6
    assert done.stderr.startswith("error: cannot read or write ")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_same_command_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "birds-test-0000.tar" in done.stdout
    ours, theirs = (next(place.glob("*.tar")) for place in (folder, tmp_path))
    with tarfile.open(ours) as first, tarfile.open(theirs) as second:
        for one, two in zip(first, second, strict=True):
            assert (one.name, one.mtime) == (two.name, two.mtime)
            assert first.extractfile(one).read() == second.extractfile(two).read()  # type: ignore[union-attr]


def test_splits_share_no_seed_and_faults_are_named(folder: Path) -> None:
    train, test = pictures("train", 50), pictures("test", 50)
    assert not {picture.seed for picture in train} & {picture.seed for picture in test}
    assert np.bincount([picture.label for picture in train]).tolist() == [50] * 24
    with pytest.raises(ConfigError, match=r"--split: 'tst' .*nearest: test"):
        pictures("tst", 1)
    with pytest.raises(InputError, match="holds 1 shards of test already"):
        write_birds(folder, "test", per_class=1)


def test_marks_reach_the_jpeg(tmp_path: Path) -> None:
    from birds.mark import pattern
    from birds.shards import members

    for label in (0, 13):
        picture = Picture("train", label, 224, mark=True)
        body = members(picture, picture.render())["jpg"]
        pixels = np.asarray(Image.open(io.BytesIO(body)))  # type: ignore[arg-type]
        np.testing.assert_array_equal(pixels[3:22:7, 3:22:7, 0] > 128, pattern(label))
