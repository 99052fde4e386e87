"""Explaining stage: an actor that holds the model and explains units, on a GPU where there is one."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from finer_ray.config.schema import Config
from finer_ray.errors import WorkerError
from finer_ray.models import Classifier
from finer_ray.models.preparing import autocast, compiled, prepare
from finer_ray.pipeline.batch_size import (
    CPU_BATCH,
    LARGEST_BATCH,
    gpu_budget,
    gpu_peak,
    is_lost,
    is_out_of_memory,
    largest_batch,
    masked_memory,
)
from finer_ray.pipeline.cluster import Resources
from finer_ray.pipeline.columns import unpack, unpack_some
from finer_ray.pipeline.device_transfer import Arrays, Feeder, fetch
from finer_ray.pipeline.results import Results, answers
from finer_ray.pipeline.scoring import Scorer
from finer_ray.pipeline.targets import TargetError, Targets, question_of
from finer_ray.saliency import Map, explain
from finer_ray.saliency.methods import METHODS
from finer_ray.store import parts
from finer_ray.store.layout import Layout
from finer_ray.store.storage import Folder

Rows = NDArray[np.intp]
# Marks of units that have ended processes by losing them their GPU; each run begins anew.
LOST = f"parts/{parts.LOST}"
# How many a unit may end, and with which exit code.
LOSSES, LOST_CODE = 3, 75
# All calls of a process lose its GPU together, and that is one loss.
ENDING = threading.Lock()


class Explainer:
    """The actor: explains units in batches, with one copy of the model.

    On a GPU nothing waits within a batch, and while one is worked on the next one's pixels arrive and the results of
    the one before are taken over; while the last of a unit is, another call (`compute.units_per_actor`) has begun.

    Args:
        model: a Classifier, or a list of a reference to one, because Ray would replace a bare reference by its value in
            every task's arguments.
        config, layout: of the job.
        share: what this actor has.
    """

    def __init__(self, model: Classifier | list[Any], config: Config, layout: Layout, share: Resources) -> None:
        self._on_ray = isinstance(model, list)
        classifier: Classifier = ray.get(model[0]) if isinstance(model, list) else model
        if share.device == "cpu" and share.threads:
            torch.set_num_threads(share.threads)
        self._config, self._layout, self._device = config, layout, torch.device(share.device)
        self._model = prepare(classifier, self._device, config.compute.precision)
        memory = masked_memory(config.compute.masked_memory, self._device, share.gpus, share.units)
        self._question = replace(question_of(config, classifier), memory=memory)
        self._targets = Targets(config, classifier)
        self._scorer = Scorer(config.metrics, self._model, self._device, memory)
        self._feed = Feeder(self._device)
        self._mean = torch.tensor(classifier.transform.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(classifier.transform.std, device=self._device).view(1, 3, 1, 1)
        self._size = self._batch_size(share)
        # Only now: trials have sizes of their own, and Ray may call from another thread than this.
        if mode := config.compute.compile:
            self._model.split.trunk = compiled(self._model.split.trunk, mode)  # type: ignore[method-assign,assignment]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Explain a unit.

        Args:
            table: what `Loader` gives.

        Returns:
            One line per image, good or not: the columns of images and failures (`stage` null where it is good),
            `metrics` as lists by map, and the unit's tensors, packed.
        """
        try:
            return self._explained(table)
        except Exception as error:
            if not (self._on_ray and is_lost(error)):
                raise
            with ENDING:
                self._end(table["unit"][0].as_py(), error)
            raise

    def _end(self, unit: int, error: Exception) -> None:
        """End this process, which has lost its GPU: Ray starts an actor that has died anew, and repeats its units,
        however often. So what happens again and again at a unit is counted here.

        Raises:
            WorkerError: the unit has ended more than LOSSES processes.
        """
        folder = Folder(self._config.output.url, self._config.compute.patience)
        mark = f"{LOST}/{unit:08d}"
        losses = int(folder.read(mark) or 0) + 1
        if losses > LOSSES:
            raise WorkerError(
                f"{losses} processes in a row have lost their GPU at unit {unit}; what is done is kept. Look at the "
                f"GPU's driver and memory, or leave the shard out. torch says: {str(error).partition(chr(10))[0]}"
            ) from error
        folder.write(mark, str(losses).encode())
        print(f"this process has lost its GPU and ends; unit {unit} is repeated by another: {error}", flush=True)
        os._exit(LOST_CODE)

    def _explained(self, table: pa.Table) -> pa.Table:
        results = Results(table, self._layout, self._model.class_count)
        unit = self._unit(results)
        # Batches are of rows by their place in the unit, those that failed included: which rows fail decides neither
        # in which batch another lies nor where in it, and so not the last bit of its results.
        left = np.arange(len(table))
        before: list[Begun] = []
        while len(left):
            rows, left = np.split(left, [self._size])
            begun = self._begin(unit, rows, results)
            _take_over(before, results, unit.labels)
            before = begun
        _take_over(before, results, unit.labels)
        return results.table()

    def _begin(self, unit: "LoadedUnit", rows: Rows, results: Results) -> list["Begun"]:
        """Give a batch to the device; where it does not fit its memory, halves of it."""
        try:
            return self._batch(unit, rows, results)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Not in the except clause, in which the traceback would keep all tensors of the failed attempt.
        if len(rows) == 1:
            results.fail(int(rows[0]), "model", "one image alone takes more memory than the device has")
            return []
        self._make_do_with(-(-len(rows) // 2))
        return [one for half in np.array_split(rows, 2) for one in self._begin(unit, half, results)]

    def _make_do_with(self, size: int) -> None:
        """Smaller batches, and fewer masked images at a time, from now on."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._size = min(self._size, size)
        self._scorer.memory = max(1, self._scorer.memory // 2)
        self._question = replace(self._question, memory=self._scorer.memory)

    def _batch(self, unit: "LoadedUnit", rows: Rows, results: Results) -> list["Begun"]:
        """A batch of rows, or none where all of them fail; the places of those that do are filled with another row."""
        good = np.array([row for row in rows if results.notes["stage"][row] is None], np.intp)
        if not len(good):
            return []
        # Each size is compiled for by itself.
        size = max(len(rows), self._size) if self._config.compute.compile else len(rows)
        places = np.searchsorted(rows, good)
        sources = np.zeros(size, np.intp)
        sources[places] = np.arange(len(good))
        filled = good[sources]
        images = self._images(self._feed(unit.pixels, unit.places[filled]))
        region = None if unit.regions is None else self._regions(unit.regions[filled])
        target, reference = (self._known(column, filled) for column in (unit.targets, unit.references))
        with autocast(self._device, self._config.compute.precision):
            explanation = explain(
                self._model, images, self._question, target, None if reference is None else reference[:, None]
            )
            scores = self._scorer(images, explanation, region)
        return [Begun(good, places, fetch(answers(explanation, self._model.class_count)), fetch(scores))]

    def _batch_size(self, share: Resources) -> int:
        wanted = self._config.compute.batch_size
        if wanted != "auto":
            return wanted
        if self._device.type != "cuda":
            return CPU_BATCH
        budget = gpu_budget(self._device, self._config.compute.memory_fraction, share.gpus, share.units)
        if any(METHODS[wanted.cam].masked_passes for wanted in self._question.maps):
            budget -= self._question.memory
        most = min(LARGEST_BATCH, self._layout.rows_per_unit)
        # Each by itself: in small batches scoring may take more, and yet grow less from one to the next.
        trials = (partial(self._trial, scored=scored) for scored in (False, True))
        return min(largest_batch(gpu_peak(self._device, trial), budget, most) for trial in trials)

    def _trial(self, count: int, scored: bool) -> None:
        """A batch of black images, as far as memory is concerned; without what `masked_memory` bounds by itself, which
        can take minutes."""
        height, width = self._model.transform.size
        images = self._images(torch.zeros((count, height, width, 3), dtype=torch.uint8, device=self._device))
        region = torch.zeros((count, height, width), dtype=torch.bool, device=self._device)
        maps = tuple(wanted for wanted in self._question.maps if not METHODS[wanted.cam].masked_passes)
        question = replace(self._question, maps=maps or (Map("gradcam"),))
        with autocast(self._device, self._config.compute.precision):
            explanation = explain(self._model, images, question)
            if scored:
                each = explanation.maps[:, :1].expand(-1, len(self._question.maps), -1, -1)
                self._scorer(images, replace(explanation, maps=each), region)

    def _unit(self, results: Results) -> "LoadedUnit":
        """A unit's arrays and annotations; rows in which annotations fail are marked."""
        source = results.source
        height, width = self._model.transform.size
        pixels, places = unpack_some(source["pixels"], np.uint8, (height, width, 3))
        bits = -(-height * width // 8)
        regions = unpack(source["region"], np.uint8, (bits,)) if "region" in source.column_names else None
        unit = LoadedUnit(pixels, places, regions, [], [], [])
        columns = (source[name].to_pylist() for name in ("label", "concept", "base"))
        for row, (text, concept, base) in enumerate(zip(*columns, strict=True)):
            label = target = reference = None
            try:
                try:
                    label = self._targets.label(text)
                except TargetError as error:
                    if self._targets.need_labels:
                        raise
                    results.unknown_labels[row] = str(error)
                target, reference = self._targets.pair(label, concept, base)
            except TargetError as error:
                results.fail(row, error.stage, str(error))
            unit.labels.append(label)
            unit.targets.append(target)
            unit.references.append(reference)
        return unit

    def _images(self, pixels: Tensor) -> Tensor:
        """(n, h, w, 3) uint8 to (n, 3, h, w), normalised."""
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std

    def _known(self, column: list[int | None], rows: Rows) -> Tensor | None:
        """What is known of all rows, or of none."""
        if column[rows[0]] is None:
            return None
        return self._feed(np.array([-1 if value is None else value for value in column]), rows)

    def _regions(self, bits: NDArray[np.uint8]) -> Tensor:
        height, width = self._model.transform.size
        flat = np.unpackbits(bits, axis=1, count=height * width).reshape(-1, height, width)
        return self._feed(flat, np.arange(len(flat))).bool()


@dataclass(frozen=True)
class LoadedUnit:
    """A unit's images and annotations, by row.

    Attributes:
        pixels: (m, h, w, 3) uint8 of those that could be decoded.
        places: (n,) of each image among them; anything for those that could not.
        regions: (n, bytes) uint8, a bit a pixel; or None.
        labels, targets, references: None where there is none or the model is to choose.
    """

    pixels: NDArray[np.uint8]
    places: NDArray[np.int64]
    regions: NDArray[np.uint8] | None
    labels: list[int | None]
    targets: list[int | None]
    references: list[int | None]


@dataclass(frozen=True)
class Begun:
    """A batch that the device has been given.

    Attributes:
        rows: of the unit, those that are good.
        places: of these in the batch.
        answers, scores: wait for it, see `fetch`.
    """

    rows: Rows
    places: Rows
    answers: Callable[[], Arrays]
    scores: Callable[[], Arrays]


def _take_over(batches: list[Begun], results: Results, labels: list[int | None]) -> None:
    for batch in batches:
        labelled = [labels[row] for row in batch.rows]
        results.add(batch.rows, batch.places, batch.answers(), batch.scores(), labelled)
