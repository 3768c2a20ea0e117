"""Writes safetensors files: eight bytes with the length of a header, the header as JSON, then the arrays end to end.

The format is that of huggingface/safetensors, of which rlkit.export.loader is the reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

_DTYPES = {"float32": "F32", "int32": "I32"}
_ALIGNMENT = 8  # bytes; the header is filled up with spaces, so that the arrays can be mapped into memory


def to_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The file with these arrays of float32 and int32, in this order."""
    header = {}
    parts = []
    end = 0
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        begin, end = end, end + len(data)
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
