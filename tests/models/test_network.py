"""A hub that refuses connections, and one that takes them and never answers."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier
from finer_ray.models.network import hub_asked_once, silence

TIMM = {"backbone": "timm:vit_tiny_patch16_224", "weights": "augreg_in21k_ft_in1k"}
CLIP = {"backbone": "open_clip:ViT-B-32-quickgelu", "weights": "openai", "head": "text", "classes": ["a", "b"]}
FOLDER = {"backbone": "timm:hf-hub:org/name"}


@pytest.fixture(params=["refuses", "is silent"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hub(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint, as the hub's library knows it, and an empty cache."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    return endpoint


@pytest.mark.parametrize("model", [TIMM, CLIP, FOLDER], ids=["timm", "open_clip", "folder"])
def test_missing_weights_are_said_in_one_line(model: dict[str, object], hub: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError) as said:
        build_classifier(ModelConfig.model_validate(model))
    assert time.monotonic() - start < 5
    assert f"{hub} " in str(said.value)
    assert "finer-ray fetch" in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.slow
def test_a_command_says_nothing_else(endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"input: {{shards: {tmp_path}/*.tar}}\nmodel: {{backbone: '{TIMM['backbone']}', weights: {TIMM['weights']}}}\n"
        f"output: {{url: {tmp_path}/out}}\ncompute: {{executor: inline}}\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "finer_ray", "export", str(tmp_path / "job.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    first, second, error = done.stderr.splitlines()
    assert (first, second) == ("loading libraries", "loading the model")
    assert error.startswith("error: model.weights")


def test_the_hub_is_asked_once(hub: str) -> None:
    with hub_asked_once():
        session, start = huggingface_hub.get_session(), time.monotonic()
        for _ in range(5):
            with pytest.raises(OfflineModeIsEnabled, match=hub):
                session.get(f"{hub}/x")
        assert time.monotonic() - start < 5
    with hub_asked_once():
        pass
    assert not [hook for hook in session.event_hooks["request"] if "hub_asked_once" in hook.__qualname__]


def test_how_long_to_wait_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.2")
    start = time.monotonic()
    assert "does not answer within 0.2 s" in silence(lambda: time.sleep(2), "it")
    assert time.monotonic() - start < 1.5
    assert silence(lambda: None, "it") == ""
