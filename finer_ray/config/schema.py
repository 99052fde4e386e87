"""The job's config as pydantic models: types, ranges, defaults, and what each key means.

Only what needs no file and no model is checked here; what the files say (weights, shards, class names) is checked by
the parts that open them, still before Ray starts, and reported in the same form.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from finer_ray.config.section import Positive, Section, with_keys
from finer_ray.metrics.table import SWITCHES
from finer_ray.models.libraries import LIBRARIES
from finer_ray.models.library import LOCAL_DIR, Library
from finer_ray.saliency.aggregation import Aggregation
from finer_ray.saliency.methods import METHODS
from finer_ray.saliency.objective import Weighting
from finer_ray.saliency.parts import MOST_PARTS
from finer_ray.saliency.selection import Ranking
from finer_ray.saliency.spec import FINER, MapSpec, maps_of
from finer_ray.saliency.split_classifier import Activation
from finer_ray.shards.formats import FORMATS
from finer_ray.store.tables import IMAGES
from finer_ray.urls import NO_SECRETS, holds_secret

# Of `output.patches`, where the config says nothing.
PATCHES = 16
# Of `model.weights`: those that the backbone's folder or repository holds.
OWN_WEIGHTS = "pretrained"
MAP_NAMES = tuple(f"{prefix}{method}" for method in METHODS for prefix in ("", FINER))
if TYPE_CHECKING:
    CamName: TypeAlias = str
    MapName: TypeAlias = str
    FormatName: TypeAlias = str
else:
    CamName, MapName, FormatName = Literal[*METHODS], Literal[*MAP_NAMES], Literal[*FORMATS]

# A value of `model.kwargs`.
Plain: TypeAlias = bool | int | float | str
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
        "sake of one; of a list, its only one",
    )
    box: str | None = Field(None, description=f"null: the format's own ({_usual('box')})")
    mask: str | None = Field(None, description=f"null: the format's own ({_usual('mask')})")
    key: str | None = Field(None, description=f"null: the format's own ({_usual('key')})")
    text: str | None = Field(None, description="text that the image is asked about; no default")
    contrast_text: str | None = Field(None, description="text that it is compared with; no default")
    references: str | None = Field(
        None,
        description="the classes that the image is compared with, at most K: a list of names or indices, or text with "
        "; between them; images without are compared as saliency.selection says; no default",
    )
    parts: str | None = Field(
        None,
        description="an image of part ids, one a pixel: grey values or places in a palette, 0 for none, such as "
        "parts.png; not of a folder; no default",
    )
    box_format: Literal["xyxy", "xywh"] = "xyxy"


def _named(columns: object) -> object:
    """A list of fields as a mapping from names: the last part of each first alternative, of `json.a.sex` `sex`."""
    if isinstance(columns, str):
        columns = [columns]
    if not isinstance(columns, list):
        return columns
    if other := [field for field in columns if not isinstance(field, str)]:
        raise ValueError(f"must be a list of fields, or a mapping from names to fields; {other[0]!r} is no field")
    names = [(re.split(r"[.;]", field.partition(";")[0].strip())[-1], field) for field in columns]
    if twice := [name for name, count in Counter(name for name, _ in names).items() if count > 1]:
        raise ValueError(f"two of them are called {twice[0]!r}; name them, as in {{my_{twice[0]}: FIELD, ...}}")
    return dict(names)


def _new_names(columns: dict[str, str]) -> dict[str, str]:
    """The columns; DuckDB takes no notice of case, so names must differ in more than that."""
    taken = {name.lower() for name in IMAGES.names}
    for name, field in columns.items():
        if not name or not field:
            raise ValueError(f"{name!r}: {field!r} must name a column and a field")
        if name.lower() in taken:
            raise ValueError(
                f"images has a column {name.lower()!r} already; give another name, as in {{my_{name}: {field}}}"
            )
        taken.add(name.lower())
    return columns


Columns = Annotated[
    dict[str, str],
    AfterValidator(_new_names),
    BeforeValidator(_named, json_schema_input_type=list[str] | dict[str, str]),
]


class InputConfig(Section):
    """The image shards."""

    shards: list[Place] = Field(min_length=1, description="fsspec URLs, globs or {0000..0015} ranges")
    format: FormatName | None = Field(None, description="guessed from the URL when null")
    fields: FieldsConfig = FieldsConfig()
    columns: Columns = Field(
        {},
        description="of your own, kept in the table images: fields as those above, [species, json.sex], or by the "
        "names they are to have, {sex: json.sex}",
    )
    part_names: Place | list[str] | None = Field(
        None,
        description="names of the parts of input.fields.parts, id 1 first: a .txt or .json file | a list; null: their "
        "numbers; an image with an id beyond them fails",
    )
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

    def places(self) -> dict[str, Any]:
        """Where the parts of a sample stand, for `finer_ray.shards.fields_of`."""
        return {**self.fields.model_dump(), "columns": tuple(self.columns.items())}

    @model_validator(mode="after")
    def _names_are_of_parts(self) -> Self:
        if self.part_names is not None and not self.fields.parts:
            raise ValueError("part_names needs fields.parts, where an image's part mask stands, such as parts.png")
        if isinstance(self.part_names, list) and not 1 <= len(self.part_names) <= MOST_PARTS:
            raise ValueError(f"part_names has {len(self.part_names)} names; 1 to {MOST_PARTS} are right")
        return self

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
        OWN_WEIGHTS,
        validate_default=True,
        description="pretrained tag | path to safetensors or a weights_only checkpoint | "
        "package:NAME/FILE inside an installed Python package | random (seeded) | pretrained: those of a repository or "
        "folder, which need not be said; all other backbones need this key",
    )
    match: Literal["name", "order"] = Field(
        "name",
        description="order: the checkpoint's tensors have other names but the backbone's order and shapes",
    )
    head: Place = Field(
        "native",
        description="native | text | path to a linear layer, of safetensors or a weights_only checkpoint | none: "
        "embeddings alone, all logits 0",
    )
    head_scale: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = Field(
        None,
        description="of a head whose rows are embeddings of texts: logits are this times their cosines with the "
        "image's embedding (CLIP: 100); null: as the file says",
    )
    classes: Place | list[str] | None = Field(
        None, description="class names: imagenet-1k | a .txt or .json file | a list; needed for head: text"
    )
    activation: Activation = Field(
        "softmax",
        description="from logits to probabilities: softmax, of one class among all | sigmoid, of each class by itself "
        "(multi-label classifiers)",
    )
    templates: list[str] = Field(
        ["a photo of a {}."], min_length=1, description="prompts for head: text, and for concepts"
    )
    concepts: Place | list[str] | None = Field(
        None, description="texts that may be asked about beside the classes: a .txt or .json file | a list; open_clip"
    )
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="null: the backbone's own; of resize: native the largest that there is"
    )
    resize: Literal["shortest", "squash", "pad", "native"] | None = Field(
        None,
        description="shortest: the photo's centre | squash: all of it, stretched | pad: all of it, with borders | "
        "native: all of it, in its own aspect, never enlarged, sides multiples of the patch (32 of CNNs); null: the "
        "backbone's own",
    )
    crop_pct: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pool: Literal["token", "avg"] | None = Field(
        None, description="of a ViT: class token | mean of the normalised patch tokens; null: its own"
    )
    cam_layer: str = Field(
        "default",
        min_length=1,
        description="where the model is cut; default: of a ViT the last block's first norm, of a CNN the last feature "
        "map | final: what is averaged before a linear head, each cell's exact share in the logit | a module's name "
        "(blocks.9)",
    )
    seed: int = Field(0, description="for weights: random")
    kwargs: dict[str, Plain | list[Plain]] = Field(
        {}, description="further arguments of the library's create function, such as pad_type: same (timm)"
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _only_folders_have_weights_of_their_own(cls, value: object, info: ValidationInfo) -> object:
        library, _, name = str(info.data.get("backbone", "")).partition(":")
        if value == OWN_WEIGHTS and library in LIBRARIES and not LIBRARIES[library].is_folder(name):
            # In place of pydantic's own, which knows no key that some values of another one need.
            raise PydanticCustomError("missing", "this key is needed")
        return value

    @field_validator("templates")
    @classmethod
    def _templates_have_a_place(cls, value: list[str]) -> list[str]:
        for template in value:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold {{}} once, where the class name goes")
        return value

    @model_validator(mode="after")
    def _native_shows_all(self) -> Self:
        if self.resize == "native" and (self.crop_pct or 1.0) < 1.0:
            raise ValueError("crop_pct goes with a crop, and resize: native shows the whole photo")
        return self

    @model_validator(mode="after")
    def _text_needs_names_and_a_text_tower(self) -> Self:
        if self.head == "text" and self.classes is None:
            raise ValueError("head: text needs model.classes, the names to put into the prompts")
        if self.head_scale is not None and self.head in ("native", "text", "none"):
            raise ValueError(f"head_scale is of a head that is a file, and head is {self.head}")
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


class TargetsConfig(Section):
    """Several targets for each image, the highest logit first; exactly one of the two."""

    top: Annotated[int, Field(ge=1, le=16)] | None = Field(None, description="the classes with the highest logits")
    positives: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None,
        description="at most so many, those whose sigmoid is 0.5 or more, and the highest class in any case; needs "
        "model.activation: sigmoid",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.top is None) == (self.positives is None):
            raise ValueError("give one of top and positives, as in {top: 3}")
        return self

    @property
    def count(self) -> int:
        """Targets of an image, at most."""
        return self.top or self.positives or 1


AnyTarget = Annotated[
    Annotated[Literal["predicted", "label", "concept"] | int | str, Tag("one target")]
    | Annotated[TargetsConfig, Tag("several targets")],
    Discriminator(lambda value: "several targets" if isinstance(value, dict | TargetsConfig) else "one target"),
]


class ClassReferences(Section):
    """The references of each class; a class that is left out has none, and its maps are the baseline's."""

    file: Place | None = Field(
        None, description="a .json file, {class: [classes]}, by name or index; the longest list is K"
    )
    classes: dict[str | int, list[str | int]] | None = Field(
        None, description="the same here; of a file, what it holds is put here when the job begins"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.file is None and self.classes is None:
            raise ValueError("needs file (of JSON), or classes")
        return self


class Within(Section):
    """References are of the target's taxon alone; where it has fewer than K others, there are fewer references."""

    file: Place | None = Field(
        None, description="a .csv (or .tsv) file with a header; its first column names the classes, all of the model's"
    )
    level: str = Field(min_length=1, description="the column of the taxon, such as genus; empty: a class has none")
    taxa: dict[str, list[str | int]] | None = Field(
        None,
        description="classes by taxon, instead of a file; of a file, what it says of the model's classes is put here "
        "when the job begins",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.file is None and self.taxa is None:
            raise ValueError("needs file (of CSV), or taxa")
        return self


# Told apart by their form, as maps are.
AnySelection = Annotated[
    Annotated[Ranking, Tag("a ranking")]
    | Annotated[list[int | str], Tag("a list")]
    | Annotated[ClassReferences, Tag("references by class")],
    Discriminator(
        lambda value: (
            "a list"
            if isinstance(value, list | tuple)
            else "references by class"
            if isinstance(value, dict | ClassReferences)
            else "a ranking"
        )
    ),
]


@with_keys({name: (type(method.settings), method.settings) for name, method in METHODS.items() if method.settings})
class SaliencyConfig(Section):
    """What is explained, against what, and how (notation of the Finer-CAM supplementary)."""

    maps: list[AnyMap] = Field(["gradcam", "finer_gradcam"], min_length=1)
    gamma: Gamma = Field(0.6, description="strength of the comparison; above 1 extrapolates")
    references: Annotated[int, Field(ge=0, le=64)] = Field(3, description="K, the number of reference classes")
    selection: AnySelection = Field(
        "logit",
        description="logit: closest logits | weight: most similar classifier weights (Eq. 11) | top: highest other "
        "logits | classes by name or index | {file: references.json}: by class. Images may name their own, see "
        "input.fields.references",
    )
    within: Within | None = Field(
        None, description="{file: taxonomy.csv, level: genus}: logit, weight and top among the target's taxon alone"
    )
    aggregation: Aggregation = Field("mean_before_relu", description="over the references (Tab. 7)")
    weighting: Weighting = Field(
        "equal", description="of the references; probability: by the softmax among them, inside the graph"
    )
    target: AnyTarget = Field(
        "predicted",
        description="predicted | label | concept | one class by name or index | several for each image: {top: 3} or "
        "{positives: 5}",
    )
    concept: ConceptConfig | None = None
    registration: Literal["measured", "stretch"] = Field(
        "measured",
        description="how maps meet pixels: by the centres of the model's cells, measured once | by stretching the grid "
        "over the input, as other libraries do, and as exports of earlier versions did",
    )

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

    @model_validator(mode="after")
    def _rankings_are_within(self) -> Self:
        if self.within is not None and not isinstance(self.selection, str):
            raise ValueError("within needs selection: logit, weight or top")
        if self.target == "concept" and (self.within is not None or isinstance(self.selection, ClassReferences)):
            raise ValueError("references by class and within a taxon need a target that is a class")
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

    steps: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="of deletion, insertion and srg")
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
    patches: Annotated[int, Field(ge=0, le=1024)] = Field(
        PATCHES,
        description="cells with the most evidence in the finer map, of which where they lie and what the model sees "
        "there is stored: for traits; 2.1 kB an image. 0: none",
    )
    map_embedding: bool = Field(
        False,
        description="store what the model sees where the finer map is high, as one vector an image, for finer-ray "
        "similar --by map; 2 bytes a channel",
    )
    pairs: bool = Field(True, description="at the end, make the table of pairs of classes, as finer-ray pairs does")
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


# Of a unit's pixels, where their sizes differ and are likely to be large.
UNIT_BYTES = 2**30


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
        if concept is not None and self.input.fields.references:
            raise ValueError("input.fields.references are classes; saliency.target: concept compares with a text")
        return self

    @model_validator(mode="after")
    def _native_sizes_are_many(self) -> Self:
        if self.model.resize != "native":
            return self
        if self.compute.compile:
            raise ValueError(
                "compute.compile compiles for one size of images, and model.resize: native has many: leave one out"
            )
        size = self.model.image_size or 0
        height, width = (size, size) if isinstance(size, int) else size
        rows, pixels = self.output.rows_per_unit, 3 * height * width
        if rows * pixels > UNIT_BYTES:
            raise ValueError(
                f"output.rows_per_unit: {rows} images of up to {width}x{height} pixels may take "
                f"{rows * pixels / 2**30:.1f} GiB in each process that loads them; with model.resize: native it must "
                f"be {UNIT_BYTES // pixels} at most (less than {UNIT_BYTES / 2**30:.0f} GiB), and a multiple of "
                "output.rows_per_chunk"
            )
        return self

    @model_validator(mode="after")
    def _positives_are_of_sigmoids(self) -> Self:
        target = self.saliency.target
        if isinstance(target, TargetsConfig) and target.positives and self.model.activation != "sigmoid":
            raise ValueError("saliency.target: {positives: ...} needs model.activation: sigmoid; {top: ...} does not")
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
        are off, softmax, tables that are computed from what is stored, and the places of weights and
        class names (model and head have fingerprints of their own).
        """
        return fingerprint_of(self.model_dump(mode="json"))


# Keys by section that the fingerprint of a config leaves out.
UNCOVERED: Mapping[str, tuple[str, ...]] = {
    "input": ("shards", "max_failures", "on_changed"),
    "model": ("weights", "head", "head_scale", "classes", "concepts"),
    "output": ("url", "pairs", "lease_seconds"),
}


# Of `input.fields`, what exports were made without before there was any.
LATER_FIELDS = ("references", "parts")


def fingerprint_of(tree: Mapping[str, Any]) -> str:
    """The fingerprint of a config, see `Config.fingerprint`, given as a manifest holds it."""
    return hashlib.sha256(json.dumps(fingerprinted(tree), sort_keys=True).encode()).hexdigest()[:16]


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
    if parts["saliency"].get("registration") == "stretch":
        # Of exports made before there was a choice.
        del parts["saliency"]["registration"]
    named = {name for name, switch in SWITCHES.items() if switch.always}
    parts["metrics"] = {key: value for key, value in parts["metrics"].items() if key in named or value is not False}
    if parts["model"].get("activation") == "softmax":
        # There was no other before the key.
        del parts["model"]["activation"]
    # By the names that keys had first, so that fingerprints stay.
    before = {new: old for old, new in FieldsConfig.renamed.items()}
    fields = parts["input"]["fields"]
    parts["input"]["fields"] = {
        before.get(key, key): value for key, value in fields.items() if key not in LATER_FIELDS or value
    }
    if parts["input"].get("part_names") is None:
        parts["input"].pop("part_names", None)
    if not parts["input"].get("columns"):
        parts["input"].pop("columns", None)
    # Of a file its content counts, not its place.
    for key in ("selection", "within"):
        if isinstance(section := parts["saliency"].get(key), Mapping):
            parts["saliency"][key] = {name: value for name, value in section.items() if name != "file"}
    if parts["saliency"].get("within") is None:
        parts["saliency"].pop("within", None)
    if parts["input"].get("decoder") == "cpu":
        # Of exports made while there was a choice.
        del parts["input"]["decoder"]
    # Of a folder or a repository the content counts, not its place: the model's fingerprint covers it.
    library, _, name = parts["model"]["backbone"].partition(":")
    if library in LIBRARIES and LIBRARIES[library].is_folder(name):
        parts["model"]["backbone"] = f"{library}:{LOCAL_DIR}"
    # Of exports made before there was a choice.
    if parts["model"].get("cam_layer") == "default":
        del parts["model"]["cam_layer"]
    if not parts["model"].get("kwargs"):
        parts["model"].pop("kwargs", None)
    if parts["output"].get("patches") == PATCHES:
        # Exports made before there were any go on without.
        del parts["output"]["patches"]
    if not parts["output"].get("map_embedding"):
        parts["output"].pop("map_embedding", None)
    parts["compute"] = {"precision": parts["compute"]["precision"]}
    return parts
