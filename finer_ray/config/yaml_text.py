"""YAML texts: read safely, and in bounded time and memory whatever they hold."""

from typing import Any

import yaml

# Class names may stand in a config: 20,000 of them fit.
MOST_YAML = 2**20
MOST_NODES = 50_000
DEEPEST = 32
LONGEST_SCALAR = 10_000
LONGEST_MESSAGE = 500


def read_yaml(text: str) -> Any:
    """A YAML text as Python values.

    Raises:
        ValueError: it is not YAML, longer than 1 MiB, nested more than 32 deep, holds a key twice in one section, a
            value of more than 10,000 characters or 64 bits, or more than 50,000 values, aliases written out.
    """
    if len(text) > MOST_YAML:
        raise ValueError(f"longer than {MOST_YAML} bytes")
    try:
        return _Loader(text).get_single_data()
    except Exception as error:  # PyYAML lets out whatever int() or datetime raise for a value.
        raise ValueError((str(error) or type(error).__name__)[:LONGEST_MESSAGE]) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits; an alias counts as much as what it stands for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node of the document. Raises ValueError where it is too deep, too long, or expands to too much."""
        if self._depth == DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")
        if self.check_event(yaml.AliasEvent) and self._alias() not in self._sizes:
            raise ValueError("an alias inside of what it stands for, or of nothing")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node not in self._sizes:
            self._sizes[node] = self._size(node)
        if len(self._sizes) > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} values")
        return node

    def _alias(self) -> Any:
        return self.anchors.get(self.peek_event().anchor)  # type: ignore[no-untyped-call]

    def _size(self, node: yaml.Node) -> int:
        """How many nodes a node is once its aliases are written out."""
        line = f", line {node.start_mark.line + 1}"
        if isinstance(node, yaml.ScalarNode):
            if len(node.value) > LONGEST_SCALAR:
                raise ValueError(f"a value of more than {LONGEST_SCALAR} characters{line}")
            return 1
        inner = node.value
        if isinstance(node, yaml.MappingNode):
            if (key := _twice(node)) is not None:
                raise ValueError(f"the key {key[:50]!r} stands twice in one section{line}")
            inner = [part for pair in node.value for part in pair]
        size = 1 + sum(self._sizes[part] for part in inner)
        if size > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} values, aliases written out{line}")
        return size

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer of 64 bits at most, which everything that takes one can hold."""
        value: int = super().construct_yaml_int(node)
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"an integer of more than 64 bits, line {node.start_mark.line + 1}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _twice(node: yaml.MappingNode) -> str | None:
    """A key that a mapping has twice, of which YAML readers silently drop one."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                return str(key.value)
            seen.add((key.tag, key.value))
    return None
