"""schemas/ against the code."""

import json
from pathlib import Path

import jsonschema
import pytest

from finer_ray.demo.run_demo import demo_config
from finer_ray.schemas import schema_files

FOLDER = Path(__file__).parents[1] / "schemas"


def test_files_are_what_the_code_says() -> None:
    """If this fails: `make schemas`, and commit."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == schema_files()


def test_the_config_schema_takes_the_demo_and_refuses_a_typo() -> None:
    schema = json.loads((FOLDER / "config.schema.json").read_text())
    tree = demo_config(Path("x")).model_dump(mode="json")
    jsonschema.validate(tree, schema)
    tree["saliency"]["gama"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, schema)
