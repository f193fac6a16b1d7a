"""Packs the weights of a file for microcontrollers, in place.

DECODE unpacks them into the arena before each use, on the device.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tflite_export.format.edits import insert_decode
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.huffman import count_codes
from tflite_export.format.lut import look_ups
from tflite_export.targets.findings import require_dense_storage
from tflite_export.targets.tflm.packing import Packing, Weights, plan
from tflite_export.weights.records import WeightSite
from tflite_export.weights.sites import WEIGHTED_OPERATORS, weight_sites

Key = tuple[int, int]
_TITLES = {"int8": "int8", "lut": "look-up tables", "huffman": "Huffman"}


class _Packable(NamedTuple):
    """A tensor that DECODE can unpack."""

    site: WeightSite
    weights: Weights


def store_packed(
    file: Flatbuffer,
    weight_storage: str,
    *,
    max_unpacked_bytes: float = math.inf,
) -> list[str]:
    """Stores dense int8 weights in fewer bytes, in place; returns notes.

    `"auto"` takes for each tensor the smallest of int8, look-up tables and
    Huffman codes, `"lut"` the smaller of the first two. `"huffman"` packs all
    that DECODE can unpack, even if it gets larger. A form that fits no tensor
    is a ValueError. `"int8"` changes nothing. Tensors of more than
    `max_unpacked_bytes` stay as they are: DECODE would unpack them into RAM.
    """
    if weight_storage == "int8":
        return []
    require_dense_storage(file, "microcontrollers")
    sites = {site.key: site for site in weight_sites(file)}
    kept = _kept(file, sites, max_unpacked_bytes)
    readers = Counter(
        (operator.subgraph, index)
        for operator in file.operators
        for index in set(operator.inputs)
    )
    packable = [
        _Packable(site, _weights(site, readers[key]))
        for key, site in sites.items()
        if key not in kept
    ]
    packings = plan([p.weights for p in packable], weight_storage)
    notes = [f"{_label(sites[key])}: int8; {why}." for key, why in kept.items()]
    tables = Counter(packing.table_key for packing in packings)
    for held, packing in zip(packable, packings, strict=True):
        is_shared = tables[packing.table_key] > 1
        notes.append(_note(held, packing, is_shared=is_shared))
    if weight_storage not in ("auto", *(p.storage for p in packings)):
        raise ValueError(
            f"`weight_storage={weight_storage!r}` must fit a weight tensor of "
            "the model and, for 'lut', make it smaller. Received: a model in "
            "which it fits none. "
            + " ".join(notes)
            + " Use `weight_storage='auto'`."
        )
    _pack(file, packable, packings)
    return notes


def _pack(
    file: Flatbuffer, packable: Sequence[_Packable], packings: Sequence[Packing]
) -> None:
    """Writes the packed weights; equal tables become one tensor."""
    known: dict[tuple[int, bytes], int] = {}
    for (site, _), packing in zip(packable, packings, strict=True):
        encoded = packing.encode(site.slot.codes)
        if encoded is None:
            continue
        subgraph, index = site.key
        packed, tables = encoded
        place = subgraph, tables.tobytes()
        if place not in known:
            known[place] = file.add_constant(subgraph, "", tables)
        insert_decode(file, subgraph, index, packed, known[place])


def _kept(
    file: Flatbuffer,
    sites: Mapping[Key, WeightSite],
    max_unpacked_bytes: float,
) -> dict[Key, str]:
    """The reasons to leave tensors as they are, by subgraph and index."""
    others = {
        (operator.subgraph, index): operator.name
        for operator in file.operators
        if operator.name not in WEIGHTED_OPERATORS
        for index in operator.inputs
    }
    kept = {}
    for key, site in sites.items():
        if key in others:
            kept[key] = f"also read by {others[key]}"
        elif key[1] in file.interface(key[0])[1]:
            kept[key] = "an output of the model"
        elif file.tensor(*key).data is None:
            kept[key] = "another operator unpacks it already"
        elif not site.slot.codes.size:
            kept[key] = "it has no values"
        elif site.slot.codes.size > max_unpacked_bytes:
            kept[key] = "unpacked, it would not fit `max_arena_bytes`"
    return kept


def _weights(site: WeightSite, num_readers: int) -> Weights:
    """The numbers of a tensor, with the look-up tables that DECODE can read.

    It takes the axis from the scales, which must be the first or the last one.
    """
    codes, tensor = site.slot.codes, site.tensor
    is_per_channel = tensor.scales.size > 1
    is_last = is_per_channel and tensor.axis == len(tensor.shape) - 1
    axis = tensor.axis if is_per_channel else None
    is_read = tensor.axis == 0 or is_last
    held = look_ups(codes, axis) if is_read else []
    return Weights(count_codes(codes), held, num_readers)


def _label(site: WeightSite) -> str:
    shape = "x".join(map(str, site.tensor.shape))
    return f"{site.tensor.short_name} ({shape})"


def _note(held: _Packable, packing: Packing, *, is_shared: bool) -> str:
    """The storage of a tensor, and the bytes of each form it could have."""
    sizes: dict[str, int] = {}
    for option in held.weights.options("auto"):
        size = min(
            option.num_bytes, sizes.get(option.storage, option.num_bytes)
        )
        sizes[option.storage] = size
    others = ", ".join(
        f"{_TITLES[name]} {size:,}"
        for name, size in sizes.items()
        if name != packing.storage
    )
    size = packing.num_bytes
    table = ""
    if is_shared and packing.storage != "int8":
        size = packing.packed_bytes
        table = " and the table that tensors share"
    return (
        f"{_label(held.site)}: {packing.storage}; {size:,} bytes{table} "
        f"(others: {others})."
    )
