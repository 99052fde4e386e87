"""Plan of the faithfulness study: which class is asked about what, and the jobs that ask it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError
from finer_ray.metrics.table import SWITCHES
from finer_ray.metrics.weight_similarity import most_similar
from finer_ray.models import ClassNames, build_classifier
from finer_ray.pipeline.targets import check_saliency
from finer_ray.shards import find_shards
from finer_ray.studies.attributes import Choice, choose, read_attributes

NO_METRICS = dict.fromkeys(SWITCHES, False)


@dataclass(frozen=True)
class Plan:
    """What is exported and compared.

    Attributes:
        classes: the job of Finer-CAM against the most similar class.
        texts: the jobs of the attributes, by rank.
        names: of the classes.
        similar, cosines: for every class its most similar one, and how similar.
        choices: for every class, its attributes.
    """

    classes: Config
    texts: list[Config]
    names: ClassNames
    similar: list[int]
    cosines: list[float]
    choices: list[Choice]


def make_plan(class_job: Config, text_job: Config, attributes: Path, word: str, folder: Path) -> Plan:
    """Judge everything that can be judged before any work.

    Raises:
        ConfigError: the jobs' classes or shards differ, the attributes name an unknown class, or no class has an
            attribute more strongly than its most similar class; or what `build_classifier` and `check_saliency` raise.
    """
    jobs = [{ref.url for ref in find_shards(job.input.shards, job.input.format)} for job in (class_job, text_job)]
    if not jobs[0] & jobs[1]:
        raise ConfigError("input.shards: the two jobs have no shard in common, so no image has both maps")
    classes = class_config(class_job, str(folder / "classes"))
    classifier = build_classifier(classes.model)
    names = classifier.classes
    nearest, cosines = most_similar(classifier.class_weights())
    choices = choose(read_attributes(attributes, names), nearest.tolist(), names.names)
    ranks = max(len(choice.attributes) for choice in choices)
    if not ranks:
        why = next((choice.note for choice in choices if "most similar" in str(choice.note)), choices[0].note)
        raise ConfigError(
            f"{attributes}: no class has an attribute to be asked about; of one class, for instance, {why}"
        )
    texts = [text_config(text_job, choices, word, rank, str(folder / f"attribute_{rank + 1}")) for rank in range(ranks)]
    asked = build_classifier(texts[0].model)
    if asked.classes.names != names.names:
        pairs = zip([*names.names, None], [*asked.classes.names, None], strict=False)
        place, (ours, theirs) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise ConfigError(
            f"model.classes: the two jobs' classes differ, at {place}: {ours!r} in the class job, {theirs!r} in the "
            "text job; labels mean the same only with the same classes in the same order"
        )
    for config in texts:
        check_saliency(config, asked)
    return Plan(classes, texts, names, nearest.tolist(), cosines.tolist(), choices)


def class_config(job: Config, url: str) -> Config:
    """The job with the question of the study: the label against its most similar class, Grad-CAM and Finer-CAM."""
    wanted = {"target": "label", "concept": None, "selection": "weight", "references": 1}
    return _config(job, url, {**wanted, "maps": ["gradcam", "finer_gradcam"]}, {})


def text_config(job: Config, choices: list[Choice], word: str, rank: int, url: str) -> Config:
    """The job that asks about the attribute of this rank, from 0, of every image's class, against the general word.

    An image whose class has no attribute of this rank is asked about another one, which nothing reads.
    """
    asked = {index: choice.attributes[rank][0] for index, choice in enumerate(choices) if len(choice.attributes) > rank}
    pairs = {index: (text, word) for index, text in asked.items()}
    every = sorted({text for choice in choices for text, _ in choice.attributes})
    concept = {"by": "label", "pairs": pairs, "default": next(iter(pairs.values()))}
    wanted = {"target": "concept", "concept": concept, "selection": "logit", "references": 1}
    concepts = every if word in every else [*every, word]
    return _config(job, url, {**wanted, "maps": ["finer_gradcam"]}, {"concepts": concepts})


def _config(job: Config, url: str, saliency: dict[str, Any], model: dict[str, Any]) -> Config:
    tree: dict[str, Any] = job.model_dump()
    tree["saliency"] |= {"within": None, **saliency}
    tree["input"] |= {"part_names": None, "fields": tree["input"]["fields"] | {"references": None, "parts": None}}
    tree["model"] |= model
    tree["metrics"] |= NO_METRICS
    tree["output"] |= {"url": url, "basis": False, "embedding": False, "map_embedding": False, "patches": 0}
    return parse_config(tree)
