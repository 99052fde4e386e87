"""Messages: what is wrong in one short line that is the same on every run; nearest names, differences, faults."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from finer_ray.urls import holds_secret

MAX_LENGTH = 200
MAX_REASON_LENGTH = 1000
MAX_KEY_LENGTH = 4096
MAX_NAME_LENGTH = 100
MAX_MESSAGE_LENGTH = 500
MAX_FAULTS = 20
MAX_DIFFERENCES = 10
HIDDEN_VALUE = "a value with a secret"


def brief(error: BaseException) -> str:
    """One line of at most 200 characters: the error's type and text, without memory addresses."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    return printable(clipped(text, MAX_LENGTH))


def clipped(text: str, longest: int = MAX_REASON_LENGTH) -> str:
    """Text of at most so many characters; names and values out of a file may be of any length."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def short_key(key: str) -> str:
    """A sample's key; one of more than 4096 characters ends in its digest instead, so that it stays unique."""
    if len(key) <= MAX_KEY_LENGTH:
        return key
    digest = sha256(key.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{key[: MAX_KEY_LENGTH - len(digest) - 3]}...{digest}"


def printable(text: str) -> str:
    """Text that encodes as UTF-8: lone surrogates, from undecodable file names or JSON, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: Any) -> str:
    """A value for a message, of bounded length however large or deep it is."""
    try:
        # Looked for before the value is cut, which may take away what a secret is known by.
        return HIDDEN_VALUE if holds_secret(str(value)) else _cut(_REPR.repr(value))
    except ValueError:  # Python refuses to write integers of more than 4300 digits.
        return "a huge number"


def _cut(text: str, longest: int = MAX_NAME_LENGTH) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = MAX_NAME_LENGTH
_REPR.maxlevel = 3


def nearest(name: str, valid: Sequence[str], count: int = 3) -> str:
    """The valid names closest to a mistyped one, as a hint for an error message: ' (nearest: a, b)' or ''."""
    if len(name) > MAX_NAME_LENGTH:
        return ""
    close = difflib.get_close_matches(name, valid, n=count, cutoff=0.5)
    return f" (nearest: {', '.join(close)})" if close else ""


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """The keys in which two trees differ, each with both values; at most MAX_DIFFERENCES, and how many more.

    Args:
        ours, theirs: mappings, nested as configs are.
        names: what each of them is called after its value.
    """
    ours, theirs = _leaves(ours), _leaves(theirs)
    lines = [
        f"{path} {_shown_leaf(ours, path)} {names[0]}, {_shown_leaf(theirs, path)} {names[1]}"
        for path in dict.fromkeys([*ours, *theirs])
        if path not in ours or path not in theirs or ours[path] != theirs[path]
    ]
    more = len(lines) - MAX_DIFFERENCES
    return lines if more <= 0 else [*lines[:MAX_DIFFERENCES], f"and {more} more"]


def _leaves(tree: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Every value of a tree by its path, such as `saliency.gamma`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, f"{place}{key}.")
        else:
            found[f"{place}{key}"] = value
    return found


def _shown_leaf(leaves: Mapping[str, Any], path: str) -> str:
    return shown(leaves[path]) if path in leaves else "not given"


def faults(kind: type[BaseModel], error: ValidationError) -> list[str]:
    """One line for each fault that pydantic has found: where, what, and the nearest valid names; at most MAX_FAULTS.

    Args:
        kind: the class of the whole config.
        error: what its validation raised.
    """
    found = error.errors(include_url=False)
    lines = list(dict.fromkeys(_explain(kind, fault) for fault in found[:MAX_FAULTS]))
    return lines if len(found) <= MAX_FAULTS else [*lines, f"... and {len(found) - MAX_FAULTS} more"]


def _explain(root: type[BaseModel], fault: Any) -> str:
    """One line for one pydantic fault: where, what, and the nearest valid names."""
    # Pydantic puts the names of union members into the path; keys and positions are the place.
    surplus = fault["loc"][-1:] if fault["type"] == "extra_forbidden" else ()
    known = _all_keys(root)
    keys = [part for part in fault["loc"] if isinstance(part, int) or part in known or part in surplus]
    place = ".".join(_cut(str(key)) for key in keys)
    given, message = fault["input"], _cut(fault["msg"].removeprefix("Value error, "), MAX_MESSAGE_LENGTH)
    if surplus:
        valid = list(_section(root, fault["loc"][:-1]).model_fields)
        return f"{place}: unknown key{nearest(str(surplus[0]), valid)}; valid: {', '.join(valid)}"
    if fault["type"] == "missing":
        return f"{place}: this key is needed"
    if fault["type"] == "literal_error":
        valid = re.findall(r"'([^']+)'", fault["ctx"]["expected"])
        message += f", got {shown(given)}{nearest(given, valid) if isinstance(given, str) else ''}"
    elif not isinstance(given, dict) and fault["type"] != "secret":
        message += f", got {shown(given)}"
    return f"{place or 'config'}: {message}"


def _section(section: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel]:
    """The section class at a config path, in which a union's member may be named by its tag, its class's name."""
    members: dict[int | str, type[BaseModel]] = {}
    for key in place:
        if key in section.model_fields:
            members = {kind.__name__: kind for kind in _sections(section.model_fields[str(key)].annotation)}
            section = next(iter(members.values()), section)
        section = members.get(key, section)
    return section


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section classes in a field's type: itself, a list's items, a union's members."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _all_keys(section: type[BaseModel]) -> set[str]:
    keys = set(section.model_fields)
    for field in section.model_fields.values():
        keys |= {key for inner in _sections(field.annotation) for key in _all_keys(inner)}
    return keys
