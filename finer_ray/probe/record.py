"""The record of a probe: what it was trained on, and how well it does."""

import json
from typing import Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from finer_ray.models.head import probe_metadata
from finer_ray.probe.config import TrainingConfig

ACCURACIES = pa.schema(
    [
        pa.field("backbone", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("held_out_accuracy", pa.float64()),
        pa.field("held_out_count", pa.int64(), nullable=False),
        pa.field("train_accuracy", pa.float64(), nullable=False),
        pa.field("train_count", pa.int64(), nullable=False),
        pa.field("class_count", pa.int64(), nullable=False),
        pa.field("untrained", pa.list_(pa.string()), nullable=False),
        pa.field("unlabelled", pa.int64(), nullable=False),
        pa.field("unknown", pa.int64(), nullable=False),
        pa.field("failed", pa.int64(), nullable=False),
        pa.field("iterations", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("model_fingerprint", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
    ]
)


class Record(BaseModel):
    """One probe. Stored in the metadata of its file, each field as JSON.

    Attributes:
        backbone, dataset: names.
        held_out_accuracy, train_accuracy: top-1, 0 to 1; None where no image is held out.
        held_out_count, train_count: images that they are over.
        class_count: C.
        untrained: classes with no training image.
        unlabelled, unknown, failed: images of both parts that were not used: with no label that is a class of their
            export, with one that is none of the probe's, or lines of failures for another reason.
        iterations: of the training; as many as its settings allow mean that it has not converged.
        fingerprint: of everything that decides the probe.
        model_fingerprint: of the backbone with its weights.
        model: the backbone's section of the exports' config.
        settings: of the training.
        versions: of the packages that decide results.
    """

    model_config = ConfigDict(frozen=True)

    backbone: str
    dataset: str
    held_out_accuracy: float | None
    held_out_count: int
    train_accuracy: float
    train_count: int
    class_count: int
    untrained: list[str]
    unlabelled: int
    unknown: int
    failed: int
    iterations: int
    fingerprint: str
    model_fingerprint: str
    model: dict[str, object]
    settings: TrainingConfig
    versions: dict[str, str]

    def notes(self) -> dict[str, str]:
        """The fields as metadata of a safetensors file."""
        return {name: json.dumps(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """The record in a probe's file; None where the file holds none."""
        try:
            notes = probe_metadata(content)
            return cls.model_validate({name: json.loads(notes[name]) for name in cls.model_fields})
        except (ValueError, KeyError):
            return None
