"""The job's config as pydantic models: types, ranges, defaults, and what each key means.

Only what needs no file and no model is checked here; what the files say (weights, shards, class names) is checked by
the parts that open them, still before Ray starts, and reported in the same form.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from finer_ray.config.section import Positive, Section, with_keys
from finer_ray.metrics.table import SWITCHES
from finer_ray.models.libraries import LIBRARIES
from finer_ray.models.library import Library
from finer_ray.saliency.aggregation import Aggregation
from finer_ray.saliency.methods import METHODS
from finer_ray.saliency.objective import Weighting
from finer_ray.saliency.spec import FINER, MapSpec, maps_of
from finer_ray.shards.formats import FORMATS
from finer_ray.urls import holds_secret

LOCAL_DIR = "local-dir:"
NO_SECRETS = "a URL must not hold a password, key, token or signature; give them by the environment (see SECURITY.md)"
MAP_NAMES = tuple(f"{prefix}{method}" for method in METHODS for prefix in ("", FINER))
if TYPE_CHECKING:
    CamName: TypeAlias = str
    MapName: TypeAlias = str
    FormatName: TypeAlias = str
else:
    CamName, MapName, FormatName = Literal[*METHODS], Literal[*MAP_NAMES], Literal[*FORMATS]

Side = Annotated[int, Field(ge=1, le=8192)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Gamma = Annotated[float, Field(ge=-10.0, le=10.0, allow_inf_nan=False)]


def without_secrets(url: str) -> str:
    """The URL itself; configs, manifests and logs are read by many. Raises ValueError where it holds a secret."""
    if holds_secret(url):
        raise PydanticCustomError("secret", NO_SECRETS)
    return url


# Of everything that may name a file, as a URL or a path.
Place = Annotated[str, AfterValidator(without_secrets)]


def _usual(field: str) -> str:
    """Where the formats have a field, for its description."""
    return ", ".join(f"{name}: {usual}" for name, format in FORMATS.items() if (usual := getattr(format.fields, field)))


class FieldsConfig(Section):
    """Where each annotation stands in a sample. Null, or no such key: the format's own. '': it is not read.

    `a;b` tries a, then b. A dot descends into a JSON member (`json.label`) or a Parquet struct.
    """

    renamed = {"concept": "text", "base": "contrast_text"}  # noqa: RUF012 - a ClassVar of Section

    image: str | None = Field(None, description="of a folder: the extensions to take; null and '' mean every known one")
    label: str | None = Field(
        None,
        description=f"null: the format's own ({_usual('label')}) | '': no label is read, and no image fails for the "
        "sake of one",
    )
    box: str | None = Field(None, description=f"null: the format's own ({_usual('box')})")
    mask: str | None = Field(None, description=f"null: the format's own ({_usual('mask')})")
    key: str | None = Field(None, description=f"null: the format's own ({_usual('key')})")
    text: str | None = Field(None, description="text that the image is asked about; no default")
    contrast_text: str | None = Field(None, description="text that it is compared with; no default")
    box_format: Literal["xyxy", "xywh"] = "xyxy"


class InputConfig(Section):
    """The image shards."""

    shards: list[Place] = Field(min_length=1, description="fsspec URLs, globs or {0000..0015} ranges")
    format: FormatName | None = Field(None, description="guessed from the URL when null")
    fields: FieldsConfig = FieldsConfig()
    max_failures: Share = Field(0.2, description="share of all images that may fail before the job stops")
    max_image_pixels: Positive = Field(
        100_000_000,
        description="images with more pixels become failures; decoding takes up to 20 bytes a pixel, a photo at a time "
        "on each CPU: 2 GB",
    )
    max_member_bytes: Positive = Field(256 * 2**20, description="members with more bytes become failures")
    on_changed: Literal["refuse", "replace", "keep"] = Field(
        "refuse",
        description="shards that changed or vanished since they were exported: stop | their rows are made anew, or "
        "leave the export | their rows stay as they were",
    )
    fast_jpeg: bool = Field(False, description="let the JPEG decoder halve very large photos; not exact")

    @model_validator(mode="before")
    @classmethod
    def _decoder_is_gone(cls, value: object) -> object:
        """Exports made while there was a choice of decoders go on."""
        if isinstance(value, dict) and value.get("decoder") == "cpu":
            value = {key: inner for key, inner in value.items() if key != "decoder"}
        return value

    @field_validator("shards", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class ModelConfig(Section):
    """The classifier that is explained."""

    backbone: Place = Field(
        pattern=rf"^({'|'.join(LIBRARIES)}):.+$",
        description=" | ".join(library.usage for library in LIBRARIES.values()),
    )
    weights: Place = Field(
        description="pretrained tag | path to safetensors or a weights_only checkpoint | "
        "package:NAME/FILE inside an installed Python package | random (seeded)"
    )
    match: Literal["name", "order"] = Field(
        "name",
        description="order: the checkpoint's tensors have other names but the backbone's order and shapes",
    )
    head: Place = Field(
        "native",
        description="native | text | path to a safetensors file (weight, bias) | none: embeddings alone, all logits 0",
    )
    classes: Place | list[str] | None = Field(
        None, description="class names: imagenet-1k | a .txt or .json file | a list; needed for head: text"
    )
    templates: list[str] = Field(
        ["a photo of a {}."], min_length=1, description="prompts for head: text, and for concepts"
    )
    concepts: Place | list[str] | None = Field(
        None, description="texts that may be asked about beside the classes: a .txt or .json file | a list; open_clip"
    )
    image_size: Side | tuple[Side, Side] | None = Field(None, description="null: the backbone's own")
    resize: Literal["shortest", "squash"] | None = None
    crop_pct: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pool: Literal["token", "avg"] | None = Field(
        None, description="of a ViT: class token | mean of the normalised patch tokens; null: its own"
    )
    seed: int = Field(0, description="for weights: random")

    @field_validator("templates")
    @classmethod
    def _templates_have_a_place(cls, value: list[str]) -> list[str]:
        for template in value:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold {{}} once, where the class name goes")
        return value

    @model_validator(mode="after")
    def _text_needs_names_and_a_text_tower(self) -> Self:
        if self.head == "text" and self.classes is None:
            raise ValueError("head: text needs model.classes, the names to put into the prompts")
        if self.head == "none" and (self.classes is None or self.concepts is not None):
            raise ValueError("head: none needs model.classes, where labels are looked up, and takes no concepts")
        if not self.library.text_tower and (self.head == "text" or self.concepts is not None):
            towers = " or ".join(name for name, library in LIBRARIES.items() if library.text_tower)
            asked = "head: text needs" if self.head == "text" else "concepts need"
            raise ValueError(f"{asked} a backbone with a text tower, of {towers}")
        return self

    @property
    def library(self) -> Library:
        """The library that the backbone is of."""
        return LIBRARIES[self.backbone.partition(":")[0]]


class MapConfig(Section):
    """A map with a name and settings of its own; what is null is as in the section `saliency`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.+=-]{1,64}$")
    cam: CamName
    gamma: Gamma | None = None
    aggregation: Aggregation | None = None
    weighting: Weighting | None = None
    reverse: bool = Field(False, description="what speaks for the references instead of the target")


