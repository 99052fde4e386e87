"""The table of pairs against sums by hand, in float64, on exports of all kinds."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from finer_ray.config.schema import Config
from finer_ray.models import build_classifier
from finer_ray.pairs import table
from finer_ray.pairs.table import NAME, news, pairs_table
from finer_ray.pipeline.export import export
from finer_ray.store import derived
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tables import PAIRS
from tests.conftest import jobs_in, write_tar
from tests.pipeline.exports import many
from tests.pipeline.test_native import mixed
from tests.report.site.exports import make

Job = Callable[..., Config]


def by_hand(made: Export) -> list[dict[str, Any]]:
    """The table but for its cosines, image by image."""
    gamma, layout, names = made.manifest.config["saliency"]["gamma"], made.manifest.layout, made.manifest.classes
    lines = made.images.sort_by("row").to_pylist()
    labels = {line["label"] for line in lines}
    found: dict[tuple[int, int], list[tuple[int, float, Any]]] = {}
    for line in lines:
        row = line["row"]
        for place, reference in enumerate(line["references"]):
            if reference < 0:
                continue
            cells = None
            if layout.basis:
                where = (row, 0) if layout.targets > 1 else (row,)
                maps = made.tensors["basis"][where].astype(np.float64) * float(made.tensors["basis_scale"][where])
                cells = maps[0] - gamma * maps[1 + place]
            gap = line["logit"] - line["reference_logits"][place]
            found.setdefault((line["target"], reference), []).append((row, gap, cells))

    def taken(label: int, predicted: int) -> int | None:
        several = sum(line["label"] == label and line["predicted"] == predicted for line in lines)
        return several if label in labels else None

    result = []
    for (a, b), images in sorted(found.items()):
        positive = {row: np.nansum(np.where(cells > 0, cells, 0)) for row, _, cells in images if cells is not None}
        ranked = sorted(positive, key=lambda row: (-positive[row], row))
        result.append(
            {
                "class": a,
                "name": names[a],
                "reference": b,
                "reference_name": names[b],
                "images": len(images),
                "confused": taken(a, b),
                "confused_back": taken(b, a),
                "logit_gap": pytest.approx(np.mean([gap for _, gap, _ in images]), rel=1e-12, abs=1e-12),
                "evidence": pytest.approx(np.mean([np.nansum(cells) for _, _, cells in images]), rel=1e-9, abs=1e-12)
                if positive
                else None,
                "evidence_positive": pytest.approx(np.mean([*positive.values()]), rel=1e-12) if positive else None,
                "parts": None,
                "part_cells": None,
                "most": ranked[:3] or None,
                "least": sorted(positive, key=lambda row: (positive[row], row))[:3] or None,
            }
        )
    return result


def without_cosines(found: pa.Table) -> list[dict[str, Any]]:
    assert found.schema.remove_metadata() == PAIRS
    lines: list[dict[str, Any]] = found.drop_columns("cosine").to_pylist()
    return lines


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Export]:
    """A job that compares each image's label with what the model takes it for, and two classes more."""
    folder = tmp_path_factory.mktemp("labelled")
    tar = write_tar(folder / "a.tar", [*many(40), ("bad.jpg", b"no photo")])
    weight = torch.randn((7, 96), generator=torch.Generator().manual_seed(1)) / 4
    torch.save({"weight": weight}, folder / "head.pt")
    config = jobs_in(folder)(
        str(tar),
        model={"head": str(folder / "head.pt"), "classes": [*"abcdefg"]},
        saliency={"target": "label", "selection": "top"},
    )
    assert export(config).notes == []
    return config, open_export(config.output.url)


def test_a_real_export(labelled: tuple[Config, Export]) -> None:
    config, made = labelled
    found = derived.read(made, NAME)
    expected = by_hand(made)
    assert without_cosines(found) == expected
    assert len(expected) > 14
    assert {line["images"] for line in expected} != {1}
    assert any(line["confused"] for line in expected)
    weight = build_classifier(config.model).class_weights().double()
    for line in found.to_pylist():
        cosine = functional.cosine_similarity(weight[line["class"]], weight[line["reference"]], dim=0)
        assert line["cosine"] == pytest.approx(float(cosine), abs=1e-6)


def test_batches_do_not_matter(labelled: tuple[Config, Export], monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = labelled
    done: list[int] = []
    monkeypatch.setattr(table, "NUMBERS_AT_A_TIME", 3 * 4 * np.prod(made.manifest.layout.grid))
    found = pairs_table(made, watch=done.append)
    assert found.equals(derived.read(made, NAME))
    assert sum(done) == made.images.num_rows
    assert max(done) == 3


def test_in_sql(labelled: tuple[Config, Export]) -> None:
    _, made = labelled
    sql = """SELECT p.name, reference_name, key FROM pairs AS p, images
             WHERE row = most[1] AND p.images > 1 ORDER BY evidence_positive DESC LIMIT 1"""
    with connect(made) as connection:
        [(name, reference, key)] = connection.execute(sql).fetchall()
        assert connection.sql("FROM pairs").to_arrow_table().to_pylist() == derived.read(made, NAME).to_pylist()
    best = max(
        (line for line in by_hand(made) if line["images"] > 1), key=lambda line: line["evidence_positive"].expected
    )
    assert (name, reference) == (best["name"], best["reference_name"])
    assert key in made.images["key"].to_pylist()


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"labels": False},
        {"basis": False},
        {"references": 2, "lacking": [1, 4, 20]},
        {"references": 1, "concepts": 2},
        {"failures": ["bad"] * 9, "images": 20},
    ],
)
def test_exports_of_every_kind(kind: dict[str, Any], tmp_path: Path) -> None:
    made = make(tmp_path, **{"images": 30, "regions": False, **kind})
    found = pairs_table(made)
    expected = by_hand(made)
    assert without_cosines(found) == expected
    assert expected
    assert found["cosine"].null_count == len(expected)


