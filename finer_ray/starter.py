"""A starter: the commented job file for data that somebody has."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from finer_ray.at_hand import can_be_had, installed_model
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import InputConfig
from finer_ray.errors import InputError
from finer_ray.images.sample import Sample
from finer_ray.models.classes import ClassNames
from finer_ray.saliency.methods import METHODS
from finer_ray.shards import Fields, ShardRef, fields_of, find_shards, index_shard, read_unit
from finer_ray.shards.files import is_local, locate
from finer_ray.shards.formats import FORMATS
from finer_ray.shards.splits import is_split

# Of the hub, with the weights of the models that are proposed.
REPOSITORIES = {
    "timm:vit_base_patch16_224": "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    "open_clip:ViT-B-16-quickgelu": "timm/vit_base_patch16_clip_224.openai",
}
# Samples that are looked at, of the first shard and of the last.
INSPECTED = 64
# What an annotation may be found as.
PARTS = ("image", "label", "box", "mask")
# Two classes of ImageNet are called `crane`, and lists tell them apart in their own ways.
MAX_ODD_NAMES = 10
MAX_MEMBER_BYTES = InputConfig.model_fields["max_member_bytes"].default


@dataclass(frozen=True)
class DataSummary:
    """What was found at a place.

    Attributes:
        place: as the user named it.
        refs: the shards.
        fields: those that differ from the format's defaults.
        count: images of the first shard.
        samples: those that were looked at; a negative integer, which marks absent labels, is None.
        classes: names, as far as they are known: of a classes.txt, as the format tells them, or of the samples.
        whole: whether these are all.
        numbered: whether labels are integers, so that the names' order is theirs.
        class_file: a classes.txt beside local shards, or None.
    """

    place: str
    refs: tuple[ShardRef, ...]
    fields: dict[str, str]
    count: int
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    whole: bool
    numbered: bool
    class_file: str | None

    def has(self, part: str) -> int:
        """How many of the samples have a label, box or mask."""
        return _has(self.samples, part)


def inspect_data(place: str) -> DataSummary:
    """Look at the shards of a place: a file, folder, glob or range, as `input.shards` takes it.

    Raises:
        InputError: nothing is there, formats are mixed, no image is found under any usual name, or an image folder's
            folders are splits.
    """
    refs = tuple(find_shards([place]))
    formats = sorted({ref.format for ref in refs})
    if len(formats) > 1:
        raise InputError(f"{place}: shards of several formats ({', '.join(formats)}); name those of one, as with *.tar")
    usual = fields_of(formats[0])
    fields = usual
    for part in PARTS:
        fields = _best(refs, fields, part)
    index = index_shard(refs[0], fields, INSPECTED)
    if FORMATS[formats[0]].folder:
        _refuse_splits(place, FORMATS[formats[0]].class_names(refs, fields))
    read = tuple(_read(refs, fields))
    samples = tuple(map(_without_mark, read))
    if not any(sample.image for sample in samples):
        reason = index.problem or next((sample.error for sample in samples if sample.error), "it is empty")
        raise InputError(f"{place}: no image found in {refs[0].url}: {reason}; see input.fields in docs/input.md")
    classes, whole, file = _classes(refs, fields, samples)
    if _has(read, "label") and not _has(samples, "label"):
        fields = replace(fields, label="")
    changed = {part: getattr(fields, part) for part in PARTS}
    changed = {part: name for part, name in changed.items() if name != getattr(usual, part)}
    numbered = any(isinstance(sample.label, int) for sample in read)
    return DataSummary(place, refs, changed, index.count, samples, classes, whole, numbered, file)


def job_text(found: DataSummary, output: str = "export") -> str:
    """The job as commented YAML, which `load_config` takes as it stands.

    Args:
        output: `output.url`.
    """
    model, why = _at_hand(*_model(found))
    fields = f"\n  fields: {_inline(found.fields)}" if found.fields else ""
    localised = found.has("box") + found.has("mask") > 0
    region = "localisation comes from them" if localised else "without them there is no localisation"
    others = ", ".join(name for name in METHODS if name != "gradcam")
    text = f"""\
# A job of finer-ray for {_inline(found.place)}
# {_count(len(found.refs), "shard")} ({found.refs[0].format}); the first holds {_count(found.count, "image")}.
# Of {_count(len(found.samples), "image")} looked at, {found.has("label")} have a label, {found.has("box")} a box, \
{found.has("mask")} a mask ({region}).
input:
  shards: {_inline(found.place)}{fields}
  max_failures: 0.2                # the job stops when a larger share of the images cannot be used
{why}
model: {_inline(model)}
saliency:
  target: predicted                # or label
  maps: [gradcam, finer_gradcam]   # a baseline, and the same against the closest classes; also
                                   # {others}
  gamma: 0.6                       # strength of the comparison
  references: 3                    # how many classes it is compared with
metrics: {{deletion: false, insertion: false, drops: false}}  # true: forward passes on masked images, which take time
output:
  url: {_inline(output)}