# Told apart by their form, so that a fault is judged as what was meant.
AnyMap = Annotated[
    Annotated[MapName, Tag("a map's name")] | Annotated[MapConfig, Tag("a map of its own")],
    Discriminator(lambda value: "a map's name" if isinstance(value, str) else "a map of its own"),
]


class ConceptConfig(Section):
    """For `target: concept`: which text of `model.concepts` an image is asked about, and which it is compared with."""

    by: Literal["predicted", "label", "image"] = Field(
        "predicted",
        description="by its predicted class, by its label, or by its own fields text and contrast_text",
    )
    pairs: dict[str | int, tuple[str, str]] = Field({}, description="class, by name or index: [text, contrast_text]")
    default: tuple[str, str] | None = Field(None, description="[text, contrast_text] where there is no other")


@with_keys({name: (type(method.settings), method.settings) for name, method in METHODS.items() if method.settings})
class SaliencyConfig(Section):
    """What is explained, against what, and how (notation of the Finer-CAM supplementary)."""

    maps: list[AnyMap] = Field(["gradcam", "finer_gradcam"], min_length=1)
    gamma: Gamma = Field(0.6, description="strength of the comparison; above 1 extrapolates")
    references: Annotated[int, Field(ge=0, le=64)] = Field(3, description="K, the number of reference classes")
    selection: Literal["logit", "weight"] | list[int | str] = Field(
        "logit",
        description="closest logits | most similar classifier weights (Eq. 11) | classes by name or index",
    )
    aggregation: Aggregation = Field("mean_before_relu", description="over the references (Tab. 7)")
    weighting: Weighting = Field(
        "equal", description="of the references; probability: by the softmax among them, inside the graph"
    )
    target: Literal["predicted", "label", "concept"] | int | str = Field(
        "predicted", description="predicted | label | concept | one class by name or index"
    )
    concept: ConceptConfig | None = None

    def specs(self) -> tuple[MapSpec, ...]:
        """The maps, with what they leave open filled in."""
        return maps_of(self.model_dump())

    @field_validator("maps")
    @classmethod
    def _once_each(cls, value: list[AnyMap]) -> list[AnyMap]:
        names = [item if isinstance(item, str) else item.name for item in value]
        if len(set(names)) != len(names):
            raise ValueError("names a map twice")
        return value

    @model_validator(mode="after")
    def _concepts_belong_together(self) -> Self:
        if (self.target == "concept") != (self.concept is not None):
            raise ValueError("target: concept and the section saliency.concept need each other")
        return self


