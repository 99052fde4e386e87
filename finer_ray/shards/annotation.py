"""Annotations: labels and boxes as data sets write them, made strict."""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from finer_ray.config.messages import clipped, printable
from finer_ray.images.sample import Plain

INT64 = 2**63
# Python objects take up to 24 times the room of the JSON that they were.
MAX_JSON_BYTES = 16 * 2**20
MAX_TEXT_LENGTH = 1000
MAX_COORDINATE = 1e9
# As many as `saliency.references` may be.
MAX_REFERENCES = 64
# Of a text in a column of the user's own.
MAX_PLAIN_LENGTH = 10_000
# Up to which float64 holds every integer.
MAX_INTEGER = 2**53


class FieldError(ValueError):
    """A sample's field cannot be used; the message begins with the field's name."""


def parse_json(name: str, text: bytes | str) -> Any:
    """JSON text of at most 16 MiB as Python values. Raises FieldError naming the member or column."""
    if len(text) > MAX_JSON_BYTES:
        raise FieldError(f"{name}: {len(text)} bytes of JSON are more than the allowed {MAX_JSON_BYTES}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"{name}: not valid JSON ({' '.join(str(error).split())[:100]})") from None


def descend(name: str, value: Any, path: Sequence[str]) -> Any:
    """Follow keys into nested mappings; None as soon as a key is absent or null.

    Raises:
        FieldError: a value on the way is no mapping.
    """
    for key in path:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise FieldError(f"{name}: expected an object with the key {key!r}, got {_kind(value)}")
        name, value = f"{name}.{key}", value.get(key)
    return value


def text_label(name: str, text: bytes) -> int | str:
    """The label in a text member: an integer, or else a class name. Raises FieldError."""
    _short(name, text.strip())
    try:
        label = text.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise FieldError(f"{name}: not UTF-8 text") from None
    if re.fullmatch(r"[+-]?[0-9]{1,30}", label):
        return _in_range(name, int(label))
    return _class_name(name, label)


def parse_label(name: str, value: Any) -> int | str:
    """A label from JSON or Arrow: an integer, a float without fraction, or a class name. Raises FieldError."""
    if isinstance(value, bytes):
        return text_label(name, value)
    if isinstance(value, str):
        return _class_name(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"{name}: a label must be an integer or a class name, got {_kind(value)}")
    if isinstance(value, float) and not value.is_integer():
        raise FieldError(f"{name}: a label must be an integer or a class name, got {_number(value)}")
    return _in_range(name, int(value))


def only_label(name: str, value: Any) -> int | str | None:
    """A label as `parse_label` has it, also where it is the only one of a list, as multi-label data sets write them.

    Returns:
        None where the list holds no label, or several: no one of them is the image's class.

    Raises:
        FieldError: the value, or one in the list, is no label.

    >>> only_label("labels", [7]), only_label("labels", ["cat", "dog"])
    (7, None)
    """
    if not isinstance(value, list):
        return parse_label(name, value)
    labels = {parse_label(name, label) for label in value}
    return labels.pop() if len(labels) == 1 else None


def parse_text(name: str, value: Any) -> str:
    """A text of at most 1000 characters from JSON or Arrow. Raises FieldError."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise FieldError(f"{name}: not UTF-8 text") from None
    if not isinstance(value, str) or not value.strip():
        raise FieldError(f"{name}: expected a text, got {_kind(value)}")
    _short(name, value.strip())
    return value.strip()


def parse_references(name: str, value: Any) -> tuple[int | str, ...]:
    """Classes from JSON, Arrow or a text member: a list of labels, or text with `;` between them. Raises FieldError."""
    if isinstance(value, bytes | str):
        text = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        parts = [part for part in text.split(b";") if part.strip()]
        found = tuple(text_label(name, part) for part in parts[: MAX_REFERENCES + 1])
    elif isinstance(value, list | tuple):
        found = tuple(parse_label(name, label) for label in value[: MAX_REFERENCES + 1])
    else:
        raise FieldError(
            f"{name}: references must be a list of classes, or text with ; between them, got {_kind(value)}"
        )
    if len(found) > MAX_REFERENCES:
        raise FieldError(f"{name}: more than {MAX_REFERENCES} references")
    return found


def parse_box(name: str, value: Any, box_format: str) -> tuple[float, float, float, float]:
    """A box as x1, y1, x2, y2 with x2 > x1 and y2 > y1. Raises FieldError.

    Args:
        name: of the field, for messages.
        value: four finite numbers.
        box_format: 'xyxy' or 'xywh'.
    """
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise FieldError(f"{name}: a box must be a list of 4 numbers, got {_kind(value)}")
    x1, y1, x2, y2 = (_coordinate(name, number) for number in value)
    if box_format == "xywh":
        x2, y2 = x1 + x2, y1 + y2
    if not (x2 > x1 and y2 > y1):
        raise FieldError(f"{name}: an empty box, x1 y1 x2 y2 = {x1:g} {y1:g} {x2:g} {y2:g}")
    return x1, y1, x2, y2


def plain(value: Any) -> Plain:
    """A value from JSON or Arrow for a column of the user's own: null, a boolean, a number or a text.

    NaN is null, a decimal a float; whatever else there is becomes text, objects and lists that of JSON, and of it at
    most 10,000 characters stay. So do integers beyond 2^53.
    """
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= MAX_INTEGER):
        return value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return clipped(printable(str(value)), MAX_PLAIN_LENGTH)


def own_columns(names: Iterable[tuple[str, Any]], value: Callable[[Any], Any]) -> dict[str, Plain]:
    """Values of the user's own columns, by name; null where one cannot be read: no image fails for the sake of it.

    Args:
        names: (name, sources) of each column.
        value: what stands at these sources; raises FieldError.
    """
    found: dict[str, Plain] = {}
    for name, sources in names:
        try:
            found[name] = plain(value(sources))
        except FieldError:
            found[name] = None
    return found


def _class_name(name: str, label: str) -> str:
    if not label.strip():
        raise FieldError(f"{name}: an empty label")
    _short(name, label)
    if not label.isascii() and re.search("[\ud800-\udfff]", label):
        raise FieldError(f"{name}: a label that is not valid Unicode")
    return label


def _short(name: str, text: str | bytes) -> None:
    limit = MAX_TEXT_LENGTH if isinstance(text, str) else 4 * MAX_TEXT_LENGTH
    if len(text) > limit:
        raise FieldError(f"{name}: a text of more than {MAX_TEXT_LENGTH} characters")


def _in_range(name: str, label: int) -> int:
    if not -INT64 <= label < INT64:
        raise FieldError(f"{name}: a label out of the range of 64-bit integers")
    return label


def _coordinate(name: str, number: Any) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise FieldError(f"{name}: a box must be a list of 4 numbers, got {_kind(number)} among them")
    if not abs(number) < MAX_COORDINATE:
        raise FieldError(f"{name}: a box must be finite and within ±1e9 pixels, got {_number(number)}")
    return float(number)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return {dict: "an object", bool: "a boolean", str: "text", bytes: "bytes"}.get(type(value)) or _number(value)


def _number(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # Python refuses to write integers of more than 4300 digits.
        return "a huge number"
