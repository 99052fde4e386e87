"""Neighbours: are they alike in what was asked about, and how long does it take to find them?

python -m benchmarks.bench_similar truth [FOLDER]     drawn birds, whose differing parts are known
python -m benchmarks.bench_similar picture FOLDER PNG some of them
python -m benchmarks.bench_similar time COUNT         made-up vectors of 512 numbers

`truth` and `time` print a table and write their half of benchmarks/bench_similar.json.

Truth: the four species of a genus differ in two parts (reed finches in bill and wing bar). Each held-out bird is
explained against the sibling that differs from it in one of them alone, and once more against that of the other part;
and, as jobs do, against the classes with the closest logits. It asks for its 10 nearest of other species: among its
siblings, of which one has its value of the part and two have not; among all; and among those of other genera. Right is
one that has its value of the part. Of its 10 nearest of all, those of its own species are counted, too. The embedding
and Grad-CAM know nothing of the comparison. Chance is the mean over all that may be found.
"""

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zarr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.bench_birds import LAYERS, job, machine
from benchmarks.bench_query import image_lines
from birds.shards import write_birds
from birds.species import SPECIES, Species, differing_parts, siblings
from finer_ray.metrics.statistics import bootstrap_interval
from finer_ray.pipeline.export import export
from finer_ray.report.overlay import overlay
from finer_ray.report.photos import read_photos
from finer_ray.shards import ShardIndex, ShardRef
from finer_ray.similar import similar_images
from finer_ray.similar.index import open_index
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import Manifest, ShardEntry
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import NAME, create_tensors
from finer_ray.store.vectors import By, read_vectors
from finer_ray.studies.faithfulness_plan import NO_METRICS

PER_CLASS, HELD_OUT, NEIGHBOURS, DRAWN = 20, 200, 10, 5
GAMMAS = (0.6, 1.0)
GENERA = np.array([species.genus for species in SPECIES])
SIZE, CLASSES, ROWS_PER_UNIT, STEP = 512, 1000, 512, 8192
# Searches by an index; and as many of them exactly.
QUERIES, EXACT = 20, 5
SQL = """\
SELECT row, array_cosine_similarity(embedding, (SELECT embedding FROM embeddings WHERE row = ?)) AS similarity
FROM embeddings ORDER BY similarity DESC LIMIT ?"""
app = typer.Typer()


def single_parts(species: Species) -> list[tuple[str, int]]:
    """The two parts in which a genus varies, in order, each with the sibling that differs in it alone."""
    differing = [(differing_parts(species, other), SPECIES.index(other)) for other in siblings(species)]
    return sorted((parts[0], place) for parts, place in differing if len(parts) == 1)


PAIRS = [single_parts(species) for species in SPECIES]
# (2, 24, 24): whether the second species has the first one's value of its first, or second, part.
SAME = np.array(
    [
        [[other.parts[own[which][0]] == species.parts[own[which][0]] for other in SPECIES]
         for species, own in zip(SPECIES, PAIRS, strict=True)]
        for which in (0, 1)
    ]
)  # fmt: skip


def exported(folder: Path, layer: str, gamma: float, which: int | None = None) -> Export:
    """The birds with map embeddings, compared with the closest classes, or by their first or second part."""
    own = {} if which is None else {place: [pair[which][1]] for place, pair in enumerate(PAIRS)}
    config = job(
        folder,
        f"similar_{layer}_{gamma:g}_{'closest' if which is None else f'part_{which}'}",
        "held_out/*.tar",
        {"head": "text", "cam_layer": LAYERS[layer]},
        saliency={"maps": ["finer_gradcam"], "gamma": gamma, **({"selection": {"classes": own}} if own else {})},
        metrics=NO_METRICS,
        output={"map_embedding": True, "patches": 0, "pairs": False},
        compute={"executor": "inline"},
    )
    export(config)
    return open_export(config.output.url)


