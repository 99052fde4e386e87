"""Is what traits say true? On drawn birds: pairs of siblings that differ in one known part.

python -m benchmarks.bench_traits [FOLDER]    prints a table, writes benchmarks/bench_traits.json

Each of the 24 pairs of siblings that differ in one part alone is asked what tells its first species from its second; an
answer is right where most of a trait's evidence lies on that part. Pictures are held out: no seed of theirs is in the
training set, nor among those that methods and settings were chosen by (`--tuning`).
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from benchmarks.bench_birds import LAYERS, job, machine
from birds.shards import write_birds
from birds.species import PARTS, SPECIES, differing_parts
from finer_ray.pairs.table import pairs_table
from finer_ray.pipeline.export import export
from finer_ray.store.reading import Export, open_export
from finer_ray.traits import pair_traits
from finer_ray.traits.trait import DEFAULT

PER_CLASS = 20
# Of each species, pictures that come before the held-out ones; settings are chosen on the first of them.
HELD_OUT = 200
FIRST = 3
# Of the model's grid: with all of them stored, all patches can be clustered.
CELLS = 400
# The answers that a method gives, the most important part first.
Answers = Callable[[Export, int, int], list[str]]


def one_part_pairs() -> list[tuple[int, int, str]]:
    """Pairs of siblings that differ in one part alone, and that part."""
    parts = ((a, b, differing_parts(SPECIES[a], SPECIES[b])) for a, b in combinations(range(len(SPECIES)), 2))
    return [(a, b, found[0]) for a, b, found in parts if SPECIES[a].genus == SPECIES[b].genus and len(found) == 1]


def traits(gamma: float = DEFAULT.gamma) -> Answers:
    """The parts of traits, ranked; of finer Grad-CAM's evidence, or of plain Grad-CAM's (gamma 0)."""
    return lambda made, a, b: _parts(pair_traits(made, a, b, gamma=gamma, resamples=0))


def map_traits(name: str) -> Answers:
    """The same of the evidence of a stored map, on images of the first species."""

    def answers(made: Export, a: int, b: int) -> list[str]:
        own = _rows(made, a)

        def evidence(rows: NDArray[np.int64], cells: NDArray[np.int32]) -> NDArray[np.float32]:
            maps = made.maps(rows, name).reshape(len(rows), -1)
            values = np.take_along_axis(maps, np.maximum(cells, 0), axis=1)
            return np.where(np.isin(rows, own)[:, None], values, 0).astype(np.float32)

        return _parts(pair_traits(made, a, b, evidence=evidence, resamples=0))

    return answers


def all_patches(made: Export, a: int, b: int) -> list[str]:
    """Clusters of all patches, each of which weighs the same."""
    return _parts(pair_traits(made, a, b, evidence=lambda rows, cells: np.ones(cells.shape), resamples=0))


def summed(gamma: float | None) -> Answers:
    """Parts by their share of the evidence, with no clusters; of `finer-ray pairs`, or of plain Grad-CAM."""

    def answers(made: Export, a: int, b: int) -> list[str]:
        rows = _rows(made, a)
        maps, parts = made.contrast(rows, 0.0), made.parts(rows)
        sums = np.bincount(parts.ravel(), maps.ravel(), 1 + len(PARTS))[1:]
        return [PARTS[place] for place in np.argsort(-sums, kind="stable")]

    def of_pairs(made: Export, a: int, b: int) -> list[str]:
        for line in pairs_table(made).to_pylist():
            if (line["class"], line["reference"]) == (a, b):
                return [name for name, _ in sorted(line["parts"], key=lambda part: -part[1])]
        return []

    return answers if gamma == 0 else of_pairs


METHODS: dict[str, Answers] = {
    "traits of Finer-Grad-CAM": traits(),
    "traits of Finer-Grad-CAM, gamma 0.6": traits(0.6),
    "traits of Grad-CAM": traits(0.0),
    "traits of Finer-Layer-CAM": map_traits("finer_layercam"),
    "traits of Layer-CAM": map_traits("layercam"),
    "parts by evidence, Finer-Grad-CAM": summed(None),
    "parts by evidence, Grad-CAM": summed(0.0),
}


def _rows(made: Export, label: int) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = made.images.filter(pc.equal(made.images["target"], label))["row"].to_numpy()
    return rows


def _parts(found: Sequence[Any]) -> list[str]:
    return [trait.part for trait in found]


def score(made: Export, answers: Answers) -> dict[str, Any]:
    """How often the differing part is the first answer, and among the first three, with Wilson's intervals."""
    places = {}
    for a, b, part in one_part_pairs():
        given = answers(made, a, b)
        places[f"{SPECIES[a].name} | {SPECIES[b].name}: {part}"] = 1 + given.index(part) if part in given else None
    result: dict[str, Any] = {"pairs": len(places), "place": places}
    for name, most in (("first", 1), ("first three", FIRST)):
        hits = sum(place is not None and place <= most for place in places.values())
        interval = binomtest(hits, len(places)).proportion_ci(method="wilson")
        result[name] = {"count": hits, "low": interval.low, "high": interval.high}
    return result


def exported(folder: Path, layer: str, patches: int | None = None) -> Export:
    """The birds, explained at a CAM layer with the texts of their names as the head."""
    maps = [f"{finer}{cam}" for cam in ("gradcam", "layercam") for finer in ("", "finer_")]
    config = job(
        folder,
        f"traits_{layer}_{patches or 'default'}",
        "held_out/*.tar",
        {"head": "text", "cam_layer": LAYERS[layer]},
        input={"fields": {"parts": "parts.png"}, "part_names": list(PARTS)},
        saliency={"maps": maps},
        output={} if patches is None else {"patches": patches},
        compute={"executor": "inline"},
    )
    export(config)
    return open_export(config.output.url)


def shown(report: dict[str, dict[str, dict[str, Any]]]) -> Table:
    table = Table(title="Pairs of 24 whose differing part is found", title_justify="left")
    for head in ("CAM layer", "method", "first", "first three"):
        table.add_column(head)
    for layer, methods in report.items():
        for method, found in methods.items():
            cells = (found["first"], found["first three"])
            table.add_row(layer, method, *(f"{c['count']} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells))
    return table


def main(
    folder: Annotated[Path | None, typer.Argument(help="For shards and exports; kept.")] = None,
    tuning: Annotated[bool, typer.Option("--tuning", help="The first pictures, to choose settings by.")] = False,
) -> None:
    """Score all methods at both CAM layers."""
    place = (folder or Path(tempfile.mkdtemp())).absolute()
    if not (place / "held_out").exists():
        write_birds(place / "held_out", "test", PER_CLASS, skipped=0 if tuning else HELD_OUT)
    report: dict[str, dict[str, dict[str, Any]]] = {}
    for layer in LAYERS:
        made = exported(place, layer)
        report[layer] = {name: score(made, answers) for name, answers in METHODS.items()}
    report["pooled"]["clusters of all patches"] = score(exported(place, "pooled", CELLS), all_patches)
    Console(width=120).print(shown(report))
    if not tuning:
        written = {**machine(), "per_class": PER_CLASS, "layers": report}
        Path(__file__).with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