"""
    parse_config(yaml.safe_load(text))
    return text


def next_steps(job: str, output: str) -> list[str]:
    """What to type next."""
    return [
        f"finer-ray export {job} --dry-run    # what it would do, and how long that takes",
        f"finer-ray export {job}",
        f"finer-ray verify {output}",
        f"finer-ray report {output}",
        f"finer-ray query {output}",
    ]


def _best(refs: Sequence[ShardRef], fields: Fields, part: str) -> Fields:
    """Fields with the first name of a part under which any sample has it; unchanged where none has."""
    for name in (getattr(fields, part), *FORMATS[refs[0].format].other_fields.get(part, ())):
        tried = replace(fields, **{part: name})
        if _has(map(_without_mark, _read(refs[:1], tried)), part):
            return tried
    return fields


def _has(samples: Iterable[Sample], part: str) -> int:
    """How many of the samples have a label, box or mask."""
    return sum(getattr(sample, part) is not None for sample in samples)


def _read(refs: Sequence[ShardRef], fields: Fields) -> Iterator[Sample]:
    """The first samples of the first shard and of the last."""
    for ref in dict.fromkeys((refs[0], refs[-1])):
        index = index_shard(ref, fields, INSPECTED)
        if index.starts:
            yield from read_unit(ref, fields, index.starts[0], min(INSPECTED, index.count), MAX_MEMBER_BYTES)


def _without_mark(sample: Sample) -> Sample:
    """The sample, without a label where that is a negative integer, which in Hugging Face's test sets marks none."""
    return replace(sample, label=None) if isinstance(sample.label, int) and sample.label < 0 else sample


def _refuse_splits(place: str, folders: Sequence[str]) -> None:
    """Raise InputError where all folders on top of an image folder are splits."""
    if folders and all(map(is_split, folders)):
        first = next((name for name in folders if name.lower().startswith("train")), folders[0])
        raise InputError(
            f"{place}: the folders on top ({', '.join(folders)}) are splits, not classes: give "
            f"{place.rstrip('/')}/{first}"
        )


def _classes(
    refs: Sequence[ShardRef], fields: Fields, samples: Sequence[Sample]
) -> tuple[tuple[str, ...], bool, str | None]:
    """Names of classes, whether they are all, and the local classes.txt that has them."""
    fs, path = locate(refs[0].url)
    beside = f"{path.rsplit('/', 1)[0]}/classes.txt"
    if fs.exists(beside):
        names = fs.cat_file(beside).decode().splitlines()
        return tuple(name for name in names if name.strip()), True, str(beside) if is_local(fs) else None
    if published := FORMATS[refs[0].format].class_names(refs, fields):
        return tuple(published), True, None
    return tuple(sorted({sample.label for sample in samples if isinstance(sample.label, str)})), False, None


def _model(found: DataSummary) -> tuple[dict[str, Any], str]:
    """A model that suits the labels, and why it was chosen."""
    imagenet = {
        "backbone": "timm:vit_base_patch16_224",
        "weights": "augreg_in21k_ft_in1k",
        "head": "native",
        "classes": "imagenet-1k",
    }
    if not found.classes:
        if not found.has("label"):
            return imagenet, "An ImageNet classifier; labels are missing."
        del imagenet["classes"]
        meaning = "whose meaning must be given in model.classes (imagenet-1k, a file, a list)"
        return imagenet, f"An ImageNet classifier; labels are integers {meaning}."
    if _are_imagenet(found.classes, found.numbered):
        return imagenet, "The labels are classes of ImageNet."
    clip: dict[str, Any] = {"backbone": "open_clip:ViT-B-16-quickgelu", "weights": "openai", "head": "text"}
    clip["classes"] = found.class_file or list(found.classes)
    known = "all" if found.whole else "those seen: complete the list"
    return clip, f"Classes by their names ({known}). A trained head is better: finer-ray probe."


def _at_hand(model: dict[str, Any], why: str) -> tuple[dict[str, Any], str]:
    """The model, or where it can be had neither from the cache nor the network an installed one; and comments on it."""
    if can_be_had(REPOSITORIES[model["backbone"]]):
        return model, f"# {why}"
    other = installed_model()
    if other is None:
        return model, (
            f"# {why}\n# It is not in the cache, and the Hugging Face hub does not answer: run `finer-ray fetch` with "
            "this file\n# where there is a network, and bring the cache here."
        )
    if "classes" not in model:
        del other["classes"]
    fits = "" if model.get("classes") in (None, "imagenet-1k") else " It does not know the classes of this data."
    return other, (
        f"# An ImageNet classifier that is installed.{fits}\n# Where there is a network this suits better ({why})\n"
        f"# model: {_inline(model)}"
    )


def _are_imagenet(names: Sequence[str], numbered: bool) -> bool:
    """Whether these are classes of ImageNet; where labels are their numbers, all of them in its order."""
    imagenet = ClassNames.imagenet()
    places = [_place(imagenet, name) for name in names]
    if not numbered:
        return None not in places
    same = sum(place == number for number, place in enumerate(places))
    return len(names) == len(imagenet) and same >= len(imagenet) - MAX_ODD_NAMES


def _place(classes: ClassNames, name: str) -> int | None:
    try:
        return classes.index(name)
    except LookupError:
        return None


def _inline(value: Any) -> str:
    """A value as YAML, on one line whatever it holds: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
