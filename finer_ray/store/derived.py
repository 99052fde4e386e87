"""Derived tables: computed from a finished export, and kept in its folder beside the tables that its job wrote.

The manifest does not list them: anyone who may write to the folder can make one, also while the export stays as it is.
A file says in its schema's metadata of which state of the export it is; one of another state is not read.
"""

import hashlib
import json
from typing import Any

import pyarrow as pa

from finer_ray.errors import ExportError, StoreError
from finer_ray.store.manifest import Manifest
from finer_ray.store.reading import Export
from finer_ray.store.tables import DERIVED

# Key in a file's schema metadata.
STATE = b"finer_ray.state"
# Of the manifest, what decides the contents of an export.
DECIDES: Any = {
    "config_fingerprint": True,
    "model_fingerprint": True,
    "head_fingerprint": True,
    "classes": True,
    "shards": {"__all__": {"index", "first_unit", "digests"}},
    "retired": {"__all__": {"first_unit", "units"}},
    "revision": True,
}


def file_of(name: str) -> str:
    """The file of a derived table in the export's folder.

    >>> file_of("pairs")
    'pairs.parquet'
    """
    return f"{name}.parquet"


def digest(manifest: Manifest, *more: Any) -> str:
    """The state that an export is in, as 16 hex digits: the same for two exports of the same images by the same job,
    wherever they lie.

    Args:
        manifest: of the export.
        more: what else decides, as JSON has it.
    """
    decides = manifest.model_dump(mode="json", include=DECIDES)
    return hashlib.sha256(json.dumps([decides, *more], sort_keys=True).encode()).hexdigest()[:16]


def state_of(manifest: Manifest, name: str) -> str:
    """A digest of what a derived table is computed from, and of its columns."""
    return digest(manifest, [(field.name, str(field.type)) for field in DERIVED[name]])


def is_current(export: Export, name: str) -> bool:
    """Whether the export has this table, and of the state that it is in."""
    return _found(export, name) == state_of(export.manifest, name)


def check_vacant(export: Export, name: str) -> None:
    """Raises ExportError where the table's file is there, and is none of ours."""
    if _found(export, name) == "":
        raise ExportError(
            f"{export.folder.url}/{file_of(name)} was not written by finer_ray, and is not overwritten: move it away"
        )


def write(export: Export, name: str, table: pa.Table) -> None:
    """Write a derived table of the state that the export was opened in, in place of what it had.

    Args:
        export: that the table was computed from.
        name: of DERIVED.
        table: with the columns of DERIVED[name].

    Raises:
        ExportError: the file is there and is none of ours.
        StoreError: it cannot be written.
    """
    check_vacant(export, name)
    made = table.cast(DERIVED[name]).replace_schema_metadata({STATE: state_of(export.manifest, name)})
    export.folder.write_table(file_of(name), made)


def read(export: Export, name: str) -> pa.Table:
    """A derived table.

    Raises:
        ExportError: there is none, or it is of another state of the export; with the command that makes it.
    """
    if not is_current(export, name):
        which = "is of another state of the export" if _found(export, name) else "is not there"
        url = export.folder.url
        raise ExportError(f"{url}/{file_of(name)} {which}: run `finer-ray {name} {url}`, which makes it")
    return export.folder.read_table(file_of(name), DERIVED[name])


def earlier(export: Export, name: str) -> pa.Table | None:
    """A derived table, of whatever state of the export it is; None where there is none, or it has other columns."""
    schema = DERIVED[name]
    if not _found(export, name):
        return None
    table = export.folder.read_parquet(file_of(name))
    return table.cast(schema) if table.schema.names == schema.names else None


def files(export: Export, name: str) -> list[str]:
    """The table's files for those that read them by themselves: none where there is none of this state."""
    return [file_of(name)] if is_current(export, name) else []


def _found(export: Export, name: str) -> str | None:
    """The state that a file says it is of; '' where it says nothing, None where there is no file."""
    try:
        metadata = export.folder.read_schema(file_of(name)).metadata or {}
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid:
        return ""
    except StoreError as error:
        # A folder of that name, as some write tables.
        if not isinstance(error.__cause__, IsADirectoryError):
            raise
        return ""
    return str(metadata.get(STATE, b"").decode())
