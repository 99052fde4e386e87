"""The pages that users read, and what stands on them: blocks of code, command lines, links, headings."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Folders with pages, and what lies in the middle of things.
WHERE = ("*.md", "docs/*.md", "deploy/**/*.md", "birds/*.md", "examples/*.md")
ASSIGNMENT = re.compile(r"[A-Z][A-Z_0-9]*=\S*")


@dataclass(frozen=True)
class Command:
    """A line that runs finer-ray.

    Attributes:
        arguments: of the command.
        environment: variables that are set for it.
    """

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


def pages() -> list[str]:
    """Paths of all pages from the repository's root, in order."""
    return sorted(str(path.relative_to(ROOT)) for pattern in WHERE for path in ROOT.glob(pattern))


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def lines(page: str) -> list[str]:
    """Command lines: what is indented by four outside of fences, joined where a line goes on in the next."""
    return re.findall(r"^ {4}(\S.*)$", re.sub(r"\\\n +", "", prose(page)), re.MULTILINE)


def command(line: str) -> Command | None:
    """What a line runs, None where it does not run finer-ray."""
    words = shlex.split(line, comments=True)
    first = next((place for place, word in enumerate(words) if not ASSIGNMENT.fullmatch(word)), 0)
    if words[first] != "finer-ray":
        return None
    variables = (word.split("=", 1) for word in words[:first])
    return Command(tuple(words[first + 1 :]), tuple((name, value) for name, value in variables))


def commands(page: str) -> list[Command]:
    """Every line that runs finer-ray, in order."""
    return [found for line in lines(page) if (found := command(line))]
