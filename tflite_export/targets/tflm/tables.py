"""Weights as indices into tables; `DECODE` unpacks them on the device."""

from typing import Any, NamedTuple

import numpy as np

from tflite_export.format.edits import drop_scales, replace_by_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.lut import DECODE, MAX_INDEX_BITS, share_table
from tflite_export.format.names import shorten_names
from tflite_export.format.records import NO_SCALES, Constant, InputSite
from tflite_export.targets.findings import require_dense_storage
from tflite_export.targets.tflm.wheel import ask_wheel
from tflite_export.weights.sites import (
    WeightSite,
    decoded_constants,
    weight_sites,
)

# An operator, two tensors with scales and names, and headers (measured).
TABLE_OVERHEAD_BYTES = 300


def compress(data: bytes) -> tuple[bytes, list[str]]:
    """Replaces int8 weights by indices into tables, where that is smaller.

    A tensor gets a table of its values, or one for each output channel. A
    `DECODE` operator unpacks the weights into the arena before each use.
    Returns the new file, and the names of the tensors that became tables.
    """
    file = Flatbuffer(data)
    require_dense_storage(file, "microcontrollers")
    sites = {(s.site.subgraph, s.tensor.index): s for s in weight_sites(file)}
    chosen = {key: s for key, s in sites.items() if table_saving(s) > 0}
    if not chosen:
        return data, []
    tensors = [
        {
            "subgraph": subgraph,
            "tensor": tensor,
            "compression": [{"lut": _lookup(site).request(site)}],
        }
        for (subgraph, tensor), site in chosen.items()
    ]
    request = {"action": "compress", "tensors": tensors}
    outputs, _ = ask_wheel(data, {}, request)
    names = [site.tensor.name for site in chosen.values()]
    # The tool leaves scales on the packed bytes, and nothing reads them. It
    # also writes equal vectors again and again.
    compressed = Flatbuffer(outputs["model"].tobytes())
    _share_tables(compressed)
    drop_scales(compressed, _packed(compressed))
    shorten_names(compressed)
    return compressed.to_bytes(), names


def decompress(data: bytes) -> bytes:
    """Returns the file with dense weights in place of look-up tables."""
    file = Flatbuffer(data)
    decoded = decoded_constants(file)
    if not decoded:
        return data
    drop_scales(file, _packed(file))
    replace_by_constants(
        file,
        DECODE,
        {
            key: tensor.data
            for key, tensor in decoded.items()
            if tensor.data is not None
        },
    )
    return file.to_bytes()


def _packed(file: Flatbuffer) -> set[tuple[int, int]]:
    """The tensors that DECODE operators unpack."""
    return {
        (operator.subgraph, index)
        for operator in file.operators
        if operator.name == DECODE
        for index in operator.inputs
    }


def table_saving(site: WeightSite) -> int:
    """Returns the estimated bytes that a table saves; negative if none."""
    lookup = _lookup(site)
    if lookup.index_bits > MAX_INDEX_BITS:
        return -1
    size = site.tensor.size_bytes
    return size - (lookup.num_bytes(size) + TABLE_OVERHEAD_BYTES)


class _Lookup(NamedTuple):
    """The bits of an index, and the number of tables, for a tensor."""

    index_bits: int
    num_tables: int

    def num_bytes(self, num_weights: int) -> int:
        """Returns the size of indices and tables, without headers."""
        indices = num_weights * self.index_bits // 8
        return indices + self.num_tables * 2**self.index_bits

    def request(self, site: WeightSite) -> dict[str, Any]:
        """Returns the request to `tflite_micro`."""
        mode: dict[str, Any] = {"per_tensor": None}
        if self.num_tables > 1:
            mode = {"per_channel": {"axis": site.tensor.axis}}
        return {"index_bitwidth": self.index_bits, **mode}


def _lookup(site: WeightSite) -> _Lookup:
    """One table or a table for each channel, whichever is smaller."""
    codes = site.slot.codes
    options = [_Lookup(_index_bits(codes), 1)]
    if site.tensor.scales.size > 1:
        rows = np.moveaxis(codes, site.tensor.axis, 0)
        index_bits = max(_index_bits(row) for row in rows)
        options.append(_Lookup(index_bits, len(rows)))
    fitting = [o for o in options if o.index_bits <= MAX_INDEX_BITS]
    return min(fitting or options, key=lambda o: o.num_bytes(codes.size))


def _index_bits(codes: np.ndarray) -> int:
    return max((np.unique(codes).size - 1).bit_length(), 1)


def _share_tables(file: Flatbuffer) -> None:
    """Corrects a single table of a tensor with scales, see `share_table`."""
    shared = {}
    for operator in file.operators:
        if operator.name != DECODE:
            continue
        # Indices and tables in turn.
        for position in range(1, len(operator.inputs), 2):
            index = operator.inputs[position]
            tables = file.tensor(operator.subgraph, index).data
            if tables is not None:
                site = InputSite(operator.subgraph, operator.index, position)
                shared[site] = Constant(share_table(tables), NO_SCALES, 0)
    file.replace_inputs(shared)
