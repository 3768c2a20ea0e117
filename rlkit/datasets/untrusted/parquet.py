"""Parquet files, read by pyarrow.

pyarrow trusts what a file says of itself, and a damaged one can end the process, which is that of reader_process.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rlkit.types import InputError, one_line

DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)  # and pyarrow's own exceptions


def names(path: Path, name: str) -> list[str]:
    """Names of all columns, of which only the footer is read. Raises InputError as `read` does."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_schema(path).names
    except (pa.ArrowException, *DAMAGE) as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f"{name}: cannot be read as Parquet ({one_line(error)}); copy or write it again")


def read(path: Path, name: str, wanted: Callable[[Any], bool] = lambda field: True) -> tuple[Any, list[str]]:
    """The pyarrow.Table of the top-level columns for whose pyarrow.Field ``wanted`` is true, and all column names.

    The table is validated in full. Dictionary-encoded columns come as their values.
    Raises InputError, which begins with ``name``, for a damaged file; MemoryError.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            fields = [field for field in schema if wanted(field)]
            refuse_extensions(name, fields)
            table = file.read([field.name for field in fields], use_threads=False)
            rows = file.metadata.num_rows
        if table.num_rows != rows:
            raise ValueError(f"{table.num_rows} rows where the footer has {rows}")
        table.validate(full=True)
        return _decode_dictionaries(table), schema.names
    except (InputError, MemoryError):
        raise
    except (pa.ArrowException, *DAMAGE) as error:
        raise _damaged(name, error) from error


def refuse_extensions(name: str, fields: Iterable[Any]) -> None:
    """Raises InputError for a pyarrow.Field of an extension type: other programs alone know what its values mean."""
    import pyarrow as pa

    for field in fields:
        if isinstance(field.type, pa.BaseExtensionType):
            raise InputError(f"{name}: {field.name} is of type {field.type}; store it as numbers, lists or text")


def _decode_dictionaries(table: Any) -> Any:
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            values = table.column(i).cast(field.type.value_type)
            table = table.set_column(i, field.name, values)
    return table
