"""The config of a probing job: backbones x data sets, one linear probe for each pair."""

import re
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from finer_ray.config.schema import ComputeConfig, InputConfig, ModelConfig, Place
from finer_ray.config.section import Positive, Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]{0,63}$")]
BACKBONE = "{backbone}"


class BackboneConfig(ModelConfig):
    """A backbone: the section `model` of an export's config, without head and classes."""

    name: Name | None = Field(None, description="of its row and files; null: made from `backbone`")

    @property
    def title(self) -> str:
        """The name of its row and files."""
        return self.name or re.sub(r"[^A-Za-z0-9_.+=-]+", "-", self.backbone.partition(":")[2]).lstrip(".")[:64]

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: object) -> object:
        if isinstance(value, dict) and (
            surplus := {"head", "classes", "activation", "templates", "concepts"} & value.keys()
        ):
            raise ValueError(f"a backbone takes no {', '.join(sorted(surplus))}: the classes are the data sets' own")
        return value

    def model(self, classes: Sequence[str]) -> ModelConfig:
        """The model that embeds images labelled with these classes."""
        return ModelConfig(**self.model_dump(exclude={"name", "head", "classes"}), head="none", classes=list(classes))


class ExportConfig(Section):
    """Exports that hold the embeddings already."""

    export: list[Place] = Field(
        min_length=1, description="folders or URLs of exports; {backbone} in them is the backbone's name"
    )

    @field_validator("export", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def urls(self, backbone: str) -> list[str]:
        """The exports of one backbone."""
        return [url.replace(BACKBONE, backbone) for url in self.export]


def _kind(value: object) -> str:
    exported = "export" in value if isinstance(value, dict) else isinstance(value, ExportConfig)
    return "ExportConfig" if exported else "InputConfig"


# Told apart by their keys, so that a fault is judged as what was meant.
Images = Annotated[
    Annotated[InputConfig, Tag("InputConfig")] | Annotated[ExportConfig, Tag("ExportConfig")], Discriminator(_kind)
]


class DatasetConfig(Section):
    """A data set: what the probe is trained on, and what it is judged by."""

    name: Name
    classes: Place | list[str] | None = Field(
        None,
        description="class names: imagenet-1k | a .txt or .json file | a list. Needed with shards; with exports, null "
        "means the export's own classes, and a list names its class indices anew",
    )
    train: Images
    test: Images | None = Field(None, description="held-out images; null: a share of the training images")
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.2, description="share of the training images that is held out where there is no test, by a hash of the key"
    )

    @model_validator(mode="after")
    def _shards_need_classes(self) -> Self:
        if self.classes is None and any(isinstance(part, InputConfig) for part in (self.train, self.test)):
            raise ValueError("shards need classes, the names that labels are looked up in")
        return self


class TrainingConfig(Section):
    """How a probe is trained: L-BFGS on the cross-entropy of standardised embeddings, with a ridge penalty."""

    penalty: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        1.0, description="on the squared weights, summed over all images: scikit-learn's 1 / C"
    )
    iterations: Positive = Field(500, description="at most; each reads the embeddings about once")
    normalize: bool = Field(False, description="bring embeddings to unit length first, as cosine probes do")
    seed: int = Field(0, description="decides which images are held out where there is no test; nothing else is random")
    cache_rows: Annotated[int, Field(ge=0)] = Field(
        65_536, description="embeddings kept in memory; of a larger data set all are read again in every iteration"
    )


class ProbesOutput(Section):
    """Where the probes go."""

    url: Place = Field(min_length=1, description="any fsspec URL or a local folder")


class ProbesConfig(Section):
    """A whole probing job."""

    backbones: list[BackboneConfig] = Field(min_length=1)
    datasets: list[DatasetConfig] = Field(min_length=1)
    probe: TrainingConfig = TrainingConfig()
    output: ProbesOutput
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for kind, names in (
            ("backbones", [backbone.title for backbone in self.backbones]),
            ("datasets", [dataset.name for dataset in self.datasets]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{kind}: the name {twice[0]!r} twice; give each a `name` of its own")
        if "embeddings" in {dataset.name for dataset in self.datasets}:
            raise ValueError("datasets: the name 'embeddings' is taken by a folder of the output")
        return self
