"""URLs that hold a secret: a password, key, token or signature, which must not get into configs, messages or logs."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
NO_SECRETS = "a URL must not hold a password, key, token or signature; give them by the environment (see SECURITY.md)"
# fsspec chains URLs by `::`; a password may hold the same two characters.
_LINK = re.compile(r"::(?=[a-z][a-z0-9+.-]*(?:://|::))", re.IGNORECASE)
# `pathlib` leaves one slash of two. No host follows the three of `file:///`, and the colons of [::1] are its own.
_SCHEME = r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*:/{1,2}(?!/|\[[0-9a-f:.]+\])"
# What stands before `@` is the user's part. A user's name alone is a secret in http alone, where it is a token; a
# password may hold slashes, but digits between a colon and a slash are a port.
_USER = re.compile(rf"({_SCHEME})[^/:@?#\s]*(?::|%3a)(?!\d+(?:[/?#\s]|$))\S*@", re.IGNORECASE)
_HTTP_USER = re.compile(r"(?<![a-z0-9+.-])(https?:/{1,2}(?!/))[^/?#\s]+@", re.IGNORECASE)
# A query or fragment, to its end.
_QUERY = re.compile(r"[?#][^\s'\"]*")
_PARAMETER = re.compile(r"([?#&;])([^?#&;=/]+)=([^?#&;]+)")
_NAMES = re.compile(
    # These words end the name of no parameter that is not a secret ...
    r".*(?:token|secret|password|passwd|passphrase|signature|credentials?|apikey|accesskey|secretkey|accountkey|"
    r"accesskeyid|accessid|keypairid|authorization)"
    # ... and these are secrets by themselves or after another word only.
    r"|(?:.*_)?(?:sig|pwd|pass|pw|pat|auth|jwt|bearer)|key|policy|sv"
    r"|(?:.*_)?(?:api|access|secret|private|account|shared|auth|client|storage|master|signing|subscription)_key"
    r"|x_(?:amz|goog)_.*"
)
_DECODINGS = 3


def holds_secret(url: str) -> bool:
    """Whether a URL, or a chain of several, holds a password, key, token or signature, percent-encoded or not."""
    # A blank ends a URL inside of a message, but not one that is given by itself.
    return any(_redacted(text) != text for text in _decodings(re.sub(r"\s", "_", url)))


def redacted(text: str) -> str:
    """A message whose URLs have `***` in place of their secrets."""
    hidden = _redacted(text)
    if any(_redacted(decoded) != decoded for decoded in _decodings(hidden.replace(HIDDEN, ""))):
        return f"{HIDDEN} (hidden, because it holds a URL with a secret)"
    return hidden


def _redacted(text: str) -> str:
    links = []
    for link in _LINK.split(text):
        link = _USER.sub(rf"\1{HIDDEN}@", link)
        link = _HTTP_USER.sub(rf"\1{HIDDEN}@", link)
        links.append(_QUERY.sub(lambda found: _PARAMETER.sub(_hidden_value, found[0]), link))
    return "::".join(links)


def _hidden_value(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = re.sub(r"[^a-z0-9]+", "_", words.lower())
    secret = _NAMES.fullmatch(words) or _NAMES.fullmatch(words.replace("_", ""))
    return f"{mark}{name}={HIDDEN if secret else value}"


def _decodings(text: str) -> Iterator[str]:
    """The text, and what percent-encodings in it stand for, also those of percent signs."""
    for _ in range(_DECODINGS):
        yield text
        decoded = unquote(text)
        if decoded == text:
            return
        text = decoded
