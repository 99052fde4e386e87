"""Every published layout, packed and read back: labels, boxes, masks and the rest, against what trees are made of."""

import io
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finer_ray.datasets.catalogue import choose, list_dataset
from finer_ray.datasets.entry import read_entries
from finer_ray.datasets.listing import Listing, unique_keys
from finer_ray.datasets.phrases import phrases
from finer_ray.datasets.writers import WRITERS
from finer_ray.errors import ConfigError, InputError
from finer_ray.images.decode import decode
from finer_ray.images.sample import Sample
from finer_ray.images.transform import Transform
from finer_ray.shards import Fields, fields_of, find_shards, index_shard, read_unit
from tests.conftest import photo
from tests.datasets import trees
from tests.datasets.trees import png, put

LIMIT = 2**20


@dataclass
class Made:
    """A data set, listed and packed into one shard; samples as the readers' default fields give them."""

    listing: Listing
    path: Path
    samples: dict[str, Sample]
    notes: dict[str, dict[str, Any]]
    found: list[str]

    def at(self, image: str) -> tuple[Sample, dict[str, Any]]:
        """Sample and annotations of the image whose path ends so."""
        (key,) = [key for key, note in self.notes.items() if note["image"].endswith(image)]
        return self.samples[key], self.notes[key]


def make(format: str, root: Path, form: str = "webdataset", label: str | None = None, task: str | None = None) -> Made:
    listing = list_dataset(format, str(root), choose(format, label, task))
    path = root.parent / "made" / f"shard{WRITERS[form].suffix}"
    path.parent.mkdir(exist_ok=True)
    found = [str(finding) for finding in listing.findings]
    with path.open("w+b") as file, WRITERS[form](file) as writer:
        for entry, findings in read_entries(str(root), listing.records):
            found += map(str, findings)
            if entry is not None:
                writer.write(entry)
    (ref,) = find_shards([str(path)])
    index = index_shard(ref, fields_of(ref.format), 1000)
    assert index.problem is None
    samples = list(read_unit(ref, fields_of(ref.format), index.starts[0], index.count, LIMIT))
    assert [sample.error for sample in samples] == [None] * len(samples)
    if form == "webdataset":
        notes = {s["__key__"]: json.loads(s["json"]) for s in webdataset.WebDataset(str(path), shardshuffle=False)}
    else:
        fields = Fields(image="image", key="__key__", text="json")
        rows = read_unit(ref, fields, index.starts[0], index.count, LIMIT)
        notes = {row.key: json.loads(row.text or "") for row in rows}
    assert list(notes) == [sample.key for sample in samples]
    return Made(listing, path, {sample.key: sample for sample in samples}, notes, found)


