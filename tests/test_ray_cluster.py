"""ray_cluster.yaml against Ray's own schema, and against what it promises."""

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[1] / "ray_cluster.yaml"


@pytest.fixture
def cluster() -> Any:
    return yaml.safe_load(FILE.read_text())


def test_is_valid_by_rays_schema(cluster: Any) -> None:
    validate_config(prepare_config(cluster))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["nodes"], 3),
        (["max_workers"], -1),
        (["provider", "typ"], "aws"),
        (["available_node_types", "head", "gpu"], 1),
        (["setup_commands"], "pip install"),
    ],
)
def test_ray_refuses_a_spoilt_copy(cluster: Any, place: list[str], value: Any) -> None:
    spoilt = copy.deepcopy(cluster)
    node = spoilt
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    if place == ["provider", "typ"]:
        del node["type"]
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config({**spoilt, "cluster_synced_files": []})


def test_the_head_does_no_work(cluster: Any) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert not head["resources"].get("GPU")


def test_workers_scale_from_nothing_within_the_limit(cluster: Any) -> None:
    workers = {k: v for k, v in cluster["available_node_types"].items() if k != cluster["head_node_type"]}
    assert all(node["min_workers"] == 0 for node in workers.values())
    assert sum(node["max_workers"] for node in workers.values()) <= cluster["max_workers"]
    assert any(node["resources"].get("GPU") for node in workers.values())
    assert any(not node["resources"].get("GPU") and node["resources"]["CPU"] for node in workers.values())


def test_dashboard_on_loopback_and_a_token_everywhere(cluster: Any) -> None:
    starts = [
        line
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in cluster[key]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_holds_no_secret() -> None:
    text = FILE.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{40,}", text)
    assert not re.search(r"(?i)(password|secret)\w*\s*[:=]", text)
