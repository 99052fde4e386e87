"""Schemas: the config, the tables and the Zarr layout as JSON, for people and other programs."""

import json
from typing import Any

import pyarrow as pa

from finer_ray.compare.drift import DRIFT
from finer_ray.compare.images import CHANGES
from finer_ray.config.schema import Config
from finer_ray.probe.config import ProbesConfig
from finer_ray.store.layout import describe
from finer_ray.store.manifest import Manifest
from finer_ray.store.tables import SCHEMAS

TABLES = {**SCHEMAS, "compare": CHANGES, "drift": DRIFT}


def schema_files() -> dict[str, str]:
    """The files of schemas/, by name."""
    trees: dict[str, Any] = {
        "config.schema.json": Config.model_json_schema(),
        "probe.schema.json": ProbesConfig.model_json_schema(),
        "manifest.schema.json": Manifest.model_json_schema(),
        "zarr_layout.json": describe(),
        **{f"{name}.arrow.json": _columns(schema) for name, schema in TABLES.items()},
    }
    return {name: json.dumps(tree, indent=2, ensure_ascii=False) + "\n" for name, tree in trees.items()}


def _columns(schema: pa.Schema) -> list[dict[str, Any]]:
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in schema]