def pixels(mask: bytes | None) -> Any:
    assert mask is not None
    return np.asarray(Image.open(io.BytesIO(mask)))


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_cub(tmp_path: Path, form: str) -> None:
    made = make("cub", trees.cub(tmp_path / "in"), form)
    assert made.listing.classes == trees.CUB_NAMES
    assert made.found == []
    assert len(made.samples) == 6
    inside = np.zeros((64, 80), bool)
    inside[15:25, 25:45] = True
    for image in range(1, 7):
        sample, note = made.at(trees.cub_path(image))
        assert sample.image == photo(image, trees.SIZE)
        assert sample.label == note["label"] == (image - 1) // 2
        assert note["name"] == trees.CUB_NAMES[(image - 1) // 2]
        assert note["class"] == trees.CUB_CLASSES[(image - 1) // 2]
        assert sample.box == (image, 2.0, image + 30.0, 42.5)
        assert note["split"] == ("train" if image % 2 else "test")
        assert note["parts"] == {"back": [10.5, image], "beak": [20.0, 21.0], "left eye": None}
        assert note["attribute_present"] == [(image + a) % 2 for a in range(1, 5)]
        assert note["attribute_certainty"] == [1, 2, 3, 4]
        np.testing.assert_array_equal(pixels(sample.mask), inside * np.uint8(255))
    spoken = ["curved bill", "bill shorter than head", "red wing", "large bird"]
    assert made.listing.tables["attribute_names.json"] == dict(zip(trees.CUB_ATTRIBUTES, spoken, strict=True))
    assert made.listing.tables["attributes.json"]["Laysan Albatross"] == dict(
        zip(spoken, [0.2, 0.405, 0.0, 1.0], strict=True)
    )
    assert made.listing.tables["certainties.json"] == {1: "not visible", 2: "guessing", 3: "probably", 4: "definitely"}


def test_the_published_segmentation_goes_along(tmp_path: Path) -> None:
    made = make("cub", trees.cub(tmp_path / "in"))
    published = tmp_path / "in/segmentations" / trees.cub_path(2).replace(".jpg", ".png")
    bodies = [s["segmentation.png"] for s in webdataset.WebDataset(str(made.path), shardshuffle=False)]
    assert bodies == [published.read_bytes()] * 6


def test_cub_inside_its_own_folder_with_its_lists_in_disorder(tmp_path: Path) -> None:
    base = trees.cub(tmp_path / "in") / "CUB_200_2011"
    put(base / "attributes/attributes.txt", (tmp_path / "in/attributes.txt").read_text())
    (tmp_path / "in/segmentations").rename(base / "segmentations")
    for name in ("bounding_boxes.txt", "attributes/image_attribute_labels.txt", "train_test_split.txt"):
        lines = (base / name).read_text().splitlines()
        put(base / name, "\n".join(reversed(lines)))
    made = make("cub", base)
    assert made.found == []
    sample, note = made.at(trees.cub_path(4))
    assert sample.box == (4.0, 2.0, 34.0, 42.5)
    assert note["attribute_present"] == [1, 0, 1, 0]
    assert made.at(trees.cub_path(2))[0].mask is not None


def test_cub_with_faults_of_every_kind(tmp_path: Path) -> None:
    root = trees.cub(tmp_path / "in")
    base = root / "CUB_200_2011"
    (base / "images" / trees.cub_path(3)).unlink()
    (root / "segmentations" / trees.cub_path(4).replace(".jpg", ".png")).unlink()
    put(root / "segmentations/extra.png", png(np.ones((64, 80))))
    put(base / "images/extra.jpg", photo(9))
    put(base / "images" / trees.cub_path(5), photo(5, trees.SIZE)[:400])
    lines = (base / "attributes/image_attribute_labels.txt").read_text().splitlines()
    lines[4] = "2 1 1 3 0 1.509"
    lines[5] = "2 2 1 4  7.25"
    lines[6] = "2 3"
    lines[7] = "77 3 1 1 1.5"
    put(base / "attributes/image_attribute_labels.txt", "\n".join(lines))
    put(base / "bounding_boxes.txt", "1 0 0 0 5\n2 5.0 nan 3 3\n4 500.0 1.0 20.0 20.0\n6 1.0 1.0 x 2.0\n")
    with (base / "images.txt").open("a") as file:
        file.write(f"7 ../../outside.jpg\n8 /etc/hostname.jpg\n9 {trees.cub_path(1)}\nnine what\n")
    put(tmp_path / "outside.jpg", photo(1))
    made = make("cub", root)
    assert {note["image_id"] for note in made.notes.values()} == {1, 2, 4, 6}
    assert made.at(trees.cub_path(2))[1]["attribute_present"] == [1, 1, None, None]
    assert made.at(trees.cub_path(2))[1]["attribute_certainty"] == [3, 4, None, None]
    assert {sample.box for sample in made.samples.values()} == {None}
    said = "\n".join(made.found)
    assert "line 6:" not in said
    prefix = "CUB_200_2011/"
    for line in (
        f"missing: {prefix}images/{trees.cub_path(3)}: named in {prefix}images.txt",
        f"surplus: {prefix}images/extra.jpg: no annotation file names it",
        f"refused: {prefix}images/../../outside.jpg: named in {prefix}images.txt; it leads out of",
        f"malformed: {prefix}images.txt: {prefix}images/{trees.cub_path(1)} is listed again as image 9; left out",
        f"malformed: {prefix}images.txt, line 10: expected a number and a name, got 'nine what'",
        f"unreadable: {prefix}images/{trees.cub_path(5)}: OSError",
        f"{prefix}attributes/image_attribute_labels.txt, line 5: 6 fields instead of 5; the first 5 are used",
        f"malformed: {prefix}attributes/image_attribute_labels.txt, line 7: 2 fields, expected 5 numbers; left out",
        f"malformed: {prefix}bounding_boxes.txt, image 1: box: an empty box",
        f"malformed: {prefix}bounding_boxes.txt: 1 lines with a number that is not finite; left out",
        f"malformed: {prefix}bounding_boxes.txt, line 4: 5 fields, expected 5 numbers; left out",
        f"{prefix}attributes/image_attribute_labels.txt: 1 lines of images or attributes not listed; left out",
        f"missing: segmentations/{trees.cub_path(4)[:-4]}.png: named in",
        "surplus: segmentations/extra.png",
        "its box (500.0, 1.0, 520.0, 21.0) lies outside of its 80x64 pixels; left out",
    ):
        assert line in said, (line, said)
    assert "hostname.jpg: named in" in said
    assert "outside" not in "".join(note["image"] for note in made.notes.values())


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    root = trees.cub(tmp_path / "in")
    base = root / "CUB_200_2011"
    inside, outside = base / "images" / trees.cub_path(1), base / "images" / trees.cub_path(2)
    put(tmp_path / "secret.jpg", photo(77))
    outside.unlink()
    outside.symlink_to(tmp_path / "secret.jpg")
    inside.rename(base / "real.jpg")
    inside.symlink_to(base / "real.jpg")
    (base / "images" / trees.CUB_CLASSES[2]).rename(tmp_path / "elsewhere")
    (base / "images" / trees.CUB_CLASSES[2]).symlink_to(tmp_path / "elsewhere")
    made = make("cub", root)
    assert {note["image_id"] for note in made.notes.values()} == {1, 3, 4}
    assert sum(line.startswith("refused") for line in made.found) == 2
    assert sum(line.startswith("missing") for line in made.found) == 3
    (root / "CUB_200_2011/classes.txt").unlink()
    (root / "CUB_200_2011/classes.txt").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"holds no file CUB_200_2011/classes.txt, or it is a link"):
        list_dataset("cub", str(root), choose("cub"))


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_cars(tmp_path: Path, form: str) -> None:
    made = make("cars", trees.cars(tmp_path / "in"), form)
    assert made.found == []
    assert made.listing.classes == trees.CARS
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            sample, note = made.at(f"cars_{split}/{i + 1:05d}.jpg")
            assert sample.label == (i % 2 if split == "train" else 1)
            assert sample.box == (2.0, 3.0, 60.0 + i, 50.0)
            assert (note["split"], note["name"]) == (split, trees.CARS[note["label"]])
            assert sample.image == photo(i + 10 * (split == "test"), trees.SIZE)


def test_cars_without_test_labels_and_in_the_other_release(tmp_path: Path) -> None:
    bare = make("cars", trees.cars(tmp_path / "a" / "in", labelled=False))
    assert bare.at("cars_test/00001.jpg")[0].label is None
    assert bare.at("cars_test/00001.jpg")[0].box == (2.0, 3.0, 60.0, 50.0)
    other = make("cars", trees.cars_in_one(tmp_path / "b" / "in"))
    assert [note["split"] for note in other.notes.values()] == ["train", "train", "test"]
    assert [sample.label for sample in other.samples.values()] == [0, 1, 0]
    assert bare.found == other.found == []
    put(tmp_path / "b/in/cars_annos.mat", b"MATLAB 7.3 MAT-file" + b" " * 200)
    with pytest.raises(InputError, match=r"cars_annos\.mat cannot be read as a Matlab 5 file"):
        list_dataset("cars", str(tmp_path / "b/in"), choose("cars"))


def test_cars_with_one_image_and_foreign_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    trees.savemat_to(root / "devkit/cars_meta.mat", {"class_names": np.array([["Only Car 2012"]], object)})
    entries = [trees.car(0, 9, fname="../../secret.jpg")]
    trees.savemat_to(root / "devkit/cars_train_annos.mat", {"annotations": trees.structs(entries)})
    put(root / "cars_train/00001.jpg", photo(1))
    listing = list_dataset("cars", str(root), choose("cars"))
    assert listing.records == []
    assert [finding.kind for finding in listing.findings] == ["missing", "refused", "surplus"]
    assert listing.classes == ["Only Car 2012"]


@pytest.mark.parametrize(("level", "column"), [("variant", 1), ("family", 2), ("manufacturer", 3)])
def test_aircraft(tmp_path: Path, level: str, column: int) -> None:
    made = make("aircraft", trees.aircraft(tmp_path / "in"), label=level)
    assert made.found == []
    for seed, (name, row) in enumerate(trees.AIRCRAFT.items()):
        sample, note = made.at(f"{name}.jpg")
        assert sample.image == photo(seed, trees.SIZE)
        assert sample.box == (0.0, 10.0, 80.0, 44.0)
        assert (note["split"], note["variant"], note["family"], note["manufacturer"]) == row
        assert note["name"] == row[column] == made.listing.classes[note["label"]]
        assert note["banner_pixels"] == 20
    published = {"variant": ["707-320", "737-300", "F/A-18"], "family": ["Boeing 707", "Boeing 737", "F/A-18"]}
    assert made.listing.classes == published.get(level, ["Boeing", "McDonnell Douglas"])


def test_aircraft_with_faults(tmp_path: Path) -> None:
    root = trees.aircraft(tmp_path / "in")
    data = root / "fgvc-aircraft-2013b/data"
    with (data / "images_variant_train.txt").open("a") as file:
        file.write("9999999 737-300\n../../../up 737-300\n0034309 737-300\n1234567\n")
    with (data / "images_variant_val.txt").open("a") as file:
        file.write("0000001 Concorde\n")
    put(data / "images/0000001.jpg", photo(8))
    put(data / "images/2222222.jpg", photo(8))
    made = make("aircraft", root)
    said = "\n".join(made.found)
    assert "missing: fgvc-aircraft-2013b/data/images/9999999.jpg" in said
    assert "refused: fgvc-aircraft-2013b/data/images/../../../up.jpg" in said
    assert "surplus: fgvc-aircraft-2013b/data/images/2222222.jpg" in said
    assert "images_variant_train.txt, line 5: image 0034309 is listed again" in said
    assert "images_variant_train.txt, line 6: expected an image and a name, got '1234567'" in said
    assert "'Concorde' is not in variants.txt" in said
    assert made.at("0034309.jpg")[1]["variant"] == "707-320"
    assert made.at("0000001.jpg")[0].label is None
    assert made.at("0000001.jpg")[0].box is None


@pytest.mark.parametrize("folder", ["Images/chunk_{}", "Images", "AllImages"])
def test_fishvista(tmp_path: Path, folder: str) -> None:
    made = make("fishvista", trees.fishvista(tmp_path / "in", folder))
    assert made.found == []
    assert made.listing.classes == trees.FISH
    for number, split in {1: "train", 2: "train", 3: "val", 4: "test"}.items():
        sample, note = made.at(f"INHS_FISH_{number}.jpg")
        assert sample.image == photo(number, trees.SIZE)
        assert sample.label == number % 2
        assert note["split"] == split
        assert note["owner"] == "Survey, Illinois"
        assert note["license"] == "CC BY-NC"
        assert (sample.mask is None) == (number != 2)
    assert made.at("INHS_FISH_2.jpg")[1]["segmentation_values"]["1"] == "Head"
    assert made.listing.tables == {}


def test_fishvista_by_task_and_family(tmp_path: Path) -> None:
    root = trees.fishvista(tmp_path / "in")
    traits = make("fishvista", root, task="identification")
    assert {n["image"][-5]: n["split"] for n in traits.notes.values()} == {"5": "train", "6": "test_insp"}
    assert traits.at("INHS_FISH_6.jpg")[1]["traits"] == {"adipose_fin": 1, "pelvic_fin": 1, "barbel": 0}
    strengths = {"adipose fin": 1.0, "pelvic fin": 1.0, "barbel": 0.0}
    assert traits.listing.tables["attributes.json"] == dict.fromkeys(trees.FISH, strengths)
    parts = make("fishvista", root, task="segmentation", label="family")
    assert parts.listing.classes == ["Cyprinidae", "Ictaluridae"]
    assert {n["image"][-5]: n["split"] for n in parts.notes.values()} == {"2": "train", "5": "test"}
    inside = np.zeros((64, 80), bool)
    inside[5:20, 5:30] = inside[30:40, 40:60] = True
    # Image 5's mask has a palette in which only the background has a colour.
    for number in (2, 5):
        np.testing.assert_array_equal(pixels(parts.at(f"INHS_FISH_{number}.jpg")[0].mask) > 0, inside)
    (root / "segmentation_masks/images/INHS_FISH_2.png").unlink()
    assert make("fishvista", root, task="segmentation").found == [
        "missing: segmentation_masks/images/INHS_FISH_2.png: the segmentation of Images/chunk_1/INHS_FISH_2.jpg"
    ]
    for split in ("train", "val", "test"):
        (root / f"segmentation_{split}.csv").unlink()
    whole = make("fishvista", root, task="segmentation")
    assert [note["split"] for note in whole.notes.values()] == [None, None]


def test_fishvista_with_faults(tmp_path: Path) -> None:
    root = trees.fishvista(tmp_path / "in")
    with (root / "classification_train.csv").open("a") as file:
        file.write(trees.fish_row(9) + "short,row\n" + trees.fish_row(11).replace("Images/", "../"))
        file.write(trees.fish_row(1))
    put(root / "Images/chunk_1/stranger.jpg", photo(3))
    put(root / "segmentation_masks/images/INHS_FISH_2.png", png(np.ones((10, 10))))
    made = make("fishvista", root)
    said = "\n".join(made.found)
    assert "missing: Images/chunk_2/INHS_FISH_9.jpg: named in classification_train.csv" in said
    assert "refused: ../chunk_2/INHS_FISH_11.jpg" in said
    assert "malformed: classification_train.csv, line 5: expected 15 fields" in said
    assert "Images/chunk_2/INHS_FISH_1.jpg is listed again" in said
    assert "surplus: Images/chunk_1/stranger.jpg" in said
    assert "the mask has 10x10 pixels, the image 80x64; packed without it" in said
    assert made.at("INHS_FISH_2.jpg")[0].mask is None
    put(root / "classification_test.csv", "file,species\nx.jpg,y\n")
    with pytest.raises(InputError, match=r"classification_test\.csv has no column filename or standardized_species"):
        list_dataset("fishvista", str(root), choose("fishvista"))


@pytest.mark.parametrize("listed", [True, False])
def test_birds525(tmp_path: Path, listed: bool) -> None:
    made = make("birds525", trees.birds525(tmp_path / "in", listed))
    assert len(made.samples) == 8
    for split, count in trees.BIRDS.items():
        for owner, name in enumerate(trees.SPECIES):
            for number in range(1, count + 1):
                sample, note = made.at(f"{split}/{' '.join(name.split())}/{number:03d}.jpg")
                assert sample.image == photo(owner * 10 + number, trees.SIZE)
                assert (sample.label, note["split"]) == (owner, {"valid": "val"}.get(split, split))
                if listed:
                    assert note["scientific_name"] == trees.SPECIES[name]
    assert made.listing.classes == ["ABBOTTS BABBLER", "PARAKETT AUKLET"]
    if listed:
        assert len(made.found) == 4
        assert all("taken for the same" in line for line in made.found)
    else:
        assert made.found == ["missing: birds.csv: labels follow the species' alphabetical order"]


def test_birds525_with_faults(tmp_path: Path) -> None:
    root = trees.birds525(tmp_path / "in")
    with (root / "birds.csv").open("a") as file:
        file.write("0,train/ABBOTTS BABBLER/099.jpg,ABBOTTS BABBLER,train,X\none,train/x.jpg,X,train,X\n")
        file.write("0,../up.jpg,ABBOTTS BABBLER,train,X\n")
    put(root / "test/ABBOTTS BABBLER/surplus.jpg", photo(4))
    kinds: dict[str, list[str]] = {}
    for finding in list_dataset("birds525", str(root), choose("birds525")).findings:
        kinds.setdefault(finding.kind, []).append(finding.where)
    assert kinds["missing"] == ["train/ABBOTTS BABBLER/099.jpg"]
    assert kinds["refused"] == ["../up.jpg"]
    assert kinds["surplus"] == ["test/ABBOTTS BABBLER/surplus.jpg"]
    assert "birds.csv, line 11" in kinds["malformed"]


def misspelt_birds(root: Path, folders: dict[str, dict[str, str]]) -> Path:
    """Birds-525 whose CSV and folders differ: by split, the CSV's name of each species to its folder's."""
    lines = ["class id,filepaths,labels,data set,scientific name"]
    for split, names in folders.items():
        for owner, (listed, there) in enumerate(names.items()):
            for number in (1, 2):
                lines.append(f"{owner}.0,{split}/{listed}/{number:03d}.jpg,{listed},{split},X")
                put(root / split / there / f"{number:03d}.jpg", photo(owner * 10 + number, trees.SIZE))
    put(root / "birds.csv", "\n".join(lines) + "\n")
    return root


def test_birds525_with_a_species_that_the_csv_misspells(tmp_path: Path) -> None:
    same = {"ABBOTTS BABBLER": "ABBOTTS BABBLER"}
    root = misspelt_birds(
        tmp_path / "in",
        {
            "train": {**same, "PARAKETT  AKULET": "PARAKETT  AUKLET"},
            "valid": {**same, "PARAKETT  AKULET": "PARAKETT AUKLET"},
        },
    )
    made = make("birds525", root)
    assert len(made.samples) == 8
    for split, folder in (("train", "PARAKETT  AUKLET"), ("valid", "PARAKETT AUKLET")):
        for number in (1, 2):
            sample, _ = made.at(f"{split}/{folder}/{number:03d}.jpg")
            assert (sample.image, sample.label) == (photo(10 + number, trees.SIZE), 1)
    assert [line.split(", ")[0] for line in made.found] == [
        "malformed: birds.csv: no file lies in train/PARAKETT AKULET",
        "malformed: birds.csv: no file lies in valid/PARAKETT AKULET",
    ]


def test_birds525_joins_no_species_where_more_than_one_may_be_meant(tmp_path: Path) -> None:
    root = misspelt_birds(tmp_path / "in", {"train": {"A": "B", "C": "D", "E": "E"}})
    listing = list_dataset("birds525", str(root), choose("birds525"))
    assert {record.image.split("/")[1] for record in listing.records} == {"E"}
    assert Counter(finding.kind for finding in listing.findings) == {"missing": 4, "surplus": 4}
    other = misspelt_birds(tmp_path / "other", {"train": {"A": "B", "E": "E"}})
    put(other / "train" / "B" / "003.jpg", photo(3))
    assert len(list_dataset("birds525", str(other), choose("birds525")).records) == 2


def test_birds525_takes_the_file_that_the_csv_names_where_another_differs_in_blanks(tmp_path: Path) -> None:
    root = misspelt_birds(tmp_path / "in", {"train": {"A B": "A B"}})
    put(root / "train" / "A  B" / "001.jpg", photo(50))
    listing = list_dataset("birds525", str(root), choose("birds525"))
    assert {record.image for record in listing.records} == {"train/A B/001.jpg", "train/A B/002.jpg"}


def test_image_folders(tmp_path: Path) -> None:
    flat = tmp_path / "a" / "in"
    put(flat / "zebra finch/deep/er/1.JPG", photo(1))
    put(flat / "ant/1.x.png", photo(2, format="PNG"))
    put(flat / "ant/lies.jpg", photo(3, format="WEBP"))
    put(flat / "ant/old.bmp", photo(3, format="BMP"))
    put(flat / "ant/pair.jpg", photo(3, format="MPO"))
    put(flat / "loose.jpg", photo(4))
    put(flat / "ant/.hidden.jpg", photo(5))
    put(flat / "ant/none.jpg", b"no image")
    put(flat / "ant/notes.txt", "x")
    made = make("imagefolder", flat)
    assert made.listing.classes == ["ant", "zebra finch"]
    assert {note["image"]: made.samples[key].label for key, note in made.notes.items()} == {
        "ant/1.x.png": 0,
        "ant/lies.jpg": 0,
        "ant/old.bmp": 0,
        "ant/pair.jpg": 0,
        "zebra finch/deep/er/1.JPG": 1,
    }
    assert {note["split"] for note in made.notes.values()} == {None}
    assert [line.split(":")[0] for line in made.found] == ["surplus", "unreadable"]
    split = tmp_path / "b" / "in"
    for place in ("train/ant/1.jpg", "train/bee/1.jpg", "validation/bee/2.jpg"):
        put(split / place, photo(6))
    made = make("imagefolder", split)
    assert [(note["split"], note["label"]) for note in made.notes.values()] == [("train", 0), ("train", 1), ("val", 1)]
    put(tmp_path / "c/loose.jpg", photo(1))
    with pytest.raises(InputError, match="no folder with images"):
        list_dataset("imagefolder", str(tmp_path / "c"), choose("imagefolder"))


def test_parquet(tmp_path: Path) -> None:
    made = make("parquet", trees.hugging_face(tmp_path / "in"))
    assert made.listing.classes == ["cat", "dog"]
    assert [sample.image for sample in made.samples.values()] == [photo(i) for i in (0, 1, 0, 1, 2, 3, 4)]
    assert [note["label"] for note in made.notes.values()] == [None, 0, 0, 1, 0, 1, 0]
    assert [note["split"] for note in made.notes.values()] == ["test"] * 2 + ["train"] * 5
    assert [note["caption"] for note in made.notes.values()] == [f"no {i}" for i in (0, 1, 0, 1, 2, 3, 4)]


def test_own_parquet_packed_again_is_the_same(tmp_path: Path) -> None:
    first = make("cub", trees.cub(tmp_path / "a" / "in"), "parquet")
    again = make("parquet", first.path, "parquet")
    assert again.found == []
    assert list(again.samples) == list(first.samples)
    for key, sample in first.samples.items():
        assert again.samples[key].image == sample.image
        assert (again.samples[key].label, again.samples[key].box) == (sample.label, sample.box)
        assert (sample.mask is None) == (again.samples[key].mask is None)
        known = {name: value for name, value in first.notes[key].items() if name != "image"}
        assert {name: again.notes[key][name] for name in known} == known
    assert again.listing.classes == trees.CUB_NAMES


def test_parquet_with_faults(tmp_path: Path) -> None:
    root = trees.hugging_face(tmp_path / "in")
    put(root / "broken.parquet", b"PAR1 no")
    listing = list_dataset("parquet", str(root), choose("parquet"))
    assert [finding.kind for finding in listing.findings] == ["unreadable"]
    assert len(listing.records) == 7
    with pytest.raises(InputError, match="--source: there is no"):
        list_dataset("parquet", str(tmp_path / "none.parquet"), choose("parquet"))


def test_masks_that_readers_take(tmp_path: Path) -> None:
    made = make("cub", trees.cub(tmp_path / "in"))
    sample, _ = made.at(trees.cub_path(2))
    region = decode(
        sample,
        Transform(
            size=(64, 80), resize="squash", interpolation="bilinear", crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1)
        ),
        10**6,
    ).region
    assert region is not None
    assert region.sum() == 10 * 20


