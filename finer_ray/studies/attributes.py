"""Attributes of classes: texts such as "red bill", and how strongly each class has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from finer_ray.config.schema import Share
from finer_ray.errors import ConfigError
from finer_ray.models import ClassNames

TOP = 3
FILE: TypeAdapter[dict[str, dict[str, Share] | list[str]]] = TypeAdapter(dict[str, dict[str, Share] | list[str]])


@dataclass(frozen=True)
class Choice:
    """What is asked about a class.

    Attributes:
        attributes: (text, difference of strength to the most similar class), largest first; `TOP` at most.
        note: why there are none, or None.
    """

    attributes: tuple[tuple[str, float], ...] = ()
    note: str | None = None


def read_attributes(path: Path, classes: ClassNames) -> dict[int, dict[str, float]]:
    """Strengths by class and text, from a JSON file: {class: {text: strength 0 to 1}}, or {class: [texts]} for 1 each.

    Raises:
        ConfigError: the file cannot be read, or names a class that there is not, or one class twice.
    """
    try:
        given = FILE.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the attributes {str(path)!r}: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ConfigError(
            f"{path}: {place or 'the file'}: {fault['msg']}; it must hold {{class: {{text: strength from 0 to 1}}}} "
            "or {class: [texts]}"
        ) from None
    found: dict[int, dict[str, float]] = {}
    for name, texts in given.items():
        try:
            index = classes.index(name)
        except LookupError as error:
            raise ConfigError(f"{path}: {error.args[0]}") from None
        if index in found:
            raise ConfigError(f"{path}: the class {classes.names[index]!r} stands there twice")
        found[index] = texts if isinstance(texts, dict) else dict.fromkeys(texts, 1.0)
    return found


def choose(attributes: Mapping[int, Mapping[str, float]], similar: list[int], names: tuple[str, ...]) -> list[Choice]:
    """For every class the attributes by which it surpasses its most similar class most (Finer-CAM, A.2).

    Args:
        attributes: strengths by class and text; a text that a class lacks has the strength 0.
        similar: the most similar class of each class.
        names: of the classes.
    """
    return [_choice(attributes, own, other, names[other]) for own, other in enumerate(similar)]


def _choice(attributes: Mapping[int, Mapping[str, float]], own: int, other: int, name: str) -> Choice:
    if own not in attributes:
        return Choice(note="the file gives no attributes for it")
    if other not in attributes:
        return Choice(note=f"the file gives no attributes for its most similar class {name!r}")
    differences = {text: strength - attributes[other].get(text, 0.0) for text, strength in attributes[own].items()}
    ranked = sorted(differences.items(), key=lambda pair: -pair[1])
    stronger = tuple(pair for pair in ranked if pair[1] > 0)[:TOP]
    return Choice(stronger, None if stronger else f"it has no attribute more strongly than {name!r}")
