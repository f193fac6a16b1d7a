"""Zeros, bits, entropy and bytes of a file's operators, for Model Explorer.

Its app draws one number of each node over the graph, from one JSON file each:
the results by node, by graph. Nodes are named by their place in the subgraph.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tflite_export.files import require_writable, write_atomically
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import read_tflite
from tflite_export.inspection.rows import TensorRow, located_rows

# What it calls a graph without a name, as converters write.
_DEFAULT_GRAPH = "main"
_TITLES = {
    "zeros": "weights: zeros, fraction",
    "bits": "weights: stored bits a weight",
    "entropy": "weights: entropy, bits a weight",
    "bytes": "constants: bytes",
}
# From pale to dark, readable on both.
_GRADIENT = (
    {"stop": 0, "bgColor": "#f1eef6", "textColor": "#000000"},
    {"stop": 1, "bgColor": "#045a8d", "textColor": "#ffffff"},
)


def write_node_data(
    path: str | os.PathLike[str], file: str | os.PathLike[str]
) -> list[Path]:
    """Writes node data of a file, `out.json` as `out.zeros.json` and so on.

    Args:
        path: The name of the JSON files, before their kind is added.
        file: A `.tflite` file of any origin.

    Returns:
        The files, for "Upload node data" or `model-explorer
        --node_data_paths`.

    Raises:
        ValueError: If a file cannot be read or written.
    """
    require_writable(path)
    path = Path(path)
    texts = {
        path.with_suffix(f".{kind}{path.suffix or '.json'}"): json.dumps(
            data, indent=1
        ).encode()
        for kind, data in node_data(Flatbuffer(read_tflite(file))).items()
    }
    write_atomically(texts)
    return list(texts)


def node_data(file: Flatbuffer) -> dict[str, dict[str, Any]]:
    """Returns the node data of each kind, by graph.

    A constant counts once, at the first operator that reads it, so the bytes
    add up. An operator without constants has no data, and one without weights
    of known values has bytes alone.
    """
    rows: dict[tuple[int, int], list[TensorRow]] = {}
    for operator, row in located_rows(file):
        if operator is not None:
            place = (operator.subgraph, operator.index)
            rows.setdefault(place, []).append(row)
    data: dict[str, dict[str, Any]] = {kind: {} for kind in _TITLES}
    for (subgraph, index), held in sorted(rows.items()):
        graph = file.subgraph_name(subgraph) or _DEFAULT_GRAPH
        for kind, value in _values(held).items():
            results = data[kind].setdefault(graph, _empty(kind))["results"]
            results[str(index)] = {"value": value}
    return data


def _empty(kind: str) -> dict[str, Any]:
    gradient = [dict(stop) for stop in _GRADIENT]
    return {"name": _TITLES[kind], "results": {}, "gradient": gradient}


def _values(rows: Iterable[TensorRow]) -> Mapping[str, float]:
    """The numbers of one operator; several weights count as one."""
    rows = list(rows)
    values: dict[str, float] = {"bytes": sum(row.size_bytes for row in rows)}
    weights = [row for row in rows if row.is_weight]
    size = sum(math.prod(row.shape) for row in weights)
    if not size:
        return values
    values["bits"] = 8 * sum(row.size_bytes for row in weights) / size
    zeros = [row.num_zeros for row in weights]
    entropies = [row.entropy_bytes for row in weights]
    if None not in zeros and None not in entropies:
        values["zeros"] = sum(n or 0 for n in zeros) / size
        values["entropy"] = 8 * sum(b or 0.0 for b in entropies) / size
    return values
