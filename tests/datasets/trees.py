"""Small data sets in exactly the published layouts, with real images; what each holds is written out here."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from tests.conftest import photo

SIZE = (80, 64)

CUB_CLASSES = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
CUB_NAMES = ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"]
CUB_ATTRIBUTES = [
    "has_bill_shape::curved_(up_or_down)",
    "has_bill_length::shorter_than_head",
    "has_wing_color::red",
    "has_size::large_(16_-_32_in)",
]
CUB_PARTS = ["back", "beak", "left eye"]


def put(path: Path, content: bytes | str) -> None:
    """Write a file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def png(pixels: Any, mode: str | None = None) -> bytes:
    """A PNG of an array."""
    image = Image.fromarray(np.asarray(pixels, np.uint8), mode)
    if mode == "P":
        image.putpalette([200, 0, 0] + [0, 0, 0] * 255)
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def cub_path(image: int) -> str:
    """Two images of each class, as CUB names them."""
    folder = CUB_CLASSES[(image - 1) // 2]
    return f"{folder}/{folder[4:]}_{image:04d}_{image * 111}.jpg"


def cub(root: Path) -> Path:
    """Six images of three classes; images 1, 3 and 5 are for training; segmentations count votes in fifths."""
    base = root / "CUB_200_2011"
    ids = range(1, 7)
    for image in ids:
        put(base / "images" / cub_path(image), photo(image, SIZE))
    put(base / "images.txt", "".join(f"{i} {cub_path(i)}\n" for i in ids))
    put(base / "classes.txt", "".join(f"{i} {name}\n" for i, name in enumerate(CUB_CLASSES, 1)))
    put(base / "image_class_labels.txt", "".join(f"{i} {(i + 1) // 2}\n" for i in ids))
    put(base / "train_test_split.txt", "".join(f"{i} {i % 2}\n" for i in ids))
    put(base / "bounding_boxes.txt", "".join(f"{i} {i}.0 2.0 30.0 40.5\n" for i in ids))
    put(base / "parts/parts.txt", "".join(f"{i} {name}\n" for i, name in enumerate(CUB_PARTS, 1)))
    locations = "".join(f"{i} 1 10.5 {i}.0 1\n{i} 2 20.0 21.0 1\n{i} 3 0.0 0.0 0\n" for i in ids)
    put(base / "parts/part_locs.txt", locations)
    put(root / "attributes.txt", "".join(f"{i} {name}\n" for i, name in enumerate(CUB_ATTRIBUTES, 1)))
    put(base / "attributes/certainties.txt", "1 not visible\n2 guessing\n3 probably\n4 definitely\n")
    votes = "".join(f"{i} {a} {(i + a) % 2} {a} {i}.25\n" for i in ids for a in range(1, 5))
    put(base / "attributes/image_attribute_labels.txt", votes)
    shares = "".join(f"{c * 10}.0 {c * 20}.5 0.0 100\n" for c in range(1, 4))
    put(base / "attributes/class_attribute_labels_continuous.txt", shares)
    votes_png = np.zeros((64, 80))
    votes_png[10:30, 20:50] = 102
    votes_png[15:25, 25:45] = 153
    for image in ids:
        put(root / "segmentations" / cub_path(image).replace(".jpg", ".png"), png(votes_png))
    return root


CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]


def structs(entries: list[dict[str, Any]]) -> Any:
    """A Matlab struct array."""
    made = np.zeros((1, len(entries)), [(name, object) for name in entries[0]])
    for place, entry in enumerate(entries):
        made[0, place] = tuple(entry.values())
    return made


def car(place: int, number: int, **more: Any) -> dict[str, Any]:
    """A struct's fields in the devkit's order."""
    box = {"bbox_x1": 3, "bbox_y1": 4, "bbox_x2": 60 + place, "bbox_y2": 50}
    return {name: np.uint16(value) for name, value in box.items()} | {"class": np.uint8(number)} | more


def cars(root: Path, labelled: bool = True) -> Path:
    """Three images to train, two to test."""
    names = np.array([CARS], object)
    savemat_to(root / "devkit/cars_meta.mat", {"class_names": names})
    train = [car(i, 1 + i % 2, fname=f"{i + 1:05d}.jpg") for i in range(3)]
    test = [car(i, 2, fname=f"{i + 1:05d}.jpg") for i in range(2)]
    savemat_to(root / "devkit/cars_train_annos.mat", {"annotations": structs(train)})
    bare = [{name: value for name, value in entry.items() if name != "class"} for entry in test]
    savemat_to(root / "devkit/cars_test_annos.mat", {"annotations": structs(bare)})
    if labelled:
        savemat_to(root / "cars_test_annos_withlabels.mat", {"annotations": structs(test)})
    for i in range(3):
        put(root / f"cars_train/{i + 1:05d}.jpg", photo(i, SIZE))
    for i in range(2):
        put(root / f"cars_test/{i + 1:05d}.jpg", photo(10 + i, SIZE))
    return root


def cars_in_one(root: Path) -> Path:
    """The other release: car_ims/ and cars_annos.mat."""
    entries = [
        {"relative_im_path": f"car_ims/{i + 1:06d}.jpg", **car(i, 1 + i % 2), "test": np.uint8(i == 2)}
        for i in range(3)
    ]
    content = {"annotations": structs(entries), "class_names": np.array([CARS], object)}
    savemat_to(root / "cars_annos.mat", content)
    for i in range(3):
        put(root / f"car_ims/{i + 1:06d}.jpg", photo(i, SIZE))
    return root


