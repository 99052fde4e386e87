"""Explaining stage: an actor that holds the model and explains units, on a GPU where there is one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from finer_ray.config.schema import Config
from finer_ray.models import Classifier
from finer_ray.models.preparing import autocast, compiled, prepare
from finer_ray.pipeline.batch_size import (
    CPU_BATCH,
    CPU_PIXELS,
    MAX_BATCH,
    gpu_budget,
    gpu_peak,
    is_out_of_memory,
    largest_batch,
    masked_memory,
)
from finer_ray.pipeline.device_transfer import Arrays, HostToDevice, fetch
from finer_ray.pipeline.resources import Resources
from finer_ray.pipeline.results import Results, model_outputs
from finer_ray.pipeline.scoring import Scorer
from finer_ray.pipeline.targets import TargetError, Targets, saliency_spec
from finer_ray.pipeline.unit_tables import explained_schema, from_column, metric_shapes
from finer_ray.saliency import MapSpec, explain
from finer_ray.saliency.methods import METHODS
from finer_ray.store.layout import Layout

Rows = NDArray[np.intp]
Sizes = NDArray[np.intp]


class Explainer:
    """The actor: explains units in batches, with one copy of the model.

    On a GPU nothing waits within a batch, and while one is worked on the next one's pixels arrive and the results of
    the one before are collected; while the last of a unit is, another call (`compute.units_per_actor`) has begun.

    Args:
        classifier: to be explained; is moved to the device.
        config: of the job.
        layout: of its Zarr arrays.
        share: what this actor has.
    """

    def __init__(self, classifier: Classifier, config: Config, layout: Layout, share: Resources) -> None:
        if share.device == "cpu" and share.threads:
            torch.set_num_threads(share.threads)
        self._config, self._layout, self._device = config, layout, torch.device(share.device)
        self._schema = explained_schema(layout, metric_shapes(config.metrics, layout))
        self._model = prepare(classifier, self._device, config.compute.precision)
        memory = masked_memory(config.compute.masked_memory, self._device, share.gpus, share.units)
        spec = saliency_spec(config, classifier)
        self._spec = replace(
            spec,
            memory=memory,
            registration=layout.registration,
            patches=layout.patches,
            map_embedding=layout.map_embedding is not None,
        )
        self._targets = Targets(config, classifier)
        self._scorer = Scorer(config.metrics, self._model, self._device, memory, layout.registration)
        self._send = HostToDevice(self._device)
        self._mean = torch.tensor(classifier.transform.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(classifier.transform.std, device=self._device).view(1, 3, 1, 1)
        self._size = self._batch_size(share)
        # Only now: trials have sizes of their own, and Ray may call from another thread than this.
        if mode := config.compute.compile:
            self._model.split.trunk = compiled(self._model.split.trunk, mode)  # type: ignore[method-assign,assignment]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Explain a unit.

        Args:
            table: LOADED.

        Returns:
            EXPLAINED, a line per image, good or not.
        """
        unit = self._unit(table)
        # Batches are of rows by their place in the unit, those that failed included: which rows fail decides neither
        # in which batch another lies nor where in it, and so not the last bit of its results. (Where images have sizes
        # of their own that does not hold of rows whose header tells none: a batch is smaller without them.)
        left = np.arange(len(table))
        in_flight: list[Batch] = []
        while len(left):
            window, left = np.split(left, [self._size])
            for rows in unit.by_size(window):
                launched = self._launch(unit, rows)
                _collect(in_flight, unit.results)
                in_flight = launched
        _collect(in_flight, unit.results)
        return unit.results.table()

    def _unit(self, table: pa.Table) -> "Unit":
        """A unit's arrays and annotations; rows in which annotations fail are marked."""
        results = Results(table, self._schema)
        regions = from_column(table["region"]) if "region" in table.column_names else None
        unit = Unit(results, from_column(table["pixels"]), regions, self._sizes(table), [], [])
        columns = (
            table[name].to_pylist() for name in ("label_number", "label_name", "text", "contrast_text", "references")
        )
        for row, (number, name, text, contrast_text, named) in enumerate(zip(*columns, strict=True)):
            target: int | None = None
            reference: int | list[int] | None = None
            try:
                try:
                    results.labels[row] = self._targets.label(number if name is None else name)
                except TargetError as error:
                    if self._targets.need_labels:
                        raise
                    results.unknown_labels[row] = str(error)
                target, reference = self._targets.pair(results.labels[row], text, contrast_text)
                if self._spec.by_image:
                    reference = self._targets.own_references(named, self._layout.references)
            except TargetError as error:
                results.fail(row, error.stage, str(error))
            unit.targets.append(target)
            unit.references.append(reference)
        return unit

    def _sizes(self, table: pa.Table) -> Sizes:
        """(height, width) of each row's image, (n, 2); 0 where that is not known."""
        if self._model.transform.resize != "native":
            return np.tile(self._model.transform.size, (len(table), 1))
        columns = (table[name].fill_null(0).to_numpy() for name in ("input_height", "input_width"))
        return np.stack(list(columns), axis=1)

    def _launch(self, unit: "Unit", rows: Rows) -> list["Batch"]:
        """Give a batch to the device; where it does not fit its memory, halves of it."""
        try:
            return self._batch(unit, rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Not in the except clause, in which the traceback would keep all tensors of the failed attempt.
        if len(rows) == 1:
            unit.results.fail(int(rows[0]), "model", "one image alone takes more memory than the device has")
            return []
        self._shrink_batches(-(-len(rows) // 2))
        return [batch for half in np.array_split(rows, 2) for batch in self._launch(unit, half)]

    def _shrink_batches(self, size: int) -> None:
        """Smaller batches, and fewer masked images at a time, from now on."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._size = min(self._size, size)
        self._scorer.memory = max(1, self._scorer.memory // 2)
        self._spec = replace(self._spec, memory=self._scorer.memory)

    def _batch(self, unit: "Unit", rows: Rows) -> list["Batch"]:
        """A batch of rows, or none where all of them fail; the places of those that do are filled with another row."""
        good = np.array([row for row in rows if unit.results.stages[row] is None], np.intp)
        if not len(good):
            return []
        # Each size is compiled for by itself.
        size = max(len(rows), self._size) if self._config.compute.compile else len(rows)
        places = np.searchsorted(rows, good)
        filled = np.full(size, good[0])
        filled[places] = good
        height, width = unit.sizes[good[0]]
        images = self._images(self._send(unit.pixels, filled)[:, :height, :width])
        region = None if unit.regions is None else self._send(unit.regions, filled)[:, :height, :width]
        target, reference = (self._known(column, filled) for column in (unit.targets, unit.references))
        with autocast(self._device, self._config.compute.precision):
            references = reference if reference is None or reference.ndim == 2 else reference[:, None]
            explanation = explain(self._model, images, self._spec, target, references)
            scores = self._scorer(images, explanation, region)
        return [Batch(good, places, fetch(model_outputs(explanation, self._model) | scores))]

    def _batch_size(self, share: Resources) -> int:
        wanted = self._config.compute.batch_size
        if wanted != "auto":
            return wanted
        if self._device.type != "cuda":
            transform = self._model.transform
            most = CPU_PIXELS // math.prod(transform.size) if transform.resize == "native" else CPU_BATCH
            return min(CPU_BATCH, max(1, most))
        budget = gpu_budget(self._device, self._config.compute.memory_fraction, share.gpus, share.units)
        if any(METHODS[wanted.cam].masked_passes for wanted in self._spec.maps):
            budget -= self._spec.memory
        most = min(MAX_BATCH, self._layout.rows_per_unit)
        # Each by itself: in small batches scoring may take more, and yet grow less from one to the next.
        trials = (partial(self._trial, scored=scored) for scored in (False, True))
        return min(largest_batch(gpu_peak(self._device, trial), budget, most) for trial in trials)

    def _trial(self, count: int, scored: bool) -> None:
        """A batch of black images, as far as memory is concerned; without what `masked_memory` bounds by itself, which
        can take minutes."""
        height, width = self._model.transform.size
        images = self._images(torch.zeros((count, height, width, 3), dtype=torch.uint8, device=self._device))
        region = torch.zeros((count, height, width), dtype=torch.bool, device=self._device)
        maps = tuple(wanted for wanted in self._spec.maps if not METHODS[wanted.cam].masked_passes)
        spec = replace(self._spec, maps=maps or (MapSpec("gradcam"),))
        with autocast(self._device, self._config.compute.precision):
            explanation = explain(self._model, images, spec)
            if scored:
                each = explanation.maps.narrow(-3, 0, 1).repeat_interleave(len(self._spec.maps), -3)
                self._scorer(images, replace(explanation, maps=each), region)

    def _images(self, pixels: Tensor) -> Tensor:
        """(n, h, w, 3) uint8 to (n, 3, h, w), normalised."""
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std

    def _known(self, column: Sequence[int | list[int] | None], rows: Rows) -> Tensor | None:
        """What is known of all rows, or of none."""
        if (known := column[rows[0]]) is None:
            return None
        # Of images that have failed.
        blank = -1 if isinstance(known, int) else [-1] * len(known)
        return self._send(np.array([blank if value is None else value for value in column], np.int64), rows)


@dataclass(frozen=True)
class Unit:
    """A unit's images and annotations, by row.

    Attributes:
        results: so far.
        pixels: (n, h, w, 3) uint8; anything where an image has failed, and beyond its own size.
        regions: (n, h, w) bool, empty where an image has none; or None.
        sizes: (n, 2), height and width of each image, in the upper left corner of its pixels; 0 where not known.
        targets, references: class indices, None where the model is to choose; of images that may name references, lists
            of K.
    """

    results: Results
    pixels: NDArray[np.uint8]
    regions: NDArray[np.bool_] | None
    sizes: Sizes
    targets: list[int | None]
    references: list[int | list[int] | None]

    def by_size(self, rows: Rows) -> Iterator[Rows]:
        """Rows of one size, by size; those of no known size, which have failed, are left out."""
        sizes = self.sizes[rows]
        for size in np.unique(sizes, axis=0):
            if size.all():
                yield rows[(sizes == size).all(1)]


@dataclass(frozen=True)
class Batch:
    """A batch that the device has been given.

    Attributes:
        rows: of the unit, those that are good.
        places: of these in the batch.
        found: waits for the results, see `fetch`.
    """

    rows: Rows
    places: Rows
    found: Callable[[], Arrays]


def _collect(batches: list[Batch], results: Results) -> None:
    for batch in batches:
        results.add(batch.rows, batch.places, batch.found())