def test_a_wrong_choice_names_what_is_valid() -> None:
    with pytest.raises(ConfigError, match=r"--format: 'cubs' is none of cub, .*nearest: cub"):
        choose("cubs")
    with pytest.raises(ConfigError, match="--label: 'families' is none of variant, family, manufacturer"):
        choose("aircraft", "families")
    with pytest.raises(ConfigError, match="--task: cub has one list of images only"):
        choose("cub", task="classification")
    with pytest.raises(InputError, match=r"there is no folder .*(nearest: shards)?"):
        list_dataset("cub", "/nowhere/at/all", choose("cub"))


@pytest.mark.parametrize("format", ["cub", "cars", "aircraft", "fishvista", "imagefolder"])
def test_another_layout_is_refused_with_what_was_looked_for(tmp_path: Path, format: str) -> None:
    put(tmp_path / "README", "nothing here")
    with pytest.raises(InputError, match=r"--source: .*" + str(tmp_path)):
        list_dataset(format, str(tmp_path), choose(format))


@settings(deadline=None)
@given(st.lists(st.text(max_size=120), unique=True, max_size=40))
def test_keys_are_safe_and_unique(paths: list[str]) -> None:
    keys = unique_keys(paths)
    assert len(set(keys)) == len(paths)
    for key in keys:
        assert key
        assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        assert len(key) < 180


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "in") + b"/caf\xe9"
    os.makedirs(folder)
    with open(folder + b"/b\xffird.jpg", "wb") as file:
        file.write(photo(1))
    made = make("imagefolder", tmp_path / "in")
    assert list(made.samples) == ["caf_b_ird"]
    assert made.listing.classes == ["caf\\udce9"]


def test_phrases() -> None:
    names = {
        "has_bill_shape::hooked_seabird": "hooked seabird bill",
        "has_upper_tail_color::grey": "grey upper tail",
        "has_tail_shape::forked_tail": "forked tail",
        "has_wing_shape::rounded-wings": "rounded wings",
        "has_bill_length::about_the_same_as_head": "bill about the same as head",
        "has_size::very_small_(3_-_5_in)": "very small bird",
        "has_shape::upright-perching_water-like": "upright-perching water-like bird",
        "has_primary_color::red": "red bird",
        "has_breast_pattern::multi-colored": "multi-colored breast",
        "crest": "crest",
    }
    assert phrases(names) == names
    clash = phrases(["has_size::big_(a)", "has_size::big_(b)"])
    assert len(set(clash.values())) == 2