def savemat_to(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, format="5")


AIRCRAFT = {
    "0034309": ("train", "707-320", "Boeing 707", "Boeing"),
    "0034958": ("train", "F/A-18", "F/A-18", "McDonnell Douglas"),
    "1187707": ("val", "737-300", "Boeing 737", "Boeing"),
    "1514522": ("test", "707-320", "Boeing 707", "Boeing"),
}


def aircraft(root: Path) -> Path:
    """Four images over three splits."""
    data = root / "fgvc-aircraft-2013b/data"
    for place, level in enumerate(("variant", "family", "manufacturer"), 1):
        for split in ("train", "val", "test"):
            lines = [f"{name} {row[place]}\n" for name, row in AIRCRAFT.items() if row[0] == split]
            put(data / f"images_{level}_{split}.txt", "".join(lines))
        both = [f"{name} {row[place]}\n" for name, row in AIRCRAFT.items() if row[0] != "test"]
        put(data / f"images_{level}_trainval.txt", "".join(both))
    put(data / "variants.txt", "707-320\n737-300\nF/A-18\n")
    put(data / "families.txt", "Boeing 707\nBoeing 737\nF/A-18\n")
    put(data / "manufacturers.txt", "Boeing\nMcDonnell Douglas\n")
    put(data / "images_box.txt", "".join(f"{name} 1 11 80 44\n" for name in AIRCRAFT))
    for seed, name in enumerate(AIRCRAFT):
        put(data / f"images/{name}.jpg", photo(seed, SIZE))
    return root


FISH = ["notropis atherinoides", "noturus nocturnus"]
FISH_COLUMNS = (
    "filename,source_filename,original_format,arkid,family,source,owner,standardized_species,original_url,file_name,"
    "license,adipose_fin,pelvic_fin,barbel,multiple_dorsal_fin"
)


def fish_row(number: int, traits: str = ",,,") -> str:
    """A line of a CSV; the owner has a comma in it."""
    name, kind = f"INHS_FISH_{number}.jpg", number % 2
    family = ("Cyprinidae", "Ictaluridae")[kind]
    return (
        f'{name},src_{number}.jpg,jpg,ark-{number},{family},GLIN,"Survey, Illinois",{FISH[kind]},'
        f"https://example.org/{number},Images/chunk_{kind + 1}/{name},CC BY-NC,{traits}\n"
    )


def fishvista(root: Path, folder: str = "Images/chunk_{}") -> Path:
    """Images 1 to 6: 1 to 4 in classification, 5 and 6 in identification, 2 and 5 segmented."""
    for task, splits in {
        "classification": {"train": [1, 2], "val": [3], "test": [4]},
        "identification": {"train": [5], "val": [], "test_insp": [6], "test_lvsp": []},
        "segmentation": {"train": [2], "val": [], "test": [5], "data": [2, 5]},
    }.items():
        for split, numbers in splits.items():
            traits = "1,1,0,-1" if task == "identification" else ",,,"
            lines = "".join(fish_row(number, traits) for number in numbers)
            put(root / f"{task}_{split}.csv", f"{FISH_COLUMNS}\n{lines}")
    for number in range(1, 7):
        put(root / folder.format(number % 2 + 1) / f"INHS_FISH_{number}.jpg", photo(number, SIZE))
    traits = np.zeros((64, 80))
    traits[5:20, 5:30] = 1
    traits[30:40, 40:60] = 4
    put(root / "segmentation_masks/images/INHS_FISH_2.png", png(traits))
    put(root / "segmentation_masks/images/INHS_FISH_5.png", png(traits, "P"))
    put(root / "segmentation_masks/annotations/whatever.json", "{}")
    names = {"0": "Background", "1": "Head", "4": "Pectoral fin"}
    put(root / "segmentation_masks/seg_id_trait_map.json", json.dumps(names))
    return root


BIRDS = {"train": 2, "valid": 1, "test": 1}
SPECIES = {"ABBOTTS BABBLER": "MALACOCINCLA ABBOTTI", "PARAKETT  AUKLET": "AETHIA PSITTACULA"}


def birds525(root: Path, listed: bool = True) -> Path:
    """Two species; the CSV writes one of them with two blanks, its folder with one."""
    lines = ["class id,filepaths,labels,data set,scientific name\n"]
    for split, count in BIRDS.items():
        for owner, (name, latin) in enumerate(SPECIES.items()):
            for number in range(1, count + 1):
                lines.append(f"{owner}.0,{split}/{name}/{number:03d}.jpg,{name},{split},{latin}\n")
                folder = " ".join(name.split())
                put(root / split / folder / f"{number:03d}.jpg", photo(owner * 10 + number, SIZE))
    if listed:
        put(root / "birds.csv", "".join(lines))
    return root


def hugging_face(root: Path) -> Path:
    """Two files as Hugging Face writes them, with class names in their metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            pa.field("label", pa.int64()),
            pa.field("caption", pa.string()),
        ],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    root.mkdir(parents=True, exist_ok=True)
    for split, count in {"train": 5, "test": 2}.items():
        rows = [
            {"image": {"bytes": photo(i), "path": f"{i}.jpg"}, "label": i % 2 - (split == "test"), "caption": f"no {i}"}
            for i in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema), root / f"{split}-00000-of-00001.parquet", row_group_size=2)
    return root
