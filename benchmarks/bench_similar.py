"""Neighbours: are they alike in what matters, and how long does it take to find them?

python -m benchmarks.bench_similar truth [FOLDER]     drawn birds, whose differing parts are known
python -m benchmarks.bench_similar time [COUNT ...]   made-up vectors of 512 numbers

Both print a table and write their half of benchmarks/bench_similar.json.

Truth: each of the held-out birds asks for its 10 nearest. Right is a neighbour that has the same value of a part by
which the bird's species differs from its siblings (of a reed finch: of its bill, and of its wing bar), so each counts
0, 1/2 or 1. Neighbours are looked for among all other species, and among those of other genera alone, which share
neither body plan nor base plumage; chance is the mean over all of these. How many of the 10 nearest of all are of the
bird's own species is counted, too.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.bench_birds import LAYERS, job, machine
from benchmarks.bench_query import image_lines
from birds.shards import write_birds
from birds.species import SPECIES, differing_parts, siblings
from finer_ray.metrics.statistics import bootstrap_interval
from finer_ray.pipeline.export import export
from finer_ray.shards import ShardIndex, ShardRef
from finer_ray.similar import similar_images
from finer_ray.similar.index import open_index
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import Manifest, ShardEntry
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import NAME, create_tensors

PER_CLASS, HELD_OUT, NEIGHBOURS = 20, 200, 10
GAMMAS = (0.0, 0.6, 1.0)
GENERA = np.array([species.genus for species in SPECIES])
# Of each species, the parts by which it differs from a sibling.
OWN_PARTS = [
    sorted({part for other in siblings(species) for part in differing_parts(species, other)}) for species in SPECIES
]
# (24, 24): the share of a species's own parts whose value another species shares.
SHARED = np.array(
    [[np.mean([other.parts[part] == species.parts[part] for part in own]) for other in SPECIES]
     for species, own in zip(SPECIES, OWN_PARTS, strict=True)]
)  # fmt: skip
SIZE, CLASSES, ROWS_PER_UNIT, STEP = 512, 1000, 512, 8192
# Searches by an index; the first of them exactly, too.
QUERIES, EXACT = 20, 5
SQL = f"""\
SELECT row, array_cosine_similarity(embedding, (SELECT embedding FROM embeddings WHERE row = ?)) AS similarity
FROM embeddings ORDER BY similarity DESC LIMIT {1 + NEIGHBOURS}"""
app = typer.Typer()


def exported(folder: Path, layer: str, gamma: float, within: bool) -> Export:
    """The birds with map embeddings at this gamma, compared with the closest classes or with their siblings."""
    taxa = {genus: [species.name for species in SPECIES if species.genus == genus] for genus in {*GENERA}}
    config = job(
        folder,
        f"similar_{layer}_{gamma:g}_{'genus' if within else 'all'}",
        "held_out/*.tar",
        {"head": "text", "cam_layer": LAYERS[layer]},
        saliency={
            "maps": ["finer_gradcam"],
            "gamma": gamma,
            **({"within": {"level": "genus", "taxa": taxa}} if within else {}),
        },
        output={"map_embedding": True},
        compute={"executor": "inline"},
    )
    export(config)
    return open_export(config.output.url)


def neighbours(vectors: NDArray[Any], gallery: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The nearest of each image (n, 10) among those that the gallery (n, n) allows it."""
    values = vectors.astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    cosines = np.where(gallery, values @ values.T, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]


