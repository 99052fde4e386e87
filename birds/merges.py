"""Merges: a byte-pair vocabulary in which every word of a text is one token (Sennrich 2016)."""

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

# As open_clip's SimpleTokenizer splits texts in ASCII.
WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")
END = "</w>"
HEADER = "#version: 0.2"


def learn_merges(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs to join, most frequent first, until every word of the texts is one token.

    Args:
        texts: ASCII; each distinct word counts once.
    """
    found = {word for text in texts for word in WORD.findall(text.lower())}
    words = [(*word[:-1], word[-1] + END) for word in sorted(found)]
    merges = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        # Of equally frequent pairs the first by name, so that the result does not hang on any order.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_joined(word, best) for word in words]
    return merges


def write_merges(merges: Iterable[tuple[str, str]], path: Path) -> None:
    """Write a file that open_clip's SimpleTokenizer takes as `bpe_path`; the same merges give the same bytes."""
    text = "\n".join([HEADER, *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for symbol in word:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return tuple(joined)
