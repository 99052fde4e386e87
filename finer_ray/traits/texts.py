"""Texts: which of the model's concepts says best what the cells of a trait show. Alone in needing the model and photos.

Evidence of a concept q at a cell is M_q = sum_channels alpha_q A, as of a class. Concepts differ in how much of it they
have everywhere, so each is compared with itself: e_q(cell) = (M_q(cell) - mean of the image's M_q) / their standard
deviation. A text's score at a cell is e_q less the mean of e over all other concepts there, and a trait's text is that
with the largest mean score over its strongest cells.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finer_ray.config.loading import parse_section
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ExportError, QueryError
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.preparing import prepare
from finer_ray.report.photos import try_rows
from finer_ray.saliency.explanation import head_cotangents
from finer_ray.saliency.gradcam import contrast_basis
from finer_ray.saliency.objective import wide
from finer_ray.store.reading import Export
from finer_ray.traits.images import Watch
from finer_ray.traits.trait import Trait

# Of a trait, its strongest, one of each image.
CELLS = 8
# Images that go through the model together, and concepts whose derivatives are taken together.
IMAGES, CONCEPTS = 16, 64
# Rows whose photos are looked for together.
ROWS = 4096


def with_texts(
    export: Export, traits: Sequence[Trait], watch: Watch = lambda items, what: items
) -> tuple[list[Trait], int]:
    """Traits with `text` and `text_score`; without, where none of their photos can be read again.

    Args:
        export: whose model has concepts, and whose shards are there.
        traits: of it.
        watch: told of the rows that are read, some at a time.

    Returns:
        The traits, and how many photos could not be read again.

    Raises:
        QueryError: the export's model has no concepts. ExportError: it is not there any more as it was. ConfigError: it
            cannot be built.
    """
    model = _model(export)
    device = next(model.parameters()).device
    asked: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, trait in enumerate(traits):
        for cell in trait.cells[:CELLS]:
            asked[cell.row].append((place, cell.cell))
    sums, counts = np.zeros((len(traits), len(model.concepts))), np.zeros(len(traits), np.int64)
    seen = 0
    rows = sorted(asked)
    for first in watch(range(0, len(rows), ROWS), "texts"):
        for some, pixels in _photos(export, rows[first : first + ROWS]):
            seen += len(some)
            values = scores(concept_evidence(model, pixels.to(device)))
            for row, grid in zip(some, values, strict=True):
                for place, number in asked[row]:
                    # Cells are numbered in the largest grid.
                    y, x = divmod(number, export.manifest.layout.grid[1])
                    sums[place] += grid[:, y, x]
                    counts[place] += 1
    best = sums.argmax(1)
    named = [
        replace(trait, text=model.concepts.names[q], text_score=float(total[q] / count)) if count else trait
        for trait, q, total, count in zip(traits, best.tolist(), sums, counts.tolist(), strict=True)
    ]
    return named, len(asked) - seen


def concept_evidence(model: Classifier, images: Tensor) -> NDArray[np.float32]:
    """M_q of every concept at every cell, (B, Q, h, w).

    Args:
        model: with Q concepts.
        images: (B, H, W, 3) uint8 on the model's device.
    """
    mean, std = (torch.tensor(values, device=images.device) for values in (model.transform.mean, model.transform.std))
    cut = model.cut(((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous())
    # Concepts follow the classes.
    numbers = torch.arange(len(model.concepts), device=images.device) + model.class_count
    found = []
    for some in numbers.split(CONCEPTS):
        classes = some.expand(len(images), -1)
        alpha = cut.mean_gradient(head_cotangents(model.head, cut.embedding, classes))
        found.append(contrast_basis(wide(cut.activation), alpha).cpu().numpy())
    return np.concatenate(found, axis=1)


def scores(evidence: NDArray[Any]) -> NDArray[np.float64]:
    """How much each concept stands out at each cell, against itself elsewhere and the other concepts there.

    Args:
        evidence: M_q, (B, Q, h, w).

    Returns:
        (B, Q, h, w).

    >>> scores(np.array([[[[3.0, 1.0]], [[5.0, 5.0]]]])).ravel().tolist()
    [1.0, -1.0, -1.0, 1.0]
    """
    values = evidence.astype(np.float64)
    values = values - values.mean((2, 3), keepdims=True)
    spread = values.std((2, 3), keepdims=True)
    values = np.divide(values, spread, out=np.zeros_like(values), where=spread > 0)
    others = max(1, values.shape[1] - 1)
    result: NDArray[np.float64] = values - (values.sum(1, keepdims=True) - values) / others
    return result


def check_concepts(export: Export) -> None:
    """Raises QueryError where the export's model has no concepts."""
    if not export.manifest.concepts:
        raise QueryError(
            f"--texts: the model of {export.folder.url} has no concepts; name texts in model.concepts (of open_clip "
            "models), and export to another output.url"
        )


def _model(export: Export) -> Classifier:
    """The model that made the export, in float32, on a GPU where there is one."""
    check_concepts(export)
    classifier = build_classifier(parse_section(ModelConfig, export.manifest.config["model"]))
    for name in ("model", "head"):
        ours, theirs = (getattr(made, f"{name}_fingerprint") for made in (classifier, export.manifest))
        if ours != theirs:
            raise ExportError(
                f"--texts: the files of the export's {name} have changed (their fingerprint is {ours}, the export's "
                f"{theirs}): put those back that {export.folder.url} was made with"
            )
    return prepare(classifier, torch.device("cuda" if torch.cuda.is_available() else "cpu"), "fp32")


def _photos(export: Export, rows: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Some rows and their photos as the model saw them, (n, H, W, 3) uint8, of one size at a time; those that cannot be
    read again are left out."""
    kept: list[int] = []
    photos: list[NDArray[np.uint8]] = []
    for row, found in try_rows(export, rows, region=False):
        if isinstance(found, str):
            continue
        if kept and (len(kept) == IMAGES or found.image.shape != photos[0].shape):
            yield kept, torch.from_numpy(np.stack(photos))
            kept, photos = [], []
        kept.append(row)
        photos.append(found.image)
    if kept:
        yield kept, torch.from_numpy(np.stack(photos))