def galleries(species: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """By name, which images (n, n) each image may find."""
    other, foreign = species[:, None] != species, GENERA[species][:, None] != GENERA[species]
    return {"siblings": other & ~foreign, "other species": other, "other genera": foreign}


def neighbours(vectors: NDArray[Any], gallery: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The nearest of each image (n, 10) among those that the gallery (n, n) allows it."""
    values = vectors.astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    cosines = np.where(gallery, values @ values.T, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]


def truth_of(made: Sequence[Export], by: By) -> dict[str, NDArray[np.float64]]:
    """By gallery, the share of each bird's neighbours that have its value of the part; and of all those of its species.

    Args:
        made: the exports compared by the first and by the second part, over which the share is a mean.
        by: which vectors.
    """
    shares = [_shares(one, by, which) for which, one in enumerate(made)]
    return {name: np.mean([share[name] for share in shares], axis=0) for name in shares[0]}


def _shares(made: Export, by: By, which: int) -> dict[str, NDArray[np.float64]]:
    rows, species = made.images["row"].to_numpy(), made.images["target"].to_numpy().astype(np.int64)
    vectors = read_vectors(made, by, rows)
    found = {name: species[neighbours(vectors, gallery)] for name, gallery in galleries(species).items()}
    shares = {name: SAME[which][species[:, None], others].mean(1) for name, others in found.items()}
    everyone = ~np.eye(len(species), dtype=bool)
    return {**shares, "own species": (species[neighbours(vectors, everyone)] == species[:, None]).mean(1)}


def chance_of(species: NDArray[np.int64]) -> dict[str, float]:
    """What neighbours drawn at random would have."""
    same = SAME[:, species[:, None], species]
    shares = {name: float(same[:, gallery].mean()) for name, gallery in galleries(species).items()}
    return {**shares, "own species": (PER_CLASS - 1) / (len(species) - 1)}


def cell(values: NDArray[np.float64], against: NDArray[np.float64] | None = None) -> dict[str, Any]:
    """A mean with its bootstrap interval, and the paired difference."""
    made: dict[str, Any] = {"mean": float(values.mean()), "interval": bootstrap_interval(values)}
    if against is not None:
        gain = values - against
        made |= {"gain": float(gain.mean()), "gain_interval": bootstrap_interval(gain)}
    return made


@app.command()
def truth(folder: Annotated[Path | None, typer.Argument(help="For shards and exports; kept.")] = None) -> None:
    """Do neighbours share the part that the comparison is about?"""
    place = (folder or Path(tempfile.mkdtemp())).absolute()
    if not (place / "held_out").exists():
        write_birds(place / "held_out", "test", PER_CLASS, skipped=HELD_OUT)
    report: dict[str, Any] = {}
    for layer in LAYERS:
        plain = exported(place, layer, 0.0)
        found = {"embedding": truth_of([plain] * 2, "embedding"), "Grad-CAM": truth_of([plain] * 2, "map")}
        for gamma in GAMMAS:
            closest = exported(place, layer, gamma)
            found[f"gamma {gamma:g}, closest classes"] = truth_of([closest] * 2, "map")
            by_part = [exported(place, layer, gamma, which) for which in (0, 1)]
            found[f"gamma {gamma:g}, one part"] = truth_of(by_part, "map")
        species = plain.images["target"].to_numpy().astype(np.int64)
        report[layer] = {"chance": {gallery: {"mean": value} for gallery, value in chance_of(species).items()}}
        for name, values in found.items():
            against = {} if name == "embedding" else found["embedding"]
            report[layer][name] = {gallery: cell(own, against.get(gallery)) for gallery, own in values.items()}
    _show_truth(report)
    _write("truth", {"birds": len(species), "neighbours": NEIGHBOURS, "layers": report})


@app.command()
def picture(
    folder: Annotated[Path, typer.Argument(help="That of `truth`, with its exports.")],
    to: Annotated[Path, typer.Argument(help="The PNG.")],
    row: Annotated[int, typer.Option(help="Of the bird.")] = 0,
) -> None:
    """A bird, compared by each of its two parts, and its nearest of other species by each vector."""
    plain, *by_part = [exported(folder.absolute(), "pooled", 1.0, which) for which in (None, 0, 1)]
    parts = [part for part, _ in PAIRS[plain.images["target"][row].as_py()]]
    lines: list[tuple[str, Export, By]] = [("by the embedding", plain, "embedding")]
    lines += [(f"by the map: the {part}", made, "map") for part, made in zip(parts, by_part, strict=True)]
    figure = Figure(figsize=(2 * (1 + DRAWN), 2.3 * len(lines)), dpi=90, layout="constrained")
    axes: Any = figure.subplots(len(lines), 1 + DRAWN)
    for (name, made, by), across in zip(lines, axes, strict=True):
        rows, species = made.images["row"].to_numpy(), made.images["target"].to_numpy()
        near = neighbours(read_vectors(made, by, rows), galleries(species)["other species"])[row, :DRAWN]
        shown = rows[[row, *near]].tolist()
        for axis, photo, own in zip(across, read_photos(made, shown), shown, strict=True):
            heat = made.contrast([own], 1.0, size=photo.shape[:2])[0]
            axis.imshow(photo if by == "embedding" else overlay(photo, heat))
            axis.set_axis_off()
        for axis, place in zip(across, [row, *near], strict=True):
            words = SPECIES[species[place]].name
            axis.set_title(f"{name}\n{words}" if place == row else f"\n{words}", fontsize=6.5)
    figure.savefig(to)


def _show_truth(report: dict[str, Any]) -> None:
    table = Table(title=f"Of the {NEIGHBOURS} nearest, those with the bird's value of the part; less the embedding's")
    for head in ("CAM layer", "by", *next(iter(report.values()))["chance"]):
        table.add_column(head)
    for layer, vectors in report.items():
        for name, cells in vectors.items():
            table.add_row(layer, name, *map(_text, cells.values()))
    Console(width=180).print(table)


def _text(found: dict[str, Any]) -> str:
    shown = f"{found['mean']:.3f}"
    if "interval" in found:
        shown += " [{:.3f}, {:.3f}]".format(*found["interval"])
    if "gain" in found:
        shown += f"  {found['gain']:+.3f}" + " [{:+.3f}, {:+.3f}]".format(*found["gain_interval"])
    return shown


def made_up(url: str, count: int) -> Manifest:
    """An export of embeddings alone: 1000 clusters, as wide as they lie apart."""
    folder = Folder(url)
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
    return manifest


def timed(made: Export, indexed: bool) -> dict[str, Any]:
    """Of each way to search: median seconds an image, of images one after the other, and by how many bytes it has let
    this process's memory grow; of an index also what it takes to make, and the share of the exact neighbours that it
    finds."""
    count = made.manifest.rows()
    asked = np.linspace(0, count - ROWS_PER_UNIT, QUERIES).astype(int).tolist()
    exact, found = _searched(partial(similar_images, made, count=NEIGHBOURS), asked[:EXACT])
    report = {"exact": found}
    with connect(made) as connection:
        _, report["DuckDB"] = _searched(
            lambda row: connection.execute(SQL, [row, 1 + NEIGHBOURS]).fetchall(), asked[:EXACT]
        )
    if not indexed:
        return report
    folder = Path(made.folder.path("indexes"))
    _, report["index made"] = _searched(lambda by: open_index(made, by, folder), ["embedding"])
    report["index made"]["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
    near, report["index"] = _searched(partial(similar_images, made, count=NEIGHBOURS, index=folder), asked)
    hits = [len({*a["row"].to_pylist()} & {*b["row"].to_pylist()}) for a, b in zip(exact, near, strict=False)]
    report["index"]["recall"] = sum(hits) / (NEIGHBOURS * len(hits))
    return report


def _searched(search: Callable[[Any], Any], asked: Sequence[Any]) -> tuple[list[Any], dict[str, float]]:
    answers, seconds, before = [], [], _memory()
    for row in asked:
        start = time.perf_counter()
        answers.append(search(row))
        seconds.append(time.perf_counter() - start)
    return answers, {"seconds": statistics.median(seconds), "memory": _memory() - before}


def _memory() -> int:
    """The most that this process has had so far, bytes; on Linux."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@app.command("time")
def times(
    count: Annotated[int, typer.Argument(help="Images.")],
    index: Annotated[bool, typer.Option(help="An index, too, which takes long to make.")] = True,
) -> None:
    """How long does a search take, and how much memory?"""
    with tempfile.TemporaryDirectory() as url:
        # In a process of its own, because its memory is not that of a search.
        with ProcessPoolExecutor(1) as pool:
            manifest = pool.submit(made_up, url, count).result()
        report = timed(Export(Folder(url), manifest), index)
    Console().print(report)
    _write("time", {str(count): report})


def _write(name: str, found: dict[str, Any]) -> None:
    """A half of the JSON; the other stays as it is, and so does what was not measured again."""
    file = Path(__file__).with_suffix(".json")
    known = json.loads(file.read_text()) if file.exists() else {}
    known[name] = {**known.get(name, {}), **found}
    file.write_text(json.dumps({**known, **machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