Fill = Literal["mean", "black", "white", "blur"]


@with_keys({name: (bool, Field(switch.default, description=switch.description)) for name, switch in SWITCHES.items()})
class Switches(Section):
    """The metrics that there are."""

    if TYPE_CHECKING:
        # The table's keys are not known to type checkers.
        def __getattr__(self, name: str) -> bool: ...


class MetricsConfig(Switches):
    """Which metrics are computed for every image and map."""

    steps: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="of deletion and insertion")
    fill: Fill = Field("mean", description="of masked pixels; mean: the colour that normalisation maps to zero")
    insert_into: Fill = Field("blur", description="what insertion starts from")

    if TYPE_CHECKING:

        def __init__(self, **keys: Any) -> None: ...


class OutputConfig(Section):
    """The export's place and shape."""

    url: Place = Field(min_length=1, description="any fsspec URL or a local folder")
    rows_per_unit: Annotated[int, Field(ge=1, le=2**20)] = Field(
        512, description="rows of one Zarr shard object = one unit of work"
    )
    rows_per_chunk: Positive = Field(32, description="rows that are read together; divides rows_per_unit")
    basis: bool = Field(True, description="store the contrast basis, from which any gamma is recomputed")
    embedding: bool = True
    lease_seconds: Annotated[float, Field(ge=1.0, le=86400.0)] = Field(
        60.0, description="without a sign of life, after which another run may take the output over"
    )

    @model_validator(mode="after")
    def _chunks_fill_units(self) -> Self:
        if self.rows_per_unit % self.rows_per_chunk:
            raise ValueError(f"rows_per_chunk {self.rows_per_chunk} must divide rows_per_unit {self.rows_per_unit}")
        return self


class ComputeConfig(Section):
    """Resources. Nothing here changes results beyond floating-point noise."""

    renamed = {"runner": "executor", "patience": "retry_seconds"}  # noqa: RUF012 - a ClassVar of Section

    executor: Literal["ray", "inline"] = Field(
        "ray", description="inline: everything in this process, one unit after the other, without Ray"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    actors_min: Positive = 1
    actors_max: Positive | None = Field(None, description="null: one per GPU, or one per two CPUs")
    gpus_per_actor: Annotated[float, Field(gt=0.0)] = 1.0
    cpus_per_actor: Annotated[float, Field(gt=0.0)] = 1.0
    threads_per_actor: Positive | None = Field(None, description="torch threads on CPU; null: CPUs / actors")
    decode_cpus: Annotated[float, Field(gt=0.0)] = Field(1.0, description="CPUs one decoding task takes")
    batch_size: Positive | Literal["auto"] = Field(
        "auto", description="images that go through the model together; auto: on a GPU what fits, on CPUs 32"
    )
    memory_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.8, description="share of a GPU's memory that all its actors together may take, for batch_size: auto"
    )
    units_per_actor: Positive | None = Field(
        None,
        description="units that an actor explains at a time, so that a GPU never waits; null: 2 on GPUs, 1 on CPUs and "
        "with CUDA graphs",
    )
    retry_seconds: Annotated[float, Field(ge=0.0, le=86400.0)] = Field(
        120.0, description="seconds for which a store that fails in passing (timeouts, 500, 503) is tried again"
    )
    masked_memory: Positive | None = Field(
        None, description="bytes that masked images may take at a time; null: 1 GiB, on GPUs up to an eighth of theirs"
    )
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32",
        description="of the model: fp32 is IEEE float32 on GPUs too | tf32: matrix products and convolutions on a "
        "GPU's tensor cores, 10 bits of mantissa | bf16, fp16: autocast, but for the head and the class token's last "
        "block | auto: bf16 for ViTs where all CPUs of the job multiply in it (AMX, AVX512-BF16), else fp32",
    )
    compile: bool | Literal["reduce-overhead", "max-autotune"] = Field(
        False,
        description="torch.compile the blocks before the CAM layer, by the mode named (both of these use CUDA graphs); "
        "pays on long runs",
    )

    @model_validator(mode="after")
    def _min_is_at_most_max(self) -> Self:
        if self.actors_max is not None and self.actors_max < self.actors_min:
            raise ValueError(f"actors_max {self.actors_max} is below actors_min {self.actors_min}")
        return self

    @model_validator(mode="after")
    def _graphs_are_of_one_thread(self) -> Self:
        if isinstance(self.compile, str) and (self.units_per_actor or 1) > 1:
            raise ValueError(
                f"compile: {self.compile} captures CUDA graphs, which one thread alone may do: units_per_actor must be "
                "1 or null; gpus_per_actor: 0.5 puts two actors on a GPU"
            )
        return self