def test_no_references(tmp_path: Path) -> None:
    made = make(tmp_path, references=0)
    assert pairs_table(made).equals(PAIRS.empty_table())


def test_of_several_targets_the_first_counts(tmp_path: Path, job: Job) -> None:
    config = job(str(write_tar(tmp_path / "a.tar", many(6))), saliency={"target": {"top": 2}, "references": 2})
    assert export(config).notes == []
    made = open_export(config.output.url)
    assert without_cosines(derived.read(made, NAME)) == by_hand(made)
    assert sum(derived.read(made, NAME)["images"].to_pylist()) == 2 * 6


def test_images_of_sizes_of_their_own(tmp_path: Path, job: Job) -> None:
    config = job(
        str(write_tar(tmp_path / "a.tar", mixed())),
        model={"backbone": "timm:test_vit", "image_size": 128, "resize": "native"},
        output={"rows_per_unit": 16},
    )
    export(config)
    made = open_export(config.output.url)
    assert np.isnan(made.basis(made.images["row"].to_numpy())[:, :2]).any()
    assert without_cosines(derived.read(made, NAME)) == by_hand(made)


def test_evidence_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the images that show some part."""
    made = make(tmp_path, images=30, regions=False)
    parts = np.random.default_rng(0).integers(0, 3, (32, *made.manifest.layout.grid)).astype(np.uint8)
    # Without a mask, of each class some.
    parts[::3] = 0
    layout = made.manifest.layout.model_copy(update={"parts": True})
    config = {**made.manifest.config, "input": {"part_names": ["bill", "eye ring", "tail"]}}
    with_parts = Export(made.folder, made.manifest.model_copy(update={"layout": layout, "config": config}))
    monkeypatch.setattr(Export, "parts", lambda self, rows: parts[rows])
    found = pairs_table(with_parts)
    images = {line["row"]: line for line in made.images.to_pylist()}
    for line in found.to_pylist():
        above, cells, total, count = np.zeros(4), np.zeros(4), 0.0, 0
        for row, image in images.items():
            if image["target"] == line["class"] and parts[row].any():
                basis = made.basis([row])[0].astype(np.float64)
                evidence = basis[0] - 0.6 * basis[1 + image["references"].index(line["reference"])]
                total, count = total + evidence.clip(0).sum(), count + evidence.size
                above += [evidence.clip(0)[parts[row] == part].sum() for part in range(4)]
                cells += [(parts[row] == part).sum() for part in range(4)]
        # No cell shows the third.
        assert dict(line["parts"]) == pytest.approx({"bill": above[1] / total, "eye ring": above[2] / total}, rel=1e-5)
        assert dict(line["part_cells"]) == pytest.approx({"bill": cells[1] / count, "eye ring": cells[2] / count})
    # Parts that are called alike are one: SQL knows no map with a name twice.
    config["input"]["part_names"] = ["bill", "bill", "lore"]
    alike = pairs_table(Export(made.folder, with_parts.manifest.model_copy(update={"config": config})))
    for one, two in zip(found.to_pylist(), alike.to_pylist(), strict=True):
        assert dict(two["parts"]) == pytest.approx({"bill": sum(dict(one["parts"]).values())})
        assert len(two["parts"]) == len(two["part_cells"]) == 1
    derived.write(with_parts, NAME, found)
    with connect(with_parts) as connection:
        asked = "SELECT parts['bill'] / part_cells['bill'] FROM pairs ORDER BY class, reference"
        lifts = [lift for (lift,) in connection.execute(asked).fetchall()]
    assert lifts == pytest.approx(
        [dict(line["parts"])["bill"] / dict(line["part_cells"])["bill"] for line in found.to_pylist()]
    )


def test_cosines_are_kept_where_the_weights_are_not_at_hand(labelled: tuple[Config, Export]) -> None:
    _, made = labelled
    known = derived.read(made, NAME)
    grown = Export(made.folder, made.manifest.model_copy(update={"revision": 1}))
    assert not derived.is_current(grown, NAME)
    assert pairs_table(grown)["cosine"].equals(known["cosine"])
    fewer = known.slice(3).set_column(PAIRS.get_field_index("cosine"), PAIRS.field("cosine"), known.slice(3)["cosine"])
    other = Export(Folder(f"memory://{os.urandom(4).hex()}"), made.manifest)
    derived.write(other, NAME, fewer)
    moved = Export(made.folder, grown.manifest)
    moved.folder = other.folder
    found = table._earlier_cosines(moved, table._classes_of(known))
    assert np.isnan(found[:3]).all()
    np.testing.assert_array_equal(found[3:], known["cosine"].to_numpy()[3:])


def test_a_table_that_lacks_cosines_gets_them_and_no_more(tmp_path: Path) -> None:
    made = make(tmp_path)
    weight = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    found = news(made)
    assert found is not None
    derived.write(made, NAME, found)
    assert news(made) is None
    completed = news(made, weight)
    assert completed is not None
    assert completed.equals(pairs_table(made, weight))
    derived.write(made, NAME, completed)
    assert news(made, weight) is None
    assert news(made, np.zeros_like(weight)) is None
