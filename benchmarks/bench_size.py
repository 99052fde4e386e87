"""How many bytes does an image take, beside what the method's own script saves of it?

That script (Imageomics/Finer-CAM, generate_cams.py) saves a .npy per image: a pickled dict of four settings, each with
its map, 224 by 224 in float16, and the indices of the classes compared. Here the same four maps of the demo's photos
are drawn from the export's contrast basis and saved in that form, written anew after its description.
"""

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from finer_ray.demo.run_demo import demo_config
from finer_ray.pipeline.export import export
from finer_ray.store.reading import Export, open_export

SIZE = (224, 224)
# The script's four settings: gamma, and which references by position.
SETTINGS: dict[str, tuple[float, list[int]]] = {
    "w1": (0.0, [0, 1, 2]),
    "w1-w2": (1.0, [0]),
    "w1-w3": (1.0, [1]),
    "aggregate": (0.6, [0, 1, 2]),
}


def save_like_the_script(made: Export, folder: Path) -> None:
    """A .npy per image, as the script would save it."""
    rows = made.images["row"].to_pylist()
    drawn = {
        name: made.contrast(rows, gamma, references=chosen, size=SIZE) for name, (gamma, chosen) in SETTINGS.items()
    }
    for position, line in enumerate(made.images.to_pylist()):
        results: dict[str, Any] = {}
        for name, (_, chosen) in SETTINGS.items():
            results[name] = {
                "highres": drawn[name][position][None].astype(np.float16),
                "class_n_idx": line["target"],
                "class_k_idx": [line["references"][place] for place in chosen],
            }
        np.save(folder / f"{line['row']:05d}.npy", np.array(results, dtype=object), allow_pickle=True)


def size_of(place: Path) -> int:
    files = [place] if place.is_file() else place.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def deflated(folder: Path, archive: Path) -> int:
    """The size of a zip of a folder's files."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in folder.iterdir():
            target.write(path, path.name)
    return archive.stat().st_size


def measure(root: Path) -> dict[str, int]:
    """Bytes of all images together, by what they are."""
    out, theirs = root / "out", root / "theirs"
    theirs.mkdir()
    export(demo_config(out))
    made = open_export(str(out))
    save_like_the_script(made, theirs)
    arrays = {name: size_of(out / "saliency.zarr" / name) for name in made.manifest.layout.shapes()}
    tables = {name: sum(size_of(out / file) for file in files) for name, files in made.manifest.tables.items()}
    return {
        "script: 4 maps, 224 x 224, in .npy": size_of(theirs),
        "script's files, zipped": deflated(theirs, root / "theirs.zip"),
        "export, whole": size_of(out),
        "maps (2, 7 x 7)": arrays["maps"] + arrays["maps_scale"],
        "contrast basis (4 maps, 7 x 7): any gamma": arrays["basis"] + arrays["basis_scale"],
        "references": arrays["references"],
        "embedding (1280)": arrays["embedding"],
        "patches (16, 64)": arrays["patches"] + arrays["patch_cells"],
        "images": tables["images"],
        "metrics": tables["metrics"],
        "classes, similarity, failures, manifest, Zarr's metadata": size_of(out)
        - sum(arrays.values())
        - tables["images"]
        - tables["metrics"],
        "count": made.manifest.counts["images"],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    count = found.pop("count")
    table = Table(title=f"bytes per image, {count} photos", title_justify="left")
    table.add_column("")
    table.add_column("bytes", justify="right")
    for name, size in found.items():
        table.add_row(name, f"{size / count:,.0f}")
    Console(width=100).print(table)
    record = {"images": count, "bytes_per_image": {name: round(size / count, 1) for name, size in found.items()}}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
