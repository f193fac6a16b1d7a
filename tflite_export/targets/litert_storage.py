"""Stores each weight tensor for LiteRT: int8, packed int4, or sparse.

The correctness and speed of LiteRT were measured:

| storage         | runs right                  | speed                   |
|-----------------|-----------------------------|-------------------------|
| int8            | everywhere                  | full                    |
| int4            | FULLY_CONNECTED             | full                    |
| int4            | CONV_2D, DEPTHWISE_CONV_2D  | a quarter of int8       |
| int8 + DENSIFY  | convolutions                | full, unpacked at load  |
| int8 + DENSIFY  | FULLY_CONNECTED             | a tenth, or fails       |
"""

from typing import NamedTuple

import numpy as np

from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Constant
from tflite_export.format.sparse import SparseTensor, smallest_encoding
from tflite_export.weights.sites import WeightSite, weight_sites

MAX_INT4 = 7
# XNNPACK's int4 kernels multiply the sums, and so the bias, by 16.
MAX_INT4_BIAS = 2**27
# The operator, its tensor and the tables of a sparse tensor: measured on
# networks of 8 to 27. The first one takes 110 more.
DENSIFY_OVERHEAD_BYTES = 170
# The operators of each form, at full speed or slow.
_INT4_FAST = ("FULLY_CONNECTED",)
_INT4_SLOW = ("CONV_2D", "DEPTHWISE_CONV_2D")
_SPARSE = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


class Choice(NamedTuple):
    """The storage of one tensor: `storage` is "int8", "int4" or "sparse"."""

    storage: str
    reason: str
    sparse: SparseTensor | None = None


def store_weights(file: Flatbuffer, weight_storage: str) -> list[str]:
    """Stores dense int8 weights for LiteRT, in place; returns notes on them.

    `"auto"` takes the smallest form that runs at full speed. `"int4"` and
    `"sparse"` take their form wherever it runs right, even if it is slower or
    larger; a form that fits no tensor is a ValueError. `"int8"` changes
    nothing.
    """
    if weight_storage == "int8":
        return []
    notes, num_stored = [], 0
    writes, densified = {}, {}
    sites = weight_sites(file)
    kept = shared_with_others(sites)
    for site in sites:
        tensor = site.tensor
        choice = choose(site, weight_storage)
        if site.key in kept and choice.storage == "int4":
            choice = Choice("int8", kept[site.key])
        if choice.storage == "int4":
            writes[site.site] = Constant(
                site.slot.codes, tensor.scales, tensor.axis, 4
            )
        if choice.sparse is not None:
            densified[site.key] = choice.sparse
        num_stored += choice.storage == weight_storage
        shape = "x".join(map(str, tensor.shape))
        name = f"{tensor.short_name} ({shape})"
        notes.append(f"{name}: {choice.storage}; {choice.reason}.")
    if not num_stored and weight_storage != "auto":
        raise ValueError(
            f"`weight_storage={weight_storage!r}` must fit a weight tensor of "
            "the model. Received: a model in which it fits none. "
            + " ".join(dict.fromkeys(notes))
            + " Use `weight_storage='auto'`."
        )
    file.replace_inputs(writes)
    for (subgraph, index), sparse in densified.items():
        densify(file, subgraph, index, sparse)
    return list(dict.fromkeys(notes))


def choose(site: WeightSite, weight_storage: str) -> Choice:
    """Decides on the storage of one dense int8 tensor, with the reason."""
    name = site.operator.name
    codes = site.slot.codes
    if weight_storage == "int4":
        return _int4(site, fast_only=False)
    if weight_storage == "sparse":
        return _sparse(name, codes, smaller_only=False)
    packed = _int4(site, fast_only=True)
    if packed.storage == "int4":
        return packed
    sparse = _sparse(name, codes, smaller_only=True)
    if sparse.storage == "sparse":
        return sparse
    return Choice("int8", f"{packed.reason}; {sparse.reason}")


def _int4(site: WeightSite, *, fast_only: bool) -> Choice:
    name, codes = site.operator.name, site.slot.codes
    largest = int(np.abs(codes.astype(np.int16)).max(initial=0))
    if name not in (*_INT4_FAST, *_INT4_SLOW):
        return Choice("int8", f"LiteRT runs no int4 {name}")
    if largest > MAX_INT4:
        return Choice(
            "int8",
            f"its codes reach {largest}, int4 holds {MAX_INT4} "
            "(level_grid='uniform' with at most 4 bits fits)",
        )
    if site.bias is not None and site.bias[1].data is not None:
        bias = int(np.abs(site.bias[1].data.astype(np.int64)).max(initial=0))
        if bias >= MAX_INT4_BIAS:
            return Choice("int8", f"its bias of {bias:,} overflows with int4")
    if fast_only and name in _INT4_SLOW:
        return Choice("int8", f"int4 {name} takes four times as long")
    if fast_only and codes.shape[-1] % 2:
        return Choice("int8", "int4 rows of an odd length are slow")
    saved = codes.size // 2
    return Choice("int4", f"saves {saved:,} of {codes.size:,} bytes")


def _sparse(name: str, codes: np.ndarray, *, smaller_only: bool) -> Choice:
    if name not in _SPARSE:
        return Choice("int8", f"sparse {name} is slow or fails in LiteRT")
    sparse = smallest_encoding(codes)
    size = sparse.size_bytes + DENSIFY_OVERHEAD_BYTES
    sparsity = float(np.mean(codes == 0))
    if smaller_only and size >= codes.size:
        return Choice(
            "int8",
            f"sparse would need {size:,} of {codes.size:,} bytes at "
            f"{sparsity:.0%} zeros",
        )
    return Choice(
        "sparse",
        f"{size:,} of {codes.size:,} bytes at {sparsity:.0%} zeros, unpacked "
        "when the file is loaded",
        sparse,
    )


def shared_with_others(sites: list[WeightSite]) -> dict[tuple[int, int], str]:
    """Reasons to keep tensors that operators of several names read, by key."""
    readers: dict[tuple[int, int], set[str]] = {}
    for site in sites:
        readers.setdefault(site.key, set()).add(site.operator.name)
    return {
        key: f"also read by {sorted(names - {'FULLY_CONNECTED'})[0]}"
        for key, names in readers.items()
        if len(names) > 1
    }