def truth_of(species: NDArray[np.int64], vectors: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """By measure, a value for each bird."""
    other, foreign = species[:, None] != species, GENERA[species][:, None] != GENERA[species]
    found = {
        name: neighbours(vectors, gallery) for name, gallery in (("other species", other), ("other genera", foreign))
    }
    right = {f"part shared, {name}": SHARED[species[:, None], species[rows]].mean(1) for name, rows in found.items()}
    all_others = ~np.eye(len(species), dtype=bool)
    own = species[neighbours(vectors, all_others)] == species[:, None]
    return {**right, "own species": own.mean(1)}


def chance_of(species: NDArray[np.int64]) -> dict[str, float]:
    """What neighbours drawn at random would have."""
    shared = SHARED[species[:, None], species]
    other, foreign = species[:, None] != species, GENERA[species][:, None] != GENERA[species]
    galleries = {"part shared, other species": other, "part shared, other genera": foreign}
    chance = {name: float(shared[gallery].mean()) for name, gallery in galleries.items()}
    return {**chance, "own species": float((PER_CLASS - 1) / (len(species) - 1))}


def cell(values: NDArray[np.float64], against: NDArray[np.float64] | None = None) -> dict[str, Any]:
    """A mean with its bootstrap interval, and the paired difference."""
    made: dict[str, Any] = {"mean": float(values.mean()), "interval": bootstrap_interval(values)}
    if against is not None:
        gain = values - against
        made |= {"gain": float(gain.mean()), "gain_interval": bootstrap_interval(gain)}
    return made


@app.command()
def truth(folder: Annotated[Path | None, typer.Argument(help="For shards and exports; kept.")] = None) -> None:
    """Do neighbours share what tells a species from its siblings?"""
    place = (folder or Path(tempfile.mkdtemp())).absolute()
    if not (place / "held_out").exists():
        write_birds(place / "held_out", "test", PER_CLASS, skipped=HELD_OUT)
    report: dict[str, Any] = {}
    for layer in LAYERS:
        found: dict[str, dict[str, NDArray[np.float64]]] = {}
        for within in (False, True):
            for gamma in GAMMAS:
                made = exported(place, layer, gamma, within)
                rows, species = made.images["row"].to_numpy(), made.images["target"].to_numpy().astype(np.int64)
                found["embedding"] = truth_of(species, made.embedding(rows))
                # Without a comparison it does not matter with what.
                name = "Grad-CAM" if gamma == 0 else f"gamma {gamma:g}, {'siblings' if within else 'closest classes'}"
                found[name] = truth_of(species, made.map_embedding(rows))
        report[layer] = {"chance": {measure: {"mean": value} for measure, value in chance_of(species).items()}}
        for name, values in found.items():
            against = found["embedding"] if name == "Grad-CAM" else found["Grad-CAM"]
            report[layer][name] = {
                measure: cell(own, None if name == "embedding" else against[measure]) for measure, own in values.items()
            }
    _show_truth(report)
    _write("truth", {"birds": len(species), "neighbours": NEIGHBOURS, "layers": report})


def _show_truth(report: dict[str, Any]) -> None:
    table = Table(title="Of the 10 nearest; and Grad-CAM's difference to the embedding, finer maps' to Grad-CAM")
    measures = list(next(iter(report.values()))["chance"])
    for head in ("CAM layer", "by", *measures):
        table.add_column(head)
    for layer, vectors in report.items():
        for name, cells in vectors.items():
            table.add_row(layer, name, *(_text(cells[measure]) for measure in measures))
    Console(width=180).print(table)


def _text(found: dict[str, Any]) -> str:
    shown = f"{found['mean']:.3f}"
    if "interval" in found:
        shown += " [{:.3f}, {:.3f}]".format(*found["interval"])
    if "gain" in found:
        shown += f"  {found['gain']:+.3f}" + " [{:+.3f}, {:+.3f}]".format(*found["gain_interval"])
    return shown


def made_up(folder: Folder, count: int) -> Export:
    """An export of embeddings alone: 1000 clusters, as wide as they lie apart."""
    layout = Layout(
        maps=("gradcam",),
        references=0,
        grid=(1, 1),
        embedding=SIZE,
        basis=False,
        rows_per_unit=ROWS_PER_UNIT,
        rows_per_chunk=32,
    )
    index = ShardIndex(ShardRef("a.tar", "webdataset"), count, "made up", tuple(range(0, count, ROWS_PER_UNIT)))
    shard = ShardEntry(index=index.to_json(), stamp=None, first_unit=0)
    fingerprints = {f"{name}_fingerprint": str(count) for name in ("config", "model", "head")}
    manifest = Manifest(
        status="complete",
        **fingerprints,
        config={},
        classes=[],
        transform={},
        layout=layout,
        shards=[shard],
        tables={"images": ["images.parquet"]},
        counts={},
        versions={},
    )
    create_tensors(folder, layout, manifest.rows())
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLASSES, SIZE), np.float32)
    array: Any = zarr.open_group(f"{folder.url}/{NAME}", mode="r+")["embedding"]
    for first in range(0, count, STEP):
        rows = min(STEP, count - first)
        noise = random.standard_normal((rows, SIZE), np.float32)
        array[first : first + rows] = centres[random.integers(0, CLASSES, rows)] + noise
    folder.write_table("images.parquet", image_lines(np.arange(count), np.zeros(count, np.int32), random))
    return Export(folder, manifest)


def timed(made: Export, indexed: bool) -> dict[str, Any]:
    """Seconds of a search in several ways, one image after the other; what an index finds of the exact ones."""
    count = made.manifest.rows()
    asked = np.linspace(0, count - ROWS_PER_UNIT, QUERIES).astype(int).tolist()
    found: dict[str, Any] = {"exact": [], "DuckDB": [], "index": []}
    exact = [_clocked(found["exact"], lambda: similar_images(made, row, NEIGHBOURS)) for row in asked[:EXACT]]
    with connect(made) as connection:
        for row in asked[:EXACT]:
            _clocked(found["DuckDB"], lambda: connection.execute(SQL, [row]).fetchall())
    if indexed:
        folder = Path(made.folder.path("indexes"))
        start = time.perf_counter()
        open_index(made, "embedding", folder)
        found["index made"] = time.perf_counter() - start
        found["index bytes"] = sum(path.stat().st_size for path in folder.iterdir())
        near = [_clocked(found["index"], lambda: similar_images(made, row, NEIGHBOURS, index=folder)) for row in asked]
        hits = [len({*a["row"].to_pylist()} & {*b["row"].to_pylist()}) for a, b in zip(exact, near, strict=False)]
        found["recall"] = sum(hits) / (NEIGHBOURS * len(hits))
    return {
        name: statistics.median(value) if isinstance(value, list) else value for name, value in found.items() if value
    }


def _clocked(seconds: list[float], run: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    answer = run()
    seconds.append(time.perf_counter() - start)
    return answer


@app.command("time")
def times(
    counts: Annotated[list[int], typer.Argument(help="Images.")],
    index: Annotated[bool, typer.Option(help="An index, too, which takes long to make.")] = True,
) -> None:
    """How long does a search take?"""
    report = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            report[str(count)] = timed(made_up(Folder(folder), count), index)
        Console().print(count, report[str(count)])
    _write("time", report)


def _write(name: str, found: dict[str, Any]) -> None:
    """A half of the JSON; the other stays as it is, and so do counts that were not measured again."""
    file = Path(__file__).with_suffix(".json")
    known = json.loads(file.read_text()) if file.exists() else {}
    known[name] = {**known.get(name, {}), **found}
    file.write_text(json.dumps({**known, **machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
