"""Accuracy: how well a classifier with a text head knows species and attributes."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from birds.species import ATTRIBUTES, SPECIES, VARIED, attribute, values
from finer_ray.models import Classifier

BATCH = 64


def accuracies(
    classifier: Classifier, images: list[NDArray[np.uint8]], labels: NDArray[np.int64]
) -> dict[str, float | dict[str, float]]:
    """What share of images a zero-shot classifier gets right.

    Args:
        classifier: its classes are the names of SPECIES; its concepts begin with ATTRIBUTES.
        images: (H, W, 3) each.
        labels: (N,) indices into SPECIES.

    Returns:
        zero_shot: the right one of 24 names; within_genus: of the 4 of the right genus; genus: the predicted name
        is of the right genus; by_genus: zero_shot of each; attributes: mean over parts and images, of the part's values
        the right text first; by_part: the same for each part.
    """
    logits = _logits(classifier, images)
    names, texts = logits[:, : len(SPECIES)], logits[:, len(SPECIES) :]
    genus = labels // 4
    own = names.reshape(-1, len(SPECIES) // 4, 4)[np.arange(len(labels)), genus]
    by_part = {part: float(_chosen(texts, part, labels).mean()) for part in VARIED}
    right = names.argmax(1) == labels
    return {
        "zero_shot": float(right.mean()),
        "within_genus": float((own.argmax(1) == labels % 4).mean()),
        "genus": float((names.argmax(1) // 4 == genus).mean()),
        "by_genus": {SPECIES[4 * one].genus: float(right[genus == one].mean()) for one in np.unique(genus)},
        "attributes": float(np.mean(list(by_part.values()))),
        "by_part": by_part,
    }


def _chosen(texts: NDArray[np.float32], part: str, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image prefers the right text of a part's values, (N,)."""
    columns = [ATTRIBUTES.index(attribute(part, value)) for value in values(part)]
    right = np.array([values(part).index(SPECIES[label].parts[part]) for label in labels])
    chosen: NDArray[np.bool_] = texts[:, columns].argmax(1) == right
    return chosen


def _logits(classifier: Classifier, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Of classes and, after them, concepts: (N, C + Q)."""
    transform = classifier.transform
    pixels = torch.from_numpy(np.stack([transform.apply(Image.fromarray(image)) for image in images]))
    inputs = (pixels.permute(0, 3, 1, 2) / 255 - _column(transform.mean)) / _column(transform.std)
    return torch.cat([classifier(batch) for batch in inputs.split(BATCH)]).numpy()


def _column(channels: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(channels)[:, None, None]
