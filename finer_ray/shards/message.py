"""Messages: errors of other libraries as one short line that is the same on every run."""

import re

LONGEST = 200


def brief(error: BaseException) -> str:
    """One line of at most 200 characters: the error's type and text, without memory addresses."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    return printable(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")


def printable(text: str) -> str:
    """Text that encodes as UTF-8: lone surrogates, from undecodable file names or JSON, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