class Config(Section):
    """A whole job."""

    input: InputConfig
    model: ModelConfig
    saliency: SaliencyConfig = SaliencyConfig()
    metrics: MetricsConfig = MetricsConfig()
    output: OutputConfig
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _concepts_are_given(self) -> Self:
        concept = self.saliency.concept
        if concept is not None and self.model.concepts is None:
            raise ValueError("saliency.concept needs model.concepts, the texts that it may name")
        if concept is not None and concept.by == "image" and not self.input.fields.text:
            raise ValueError("saliency.concept.by: image needs input.fields.text, where an image's text stands")
        return self

    @model_validator(mode="after")
    def _memory_is_of_one_process(self) -> Self:
        places = (self.output.url, *self.input.shards)
        if self.compute.executor == "ray" and any(place.startswith("memory://") for place in places):
            raise ValueError("memory:// is seen by this process alone: it needs compute.executor: inline")
        return self

    def fingerprint(self) -> str:
        """Hash of everything that decides the bytes of a row, as 16 hex digits.

        Left out: which shards (a later run may add some) and what is done about changed ones, where the export lies,
        resources, limits on failures, settings of methods that no map is drawn with, later metrics that
        are off, and the places of weights and
        class names (model and head have fingerprints of their own).
        """
        parts = fingerprinted(self.model_dump(mode="json"))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


# Keys by section that the fingerprint of a config leaves out.
UNCOVERED: Mapping[str, tuple[str, ...]] = {
    "input": ("shards", "max_failures", "on_changed"),
    "model": ("weights", "head", "classes", "concepts"),
    "output": ("url", "lease_seconds"),
}


def fingerprinted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that its fingerprint covers.

    Args:
        tree: of a whole config, as `model_dump(mode="json")` gives it and a manifest holds it.
    """
    parts = {
        name: {key: value for key, value in section.items() if key not in UNCOVERED.get(name, ())}
        for name, section in tree.items()
    }
    for cam in METHODS.keys() - {wanted.cam for wanted in maps_of(parts["saliency"])}:
        parts["saliency"].pop(cam, None)
    named = {name for name, switch in SWITCHES.items() if switch.always}
    parts["metrics"] = {key: value for key, value in parts["metrics"].items() if key in named or value is not False}
    # By the names that keys had first, so that fingerprints stay.
    before = {new: old for old, new in FieldsConfig.renamed.items()}
    fields = parts["input"]["fields"]
    parts["input"]["fields"] = {before.get(key, key): value for key, value in fields.items()}
    if parts["input"].get("decoder") == "cpu":
        # Of exports made while there was a choice.
        del parts["input"]["decoder"]
    # Of a local folder the content counts, not its place: the model's fingerprint covers it.
    parts["model"]["backbone"] = re.sub(f"(?<=:{LOCAL_DIR}).*", "", parts["model"]["backbone"])
    parts["compute"] = {"precision": parts["compute"]["precision"]}
    return parts
