"""What sections of the config are made of. CAM methods and metrics, whose keys are part of the config, import this."""

import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from finer_ray.errors import ConfigError

MISSING_PLUGIN = "FINER_RAY_PLUGINS must name the module that defines it wherever the job runs, see docs/extending.md"

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0.0)]


class RenamedKey(FutureWarning):
    """A key of the config that has another name now; the old one is still taken."""


class Section(BaseModel):
    """A part of the config: immutable, and unknown keys are refused.

    Attributes:
        renamed: names that keys had before, and have now.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _under_their_new_names(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        for old, new in cls.renamed.items():
            if old in value:
                if new in value:
                    raise ValueError(f"{old} is the old name of {new}: leave it out")
                warnings.warn(RenamedKey(f"the key {old} is called {new} now"), stacklevel=2)
                value = {new if key == old else key: inner for key, inner in value.items()}
        return value

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # Of a process that has plugins: without them this one would do less than it is asked to.
        if unknown := sorted(state["__dict__"].keys() - type(self).model_fields.keys()):
            raise ConfigError(f"this process knows nothing of {unknown[0]!r}: {MISSING_PLUGIN}")
        super().__setstate__(state)


Kind = TypeVar("Kind", bound=Section)


def with_keys(keys: Mapping[str, tuple[Any, Any]]) -> Callable[[type[Kind]], type[Kind]]:
    """Decorator: a section with further keys after its own.

    Args:
        keys: type and default, or pydantic's `Field`, by name.

    Raises:
        ConfigError: the section has a key of such a name.
    """

    def extended(section: type[Kind]) -> type[Kind]:
        if taken := sorted(keys.keys() & section.model_fields.keys()):
            raise ConfigError(f"no CAM method or metric can be called {taken[0]!r}: the config has a key of that name")
        parts: dict[str, Any] = dict(keys)
        return create_model(
            section.__name__, __base__=section, __module__=section.__module__, __doc__=section.__doc__, **parts
        )

    return extended
