"""Traits against planted parts, masses by hand, and the same images in another order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import ExportError, QueryError
from finer_ray.store import derived
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from finer_ray.traits import Settings, Trait, all_traits, pair_traits, trait_table
from finer_ray.traits.images import read_index, spread
from finer_ray.traits.run import both_ways
from finer_ray.traits.shown import shown_traits
from tests.traits.exports import planted, write_export


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, np.ndarray]:
    """The planted export, and the part of each candidate cell."""
    return planted(tmp_path_factory.mktemp("planted") / "out")


def parts_shown(export: Export, part: np.ndarray, trait: Trait) -> list[int]:
    """The planted part of each cell that a trait shows."""
    cells, _ = export.patches([cell.row for cell in trait.cells])
    places = [list(own).index(cell.cell) for own, cell in zip(cells, trait.cells, strict=True)]
    return [int(part[cell.row, place]) for cell, place in zip(trait.cells, places, strict=True)]


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (0, 2)])
def test_the_planted_part_is_the_first_trait(birds: tuple[Export, np.ndarray], a: int, b: int) -> None:
    export, part = birds
    first = pair_traits(export, a, b, clusters=4, gamma=0.6)[0]
    assert parts_shown(export, part, first) == [a] * 9
    assert len({cell.row for cell in first.cells}) == 9
    assert first.prevalence_a == 1
    assert first.stability is not None
    assert first.stability > 0.9


def test_what_both_have_is_shared(birds: tuple[Export, np.ndarray]) -> None:
    """Part 2 has evidence 2 for each of crow and rook, their own parts 4 for one of them and less for the other."""
    export, part = birds
    shared = pair_traits(export, 0, 1, kind="shared", clusters=4)
    assert {tuple(set(parts_shown(export, part, trait))) for trait in shared[:3]} == {(0,), (1,), (2,)}
    assert all(trait.prevalence_a == trait.prevalence_b == 1 for trait in shared[:3])
    swapped = pair_traits(export, 1, 0, kind="shared", clusters=4)
    assert [trait.mass for trait in swapped] == pytest.approx([trait.mass for trait in shared])


def by_hand(path: Path, classes: tuple[str, ...] = ("crow", "rook"), **more: Any) -> Export:
    """Two images of class 0 and one of class 1, of two kinds of cells, 12 in all, so that three clusters may be."""
    one, two = np.eye(64)[:2]
    features = np.array([[one, one, two, two]] * 3)
    basis = np.zeros((3, 2, 2, 2))
    basis[0] = [[[4, 3], [2, 1]], [[1, 1], [1, 1]]]
    basis[1] = [[[2, 0], [0, 0]], [[0, 0], [0, 0]]]
    basis[2] = [[[5, 0], [0, 0]], [[0, 0], [0, 3]]]
    cells = np.tile([0, 1, 2, 3], (3, 1))
    cells[1, 3], features[1, 3] = -1, np.nan
    references = np.array([[1], [1], [0]])
    return write_export(path, [0, 0, 1], references, basis, cells, features, classes, **more)


def test_masses_by_hand(tmp_path: Path) -> None:
    """gamma 1: of image 0 are 3 + 2 and 1 + 0, of image 1 is 2, of image 2 (rook's) 0 and 3."""
    export = by_hand(tmp_path / "out")
    first, second = pair_traits(export, 0, 1, gamma=1, clusters=2)
    assert (first.mass, first.prevalence_a, first.prevalence_b) == pytest.approx((7 / 11, 1, 0), abs=1e-3)
    assert (second.mass, second.prevalence_a, second.prevalence_b) == pytest.approx((4 / 11, 0.5, 1), abs=1e-3)
    assert (first.images_a, first.images_b, first.rank, second.rank) == (2, 1, 1, 2)
    assert [(cell.row, cell.cell) for cell in first.cells] == [(0, 0), (1, 0)]
    assert [cell.evidence for cell in first.cells] == pytest.approx([3, 2], abs=1e-2)
    # Not on the rook, which has more of it.
    assert [(cell.row, cell.cell) for cell in second.cells] == [(0, 2)]


def test_gamma_is_1_whatever_the_export_s_is_unless_another_is_given(tmp_path: Path) -> None:
    export = by_hand(tmp_path / "out", saliency={"gamma": 0.6})
    assert pair_traits(export, 0, 1) == pair_traits(export, 0, 1, gamma=1)
    assert pair_traits(export, 0, 1) != pair_traits(export, 0, 1, gamma=0)
    with pytest.raises(QueryError, match="--gamma: nan is no finite number"):
        pair_traits(export, 0, 1, gamma=float("nan"))


def test_parts_and_attributes_by_hand(tmp_path: Path) -> None:
    """Cell 0 of all images is the bill, cell 2 the wing: each a quarter of the cells. Image 0 alone has a red bill."""
    parts = np.tile([[1, 0], [2, 0]], (3, 1, 1))
    attributes = ['["red bill", "bird"]', "bird; ", None]
    more = {"parts": parts, "part_names": ["bill", "wing"], "own": {"looks": attributes}}
    export = by_hand(tmp_path / "out", **more)
    first, second = pair_traits(export, 0, 1, gamma=1, clusters=2, attributes="looks")
    # Of 3 + 2 + 2 are 3 + 2 at cell 0.
    assert first.part == "bill"
    assert (first.part_share, first.part_lift) == pytest.approx((5 / 7, 20 / 7), abs=1e-2)
    assert (second.part, second.part_share) == ("wing", pytest.approx(1 / 4, abs=1e-2))
    # All 7 lie on birds, of which two of three images are; 5 on the red bill, of which one is.
    assert (first.attribute, first.attribute_lift) == ("red bill", pytest.approx(15 / 7, abs=1e-2))
    # 1 of 4 lies on the red bill, less than by chance.
    assert (second.attribute, second.attribute_lift) == (None, None)
    # No image is compared with class 0 but those of class 1.
    assert pair_traits(export, 0, 0, attributes="looks") == []
    with pytest.raises(QueryError, match=r"--attributes: .* no column 'look' .*nearest: looks"):
        pair_traits(export, 0, 1, attributes="look")


def test_chance_is_of_the_cells_that_images_have_and_parts_of_one_name_are_one(tmp_path: Path) -> None:
    """Images of 2 x 1 cells in a grid of 2 x 2: each part takes half of them, both together all."""
    features, basis = np.tile(np.eye(64)[0], (2, 2, 1)), np.full((2, 2, 2, 2), np.nan)
    basis[:, 0, :, 0], basis[:, 1, :, 0] = 3, 1
    parts, references = np.tile([[1, 0], [2, 0]], (2, 1, 1)), np.array([[1], [0]])
    lifts = []
    for names in (["bill", "wing"], ["wing", "wing"]):
        cells = np.tile([0, 2], (2, 1))
        more = {"parts": parts, "part_names": names}
        export = write_export(
            tmp_path / names[0], [0, 1], references, basis, cells, features, ["a", "b"], per_unit=2, **more
        )
        [trait] = pair_traits(export, 0, 1, clusters=1)
        lifts.append((trait.part, trait.part_share, trait.part_lift))
    assert lifts == [("bill", pytest.approx(0.5), pytest.approx(1)), ("wing", pytest.approx(1), pytest.approx(1))]


def test_without_any_reference_there_are_classes_alone(tmp_path: Path) -> None:
    features = np.tile(np.eye(64)[0], (2, 1, 1))
    basis = np.full((2, 2, 1, 1), np.nan)
    basis[:, 0] = 3
    none = np.full((2, 1), -1)
    export = write_export(tmp_path / "out", [0, 1], none, basis, np.zeros((2, 1), np.int32), features, ["a", "b"])
    assert [(trait.kind, trait.a) for trait in all_traits(export)] == [("class", 0), ("class", 1)]
    with pytest.raises(QueryError, match="'a' and 'b' are no references of each other's images"):
        both_ways(export, "a", "b")


def test_what_would_fail_at_the_end_fails_before_all_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = by_hand(tmp_path / "out").folder.url
    monkeypatch.setattr("finer_ray.traits.all_traits", None)
    said = CliRunner().invoke(app, ["traits", out, "--texts"])
    assert "has no concepts" in str(said.exception)
    (tmp_path / "out" / "traits.parquet").write_bytes(b"mine")
    said = CliRunner().invoke(app, ["traits", out])
    assert "was not written by finer_ray" in str(said.exception)


def test_a_pair_without_evidence_says_so(tmp_path: Path) -> None:
    features, basis = np.tile(np.eye(64)[0], (2, 1, 1)), np.zeros((2, 2, 1, 1))
    none = np.full((2, 1), -1, np.int32)
    made = write_export(tmp_path / "out", [0, 1], np.array([[1], [0]]), basis, none, features, ["a", "b"])
    said = CliRunner().invoke(app, ["traits", made.folder.url, "--pair", "a", "b"])
    assert (said.exit_code, "no traits: no cell" in said.output) == (0, True)


def test_a_class_against_all_its_references_and_without_any(tmp_path: Path) -> None:
    """M_A - gamma mean_k M_k over the references that are there; of an image with none M_A."""
    features = np.tile(np.eye(64)[0], (2, 1, 1))
    basis = np.full((2, 3, 1, 1), np.nan)
    basis[0, :, 0, 0], basis[1, 0] = [8, 2, 6], 3
    references = np.array([[1, 2], [-1, -1]])
    export = write_export(
        tmp_path / "out", [0, 0], references, basis, np.zeros((2, 1), np.int32), features, ["a", "b", "c"]
    )
    found = [trait for trait in all_traits(export, Settings(gamma=0.5)) if trait.kind == "class"]
    assert [(trait.a, trait.b, trait.prevalence_b) for trait in found] == [(0, None, None)]
    assert [cell.evidence for cell in found[0].cells] == pytest.approx([6, 3], abs=1e-2)


def test_evidence_of_ones_own(tmp_path: Path) -> None:
    export = by_hand(tmp_path / "out")
    alike = pair_traits(export, 0, 1, clusters=2, evidence=lambda rows, cells: np.ones(cells.shape))
    # Of 12 candidates one is none, and 6 are of the first kind.
    assert [trait.mass for trait in alike] == pytest.approx([6 / 11, 5 / 11])
    grad_cam = export.maps([0, 1, 2], "gradcam").reshape(3, -1)
    assert pair_traits(export, 0, 1, evidence=lambda rows, cells: grad_cam[rows[:, None], cells]) == []


def test_noise_is_not_stable_and_planted_parts_are(birds: tuple[Export, np.ndarray], tmp_path: Path) -> None:
    noise, _ = planted(tmp_path / "noise", noise=True)
    alike = {"clusters": 4, "evidence": lambda rows, cells: np.ones(cells.shape)}
    low = [trait.stability for trait in pair_traits(noise, 0, 1, **alike)]
    high = sorted(trait.stability or 0 for trait in pair_traits(birds[0], 0, 1, **alike))
    assert max(value or 0 for value in low) < 0.6
    assert min(high[-3:]) > 0.8


def test_two_runs_give_the_same_bytes(birds: tuple[Export, np.ndarray], tmp_path: Path) -> None:
    once, again = (all_traits(open_export(birds[0].folder.root), Settings(resamples=3)) for _ in range(2))
    written = []
    classes = birds[0].manifest.classes
    for table in (trait_table(once, classes), trait_table(again, classes)):
        derived.write(birds[0], "traits", table)
        written.append((Path(birds[0].folder.root) / "traits.parquet").read_bytes())
    assert written[0] == written[1]
    assert derived.read(birds[0], "traits").equals(trait_table(once, classes))


@pytest.mark.slow
def test_the_order_of_rows_does_not_matter(birds: tuple[Export, np.ndarray], tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(72)
    other, _ = planted(tmp_path / "out", order=order)
    for one, two in zip(all_traits(birds[0]), all_traits(other), strict=True):
        # Of cells with equal evidence the first row is named.
        assert [cell.evidence for cell in one.cells] == [cell.evidence for cell in two.cells]
        assert one.stability == two.stability
        assert one.mass == pytest.approx(two.mass, rel=1e-12)
        assert (one.kind, one.a, one.b, one.prevalence_a, one.prevalence_b) == (
            *(two.kind, two.a, two.b, two.prevalence_a, two.prevalence_b),
        )


def test_all_pairs_are_what_each_pair_is_alone(birds: tuple[Export, np.ndarray]) -> None:
    """Read together or one by one; the table is there for SQL."""
    export, _ = birds
    settings = Settings(resamples=2)
    every = all_traits(export, settings)
    kinds = {(trait.kind, trait.a, trait.b) for trait in every}
    assert {(a, b) for kind, a, b in kinds if kind == "pair"} == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert {(a, b) for kind, a, b in kinds if kind == "shared"} == {(0, 1), (0, 2), (1, 2)}
    alone = pair_traits(export, 2, 1, resamples=2)
    assert [trait for trait in every if (trait.kind, trait.a, trait.b) == ("pair", 2, 1)] == alone
    derived.write(export, "traits", trait_table(every, export.manifest.classes))
    with connect(export) as connection:
        query = "SELECT count(*), max(cells[1].evidence) FROM traits WHERE rank = 1 AND kind = 'class'"
        assert connection.sql(query).fetchall()[0][0] == 3


def test_images_are_capped_evenly(birds: tuple[Export, np.ndarray]) -> None:
    export, _ = birds
    index = read_index(export)
    chosen = spread(index.pairs[0, 1], 5)
    assert chosen.tolist() == [0, 5, 11, 17, 23]
    first = pair_traits(export, 0, 1, images=5)[0]
    assert (first.images_a, first.images_b) == (5, 5)
    assert {cell.row for cell in first.cells} <= {0, 5, 11, 17, 23, 24, 29, 35, 41, 47}


def test_pairs_by_name(birds: tuple[Export, np.ndarray]) -> None:
    export, _ = birds
    found = both_ways(export, "crow", "1", Settings(resamples=0))
    assert {(trait.kind, trait.a, trait.b) for trait in found} == {("pair", 0, 1), ("pair", 1, 0), ("shared", 0, 1)}
    assert [trait for trait in found if trait.kind == "pair" and trait.a == 1] == pair_traits(export, 1, 0, resamples=0)
    assert found[0].stability is None
    titles = [str(table.title) for table in shown_traits(found, export.manifest.classes)]
    assert titles == [f"{what} (24 images and 24)" for what in ("crow rather than rook", "rook rather than crow")] + [
        "crow and rook (24 images and 24)"
    ]
    with pytest.raises(QueryError, match=r"--pair: no class of the export is called 'crov' .nearest: crow"):
        both_ways(export, "crov", "rook")


def test_a_pair_that_is_not_compared_is_refused(tmp_path: Path) -> None:
    export = by_hand(tmp_path / "out", classes=("crow", "rook", "jay"))
    with pytest.raises(QueryError, match=r"'crow' and 'jay' are no references .* crow is compared with rook"):
        both_ways(export, "crow", "jay")
    assert pair_traits(export, 0, 2) == []


def test_exports_without_patches_say_what_to_do(birds: tuple[Export, np.ndarray]) -> None:
    manifest = birds[0].manifest
    old = Export(
        birds[0].folder, manifest.model_copy(update={"layout": manifest.layout.model_copy(update={"patches": 0})})
    )
    with pytest.raises(ExportError, match=r"no patches: .*output\.patches"):
        pair_traits(old, 0, 1)
    bare = Export(
        birds[0].folder, manifest.model_copy(update={"layout": manifest.layout.model_copy(update={"basis": False})})
    )
    with pytest.raises(ExportError, match=r"no contrast basis: .*output\.basis"):
        pair_traits(bare, 0, 1)
