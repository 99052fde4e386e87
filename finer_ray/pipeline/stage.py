"""A stage of a job, as data. Processes that only load or write import this, and neither torch nor Ray Data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

# What a stage gives for a unit at which its process has lost the GPU.
LOST = pa.schema([pa.field("lost_unit", pa.int64()), pa.field("reason", pa.string())])


@dataclass(frozen=True)
class Stage:
    """A step that every unit goes through, as data.

    Attributes:
        name: for messages and Ray's dashboard.
        build: makes the step's function in a process of its own: from a unit (the first stage) or a table to a table.
        takes, gives: schemas of the tables, checked at the door; of the first stage `takes` is None.
        rows: lines of the tables, at most.
        processes: at least and at most. More than one call at a time in each makes them actors, which are built once.
        keeps: whether what `build` makes is kept from call to call (a model): then processes are actors.
        calls: at a time in an actor.
        cpus, gpus: shares that Ray reserves for a call, or for an actor.
        max_calls: after which a process is replaced, whatever its libraries have leaked; None for never.
    """

    name: str
    build: Callable[[], Callable[[Any], pa.Table]]
    takes: pa.Schema | None
    gives: pa.Schema
    rows: int
    processes: tuple[int, int] = (1, 1)
    keeps: bool = False
    calls: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    max_calls: int | None = None

    def checked(self, call: Callable[[Any], pa.Table], given: Any) -> pa.Table:
        """Call the step's function. Raises TypeError where a table has not the declared schema."""
        if self.takes is not None and not given.schema.equals(self.takes):
            raise TypeError(f"stage {self.name} takes {self.takes.names}, and was given {given.schema.names}")
        found = call(given)
        if not found.schema.equals(self.gives):
            raise TypeError(f"stage {self.name} gives {self.gives.names}, and has made {found.schema.names}")
        return found
