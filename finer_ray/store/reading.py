"""Reading an export: its tables as Arrow, its maps as arrays, any contrast from the stored basis."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.errors import ExportError
from finer_ray.images.transform import Transform
from finer_ray.saliency.aggregation import contrast
from finer_ray.saliency.objective import reference_weights
from finer_ray.saliency.parts import MOST_PARTS
from finer_ray.store.columns import schemas_with
from finer_ray.store.grids import drawn
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, read_manifest
from finer_ray.store.parts import iter_tables, read_tables
from finer_ray.store.placing import on_photo, to_unit
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import open_tensors, read_rows

Rows = Sequence[int] | NDArray[np.integer[Any]]


class Export:
    """A finished export; tables are read on first use.

    Attributes:
        folder: where it lies.
        manifest: what the export was made of.
    """

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @cached_property
    def images(self) -> pa.Table:
        """A line per image that was explained."""
        return self._table("images")

    @cached_property
    def metrics(self) -> pa.Table:
        """A line per image and map, of the first target."""
        return self._table("metrics")

    @cached_property
    def targets(self) -> pa.Table:
        """A line per image and target, where the job asked for several; else empty."""
        return self._table("targets")

    @cached_property
    def target_metrics(self) -> pa.Table:
        """A line per image, target and map, where the job asked for several targets; else empty."""
        return self._table("target_metrics")

    @cached_property
    def failures(self) -> pa.Table:
        """A line per image, or shard, that could not be used."""
        return self._table("failures")

    @cached_property
    def classes(self) -> pa.Table:
        """A line per class and map."""
        return self._table("classes")

    @cached_property
    def similarity(self) -> pa.Table:
        """How similar the classifier's classes are, a line per rank; empty where there is no classifier."""
        return self._table("similarity")

    @cached_property
    def schemas(self) -> dict[str, pa.Schema]:
        """The tables' schemas by name, with the user's own columns of `images`."""
        return schemas_with(self.manifest.columns)

    def batches(self, name: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of a table, batch by batch, for tables that are larger than memory."""
        return iter_tables(self.folder, self.manifest.tables.get(name, []), columns)

    def local_path(self, name: str) -> Path | None:
        """A place in the export's folder; None where that is not on this machine's disk."""
        return Path(self.folder.path(name)) if self.folder.local else None

    @cached_property
    def tensors(self) -> Any:
        """The Zarr group."""
        return open_tensors(self.folder)

    @overload
    def maps(
        self,
        rows: Rows,
        name: str,
        size: tuple[int, int] | None = None,
        target: int = 0,
        place: Literal["input"] = "input",
        normalized: bool = False,
    ) -> NDArray[np.float32]: ...

    @overload
    def maps(
        self,
        rows: Rows,
        name: str,
        size: None = None,
        target: int = 0,
        *,
        place: Literal["photo"],
        normalized: bool = False,
    ) -> list[NDArray[np.float32]]: ...

    def maps(
        self,
        rows: Rows,
        name: str,
        size: tuple[int, int] | None = None,
        target: int = 0,
        place: Literal["input", "photo"] = "input",
        normalized: bool = False,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Saliency maps.

        Args:
            rows: n rows of `images`, in any order.
            name: of the map, one of `manifest.layout.maps`.
            size: (H, W) of an image of the model's view, to whose pixels maps are brought, bilinearly and through the
                export's registration; the maps' own grid when None.
            target: which of an image's targets, 0 (the first) to `manifest.layout.targets` - 1.
            place: `photo` for every map in its own photo's pixels; there `size` must be None.
            normalized: divide each map by its maximum, so that it lies in [0, 1].

        Returns:
            (n, h, w) or (n, H, W) float32, non-negative; NaN for rows that hold no image, or have no such target. With
            `model.resize: native` and no size, (h, w) is the largest grid, and NaN beyond a map's own
            (`finer_ray.store.grids`). With `place="photo"` a list of n arrays (height, width), NaN where the model did
            not see the photo (the margin that it crops).

        Raises:
            ExportError: no such map or target, or `place="photo"` of a row that holds no image. IndexError: a row out
                of range. ValueError: `size` with `place="photo"`.

        >>> export = open_export("demo_export")
        >>> export.maps([0, 1], "finer_gradcam", size=(64, 64)).shape
        (2, 64, 64)
        >>> [heat] = export.maps([0], "finer_gradcam", place="photo", normalized=True)
        >>> heat.shape, float(np.nanmax(heat))
        ((64, 80), 1.0)
        """
        if place == "photo" and size is not None:
            raise ValueError('place="photo" draws maps in the size of their photos: leave out size')
        names = self.manifest.layout.maps
        if name not in names:
            raise ExportError(f"the export has no map {name!r}; it has {', '.join(names)}")
        number = names.index(name)
        rows = self._rows(rows)
        stored = self.stored("maps", rows, target, number).astype(np.float32)
        maps = stored * self.stored("maps_scale", rows, target, number)[:, None, None]
        if place == "photo":
            transform = Transform(**self.manifest.transform)
            placed = on_photo(maps, self._sizes(rows), transform, self.manifest.layout.registration)
            return [to_unit(heat) for heat in placed] if normalized else placed
        maps = self._drawn(maps, rows, size)
        return to_unit(maps) if normalized else maps

    def contrast(
        self,
        rows: Rows,
        gamma: float = 0.6,
        references: Sequence[int] | None = None,
        aggregation: str = "mean_before_relu",
        reverse: bool = False,
        size: tuple[int, int] | None = None,
        weighting: str = "equal",
        target: int = 0,
    ) -> NDArray[np.float32]:
        """Finer-Grad-CAM maps for any gamma, from the stored contrast basis; no model is needed.

        Against a map computed directly, a value differs by at most (1 + |gamma|) * 2^-11 * basis_scale[row].

        Args:
            rows: n rows of `images`, in any order.
            gamma: strength of the comparison; 0 is plain Grad-CAM.
            references: which of the K references to use, by position (0 to K-1); all when None.
            aggregation, reverse: see `finer_ray.saliency.contrast`.
            weighting: of the references, see `finer_ray.saliency.reference_weights`.
            size: as of `maps`.
            target: which of an image's targets, see `maps`.

        Returns:
            (n, h, w) or (n, H, W) float32, non-negative; NaN as of `maps`.

        Raises:
            ExportError: the export was made with output.basis off, has no such target, or a position is not among the
                references.

        >>> open_export("demo_export").contrast([0], gamma=2.0, references=[0]).shape
        (1, 4, 4)
        """
        layout = self.manifest.layout
        if not layout.basis:
            raise ExportError("the export has no contrast basis: it was made with output.basis: false")
        chosen = list(range(layout.references)) if references is None else list(references)
        if not set(chosen) <= set(range(layout.references)):
            raise ExportError(f"references {chosen} must be positions among 0 to {layout.references - 1}")
        rows = self._rows(rows)
        basis = self.basis(rows, target)[:, [0, *(1 + position for position in chosen)]]
        # A reference that an image lacks is NaN in every cell.
        present = ~np.isnan(basis[:, 1:, 0, 0])
        # Equal weights need no logits, for which the table of images would be read.
        known = basis[:, 1:, 0, 0] if weighting == "equal" else self.reference_logits(rows, target)[:, chosen]
        weights = reference_weights(known, present, weighting)
        maps = contrast(basis, gamma, aggregation, present, reverse, weights)
        maps[np.isnan(basis[:, 0])] = np.nan
        return self._drawn(maps, rows, size)

    def basis(self, rows: Rows, target: int = 0) -> NDArray[np.float32]:
        """The contrast basis M_j, (n, 1+K, h, w) float32, of one of the targets: itself, then its references. NaN as of
        `maps`."""
        rows = self._rows(rows)
        basis: NDArray[np.float32] = self.stored("basis", rows, target).astype(np.float32)
        basis *= self.stored("basis_scale", rows, target)[:, None, None, None]
        return basis

    def embedding(self, rows: Rows) -> NDArray[np.float16]:
        """Embeddings, (n, E) float16. Raises ExportError where they were not stored."""
        if self.manifest.layout.embedding is None:
            raise ExportError("the export has no embeddings: it was made with output.embedding: false")
        return self.stored("embedding", rows)

    def map_embedding(self, rows: Rows) -> NDArray[np.float16]:
        """What the model sees where the finer map is high: its activation pooled by the map of the first target.

        Args:
            rows: n rows of `images`, in any order.

        Returns:
            (n, D) float16 of length 1, D channels of the CAM layer, see `finer_ray.saliency.map_embedding`; 0 where the
            map is zero everywhere, NaN for rows that hold no image.

        Raises:
            ExportError: they were not stored. IndexError: a row out of range.
        """
        if self.manifest.layout.map_embedding is None:
            raise ExportError(
                "the export has no map embeddings: write output.map_embedding: true, and export to another output.url"
            )
        return self.stored("map_embedding", rows)

    def patches(self, rows: Rows) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The cells with the most evidence for the first target, and what the model has seen in them.

        Args:
            rows: n rows of `images`, in any order.

        Returns:
            (n, P) int32 cells of the grid (h, w) of `manifest.layout`, y * w + x, the strongest first; -1 where an
            image has fewer, and for rows that hold no image. And (n, P, 64) float32 of length 1: the CAM layer's
            activations there under a random projection, see `finer_ray.saliency.patches`; NaN where the cell is -1.

        Raises:
            ExportError: they were not stored. IndexError: a row out of range.

        >>> cells, features = open_export("demo_export").patches([0, 1])
        >>> cells.shape, features.shape
        ((2, 16), (2, 16, 64))
        """
        if not self.manifest.layout.patches:
            raise ExportError(
                "the export has no patches: it was made with output.patches: 0, or by a version that stored none; "
                "export again to another output.url"
            )
        return self.stored("patch_cells", rows), self.stored("patches", rows).astype(np.float32)

    def parts(self, rows: Rows) -> NDArray[np.uint8]:
        """The annotated part that each cell shows, see `finer_ray.saliency.parts`.

        Args:
            rows: n rows of `images`, in any order.

        Returns:
            (n, h, w), 0 for none, else 1 + an index into `part_names`.

        Raises:
            ExportError: they were not stored. IndexError: a row out of range.
        """
        self._check_parts()
        return self.stored("parts", rows)

    @cached_property
    def part_names(self) -> tuple[str, ...]:
        """Names of the annotated parts, id 1 first; their numbers where `input.part_names` gave none.

        Raises:
            ExportError: parts were not stored.
        """
        self._check_parts()
        return tuple(self.manifest.config["input"].get("part_names") or map(str, range(1, 1 + MOST_PARTS)))

    def _check_parts(self) -> None:
        if not self.manifest.layout.parts:
            raise ExportError(
                "the export has no parts: its job read no part masks; name them in input.fields.parts, such as "
                "parts.png, and export to another output.url"
            )

    def reference_logits(self, rows: Rows, target: int = 0) -> NDArray[np.float32]:
        """Logits of a target's references, (n, K) float32; NaN where there is none, and for rows that hold no image."""
        rows = self._rows(rows)
        lines = self.images if target == 0 else self.targets.filter(pc.equal(self.targets["rank"], target))
        known = lines.filter(pc.is_in(lines["row"], pa.array(np.unique(rows))))
        table = dict(zip(known["row"].to_pylist(), known["reference_logits"].to_pylist(), strict=True))
        none = [None] * self.manifest.layout.references
        values = np.array([table.get(row, none) for row in rows.tolist()], dtype=np.float32)
        return values.reshape(len(rows), len(none))

    def stored(self, name: str, rows: Rows, target: int = 0, *places: int) -> NDArray[Any]:
        """Rows of an array as they are stored, of one of the targets.

        Args:
            name: of the array.
            rows: n rows of `images`, in any order.
            target: as of `maps`; nothing to arrays that have no axis of targets.
            places: along the axes behind that.

        Returns:
            (n, ...), without the axis of targets.

        Raises:
            ExportError: no such target. IndexError: a row out of range.
        """
        layout = self.manifest.layout
        if not 0 <= target < layout.targets:
            known = "one target, 0" if layout.targets == 1 else f"targets 0 to {layout.targets - 1}"
            raise ExportError(f"the export has no target {target} of its images; it has {known}")
        where = (target, *places) if "target" in layout.axes(name) else places
        return read_rows(self.tensors[name], self._rows(rows), *where)

    def _drawn(
        self, maps: NDArray[np.float32], rows: NDArray[np.int64], size: tuple[int, int] | None
    ) -> NDArray[np.float32]:
        """Maps (n, h, w), where wanted in the pixels of an image of the model's view."""
        if size is None:
            return maps
        return drawn(maps, size, self.manifest.layout.registration, self._inputs(rows, size))

    def _inputs(self, rows: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
        """Height and width of the model's inputs, (n, 2) pixels; `size` where the export does not tell them."""
        transform = self.manifest.transform
        if transform.get("resize") != "native":
            return np.tile(transform.get("size", size), (len(rows), 1))
        known = {line["row"]: line for line in self._lines(rows, "input_height", "input_width")}
        none = {"input_height": 0, "input_width": 0}
        found = (known.get(row, none) for row in rows.tolist())
        return np.array([(line["input_height"], line["input_width"]) for line in found], np.int64).reshape(-1, 2)

    def _sizes(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        """(width, height) of some rows' photos. Raises ExportError where a row holds none."""
        sizes = {line["row"]: (line["width"], line["height"]) for line in self._lines(rows, "width", "height")}
        if lacking := [row for row in rows.tolist() if row not in sizes]:
            raise ExportError(f"row {lacking[0]} of the export holds no image, so there is no photo to place a map on")
        return [sizes[row] for row in rows.tolist()]

    def _lines(self, rows: NDArray[np.int64], *columns: str) -> list[dict[str, Any]]:
        """Some columns of some rows of `images`, and the row itself."""
        known = self.images.select(["row", *columns])
        lines: list[dict[str, Any]] = known.filter(pc.is_in(known["row"], pa.array(np.unique(rows)))).to_pylist()
        return lines

    def _rows(self, rows: Rows) -> NDArray[np.int64]:
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.manifest.rows()):
            raise IndexError(f"rows must lie in 0 to {self.manifest.rows() - 1}")
        return wanted

    def _table(self, name: str) -> pa.Table:
        return read_tables(self.folder, self.manifest.tables.get(name, []), self.schemas[name])


def open_export(url: str) -> Export:
    """Open a finished export at any fsspec URL or local path.

    Args:
        url: of the export's folder.

    Raises:
        ExportError: there is none, or its first run has not finished.

    >>> made = open_export("demo_export")
    >>> made.images.num_rows, made.manifest.layout.maps
    (12, ('gradcam', 'finer_gradcam'))
    """
    folder = Folder(url)
    manifest = read_manifest(folder, EXPORT)
    if manifest is None:
        started = folder.read(PLAN) is not None
        reason = "its export has not finished: run the same command again" if started else "there is no export"
        raise ExportError(f"{url}: {reason}")
    return Export(folder, manifest)
