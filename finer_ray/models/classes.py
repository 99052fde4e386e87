"""Class names: from the names that people write to indices, and back."""

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Self

from finer_ray.config.messages import nearest
from finer_ray.errors import ConfigError

# Among more names than these, a mistyped one is compared with those that begin with the same letters.
MANY, BEGINNING = 20_000, 2


@dataclass(frozen=True)
class ClassNames:
    """The classes of a head, in its order.

    Names, and what is looked up among them, are compared in one form, see `normal_form`.

    Attributes:
        names: one per class, as shown to people, in that form.
        aliases: other names by which a class may be called; those that mean two classes are left out.
        kind: what messages call one of them, `class` or `concept`.
        named: False where the names are no more than the indices.
    """

    names: tuple[str, ...]
    aliases: dict[str, int] = field(default_factory=dict)
    kind: str = "class"
    named: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(normal_form, self.names)))
        object.__setattr__(self, "aliases", {normal_form(name): index for name, index in self.aliases.items()})

    @classmethod
    def numbered(cls, count: int) -> Self:
        """Names for a head of which nothing is known: its indices."""
        return cls(tuple(map(str, range(count))), named=False)

    @classmethod
    def imagenet(cls) -> Self:
        """ImageNet-1k: the first lemma of each synset (all of them where that is ambiguous, with the WordNet id
        where these are), WordNet ids and unambiguous lemmas as aliases."""
        lines = resources.files("finer_ray.models").joinpath("imagenet.txt").read_text("utf-8").splitlines()
        ids, lemmas = zip(*(line.split("\t") for line in lines if not line.startswith("#")), strict=True)
        first = [text.split(",")[0].strip() for text in lemmas]
        seen = Counter(first)
        names = [short if seen[short] == 1 else text for short, text in zip(first, lemmas, strict=True)]
        seen = Counter(names)
        names = [name if seen[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, ids, strict=True)]
        pairs = [(wnid, index) for index, wnid in enumerate(ids)]
        pairs += [(word.strip(), index) for index, text in enumerate(lemmas) for word in text.split(",")]
        pairs += [(text, index) for index, text in enumerate(lemmas)]
        owners: dict[str, set[int]] = {}
        for word, index in pairs:
            owners.setdefault(word, set()).add(index)
        return cls(tuple(names), {word: min(found) for word, found in owners.items() if len(found) == 1})

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return self.named and normal_form(name) in self._indices

    def index(self, label: int | str) -> int:
        """The index of a class given by index or name.

        Raises:
            LookupError: out of range, unknown, the name of two classes, or a name where classes have none.
        """
        if isinstance(label, int):
            if 0 <= label < len(self.names):
                return label
            raise LookupError(f"{self.kind} {label} is out of range: there are 0 to {len(self) - 1}")
        if not self.named:
            # A number that is a folder's name is a name, too: folder '10' is ImageFolder's class 2.
            raise LookupError(
                "model.classes is not given, so classes have numbers only: say which name is which class "
                "(torchvision's ImageFolder has them in sorted order)"
            )
        found = self._indices.get(normal_form(label))
        if found is None:
            raise LookupError(f"no {self.kind} is called {label!r}{self._close_to(label)}")
        if found < 0:
            raise LookupError(f"more than one {self.kind} is called {label!r}: give the index")
        return found

    @cached_property
    def _indices(self) -> dict[str, int]:
        """By name and alias; -1 for the name of two classes."""
        seen = Counter(self.names)
        names = {name: index if seen[name] == 1 else -1 for index, name in enumerate(self.names)}
        return {**self.aliases, **names}

    def _close_to(self, label: str) -> str:
        """The names closest to one that there is not, as a hint."""
        if alike := self._looks.get(_look(label)):
            return f"; {alike!a} looks the same, but has other characters than {label!a}"
        names = [*self._indices]
        if len(names) > MANY:
            # Among a million names the nearest takes ten seconds to find, and images may have many labels.
            names = [name for name in names if name[:BEGINNING] == label[:BEGINNING]]
        return nearest(label, names)

    @cached_property
    def _looks(self) -> dict[str, str]:
        """The first name of each look."""
        return {_look(name): name for name in reversed(self._indices)}


def normal_form(name: str) -> str:
    """A name as it is compared and shown: composed characters (Unicode's NFC), no blanks at the ends."""
    return unicodedata.normalize("NFC", name).strip()


def _look(name: str) -> str:
    """What names have in common that look alike: without invisible characters, with one width and kind of blanks."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join(visible.split())


def read_classes(classes: str | Sequence[str], key: str = "classes") -> ClassNames:
    """Names from `model.classes` or `model.concepts` (`key`): imagenet-1k, a .txt file (a name per line), a .json
    list, or a list.

    Raises:
        ConfigError: no such file, or no list of names in it.
    """
    kind = "class" if key == "classes" else "concept"
    if not isinstance(classes, str):
        return ClassNames(tuple(classes), kind=kind)
    if classes == "imagenet-1k":
        return ClassNames.imagenet()
    return ClassNames(read_names(classes, f"model.{key}: {classes!r}", "neither imagenet-1k nor a file"), kind=kind)


def read_names(place: str, where: str, else_: str = "no file") -> tuple[str, ...]:
    """Names from a .txt file (a name per line) or a .json list.

    Args:
        place: of the file.
        where: how messages begin: the config's key, and the place.
        else_: what it is where there is no such file.

    Raises:
        ConfigError: no such file, or no list of names in it.
    """
    path = Path(place).expanduser()
    if not path.is_file():
        raise ConfigError(f"{where} is {else_} (.txt or .json)")
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from None
    if path.suffix != ".json":
        names = [name.strip() for name in names if name.strip()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where} must hold a list of names")
    return tuple(names)
