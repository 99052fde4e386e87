"""Phrases: attribute names of CUB-200-2011 in plain English."""

import re
from collections import Counter
from collections.abc import Iterable

# Attributes of the whole bird have no part in their name, or this one.
WHOLE = ("", "primary")


def phrases(attributes: Iterable[str]) -> dict[str, str]:
    """A readable phrase for each attribute: `has_bill_shape::curved_(up_or_down)` -> `curved bill`.

    Remarks in parentheses are dropped where the phrases stay distinct without them.
    """
    names = list(attributes)
    short = [phrase(name) for name in names]
    seen = Counter(short)
    return {
        name: text if seen[text] == 1 else _plain(name.removeprefix("has_"))
        for name, text in zip(names, short, strict=True)
    }


def phrase(attribute: str) -> str:
    """The phrase for one attribute: `has_PART_KIND::VALUE` -> `VALUE PART`; lengths as `PART VALUE`; sizes, shapes and
    primary colours of the whole as `VALUE bird`."""
    subject, marked, value = attribute.removeprefix("has_").partition("::")
    if not marked:
        return _plain(attribute.removeprefix("has_"))
    value = re.sub(r"\(.*?\)", "", value).strip("_ ")
    part, _, kind = subject.rpartition("_")
    words = _plain(value)
    if part in WHOLE:
        return f"{words} bird"
    if kind == "length":
        return f"{_plain(part)} {words}"
    tail = re.fullmatch(rf"(.+?)[-_ ]({re.escape(part)}s?)", value)
    return f"{_plain(tail[1])} {tail[2]}" if tail else f"{words} {_plain(part)}"


def _plain(text: str) -> str:
    return " ".join(text.replace("::", " ").replace("_", " ").split())
