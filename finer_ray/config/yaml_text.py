"""YAML texts, read without running anything that they ask for."""

from typing import Any

import yaml

# Class names may stand in a config: 20,000 of them fit.
MAX_YAML_BYTES = 2**20
MAX_MESSAGE_LENGTH = 500


def read_yaml(text: str) -> Any:
    """A YAML text as Python values.

    >>> read_yaml("gamma: 0.6")
    {'gamma': 0.6}

    Raises:
        ValueError: it is not YAML, longer than 1 MiB, or holds a key twice in one section or an integer of more than
            64 bits.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"longer than {MAX_YAML_BYTES} bytes")
    try:
        return _Loader(text).get_single_data()
    except Exception as error:  # PyYAML lets out whatever int() or datetime raise for a value.
        raise ValueError((str(error) or type(error).__name__)[:MAX_MESSAGE_LENGTH]) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which silently drops one of two keys, and has integers of any length."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A section. Raises ValueError where a key stands twice."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                line = node.start_mark.line + 1
                raise ValueError(f"the key {key.value[:50]!r} stands twice in one section, line {line}")
            seen.add((key.tag, str(key.value)))
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer of 64 bits at most, which everything that takes one can hold."""
        value: int = super().construct_yaml_int(node)
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"an integer of more than 64 bits, line {node.start_mark.line + 1}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
