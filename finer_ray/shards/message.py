"""Messages: errors of other libraries as one short line that is the same on every run."""

import re
from hashlib import sha256

LONGEST = 200
LONGEST_REASON = 1000
LONGEST_KEY = 4096


def brief(error: BaseException) -> str:
    """One line of at most 200 characters: the error's type and text, without memory addresses."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    return printable(clipped(text, LONGEST))


def clipped(text: str, longest: int = LONGEST_REASON) -> str:
    """Text of at most so many characters; names and values out of a file may be of any length."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def short_key(key: str) -> str:
    """A sample's key; one of more than 4096 characters ends in its digest instead, so that it stays unique."""
    if len(key) <= LONGEST_KEY:
        return key
    digest = sha256(key.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{key[: LONGEST_KEY - len(digest) - 3]}...{digest}"


def printable(text: str) -> str:
    """Text that encodes as UTF-8: lone surrogates, from undecodable file names or JSON, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
