"""Shortens the names of tensors."""

from collections.abc import Collection, Sequence

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Tensor
from tflite_export.format.tensors import GRAPH_TYPES


def shorten_names(file: Flatbuffer, *, keeps_all: bool = True) -> None:
    """Shortens each name to the part that names a layer.

    The converter joins the names of fused layers with semicolons: in a small
    network they are a tenth of the file. The names of inputs and outputs stay,
    and names stay unique. No runtime reads others: without `keeps_all` only
    weights keep theirs, which is the path of their layer.
    """
    for subgraph in range(file.num_subgraphs):
        inputs, outputs = file.interface(subgraph)
        ends = {*inputs, *outputs}
        tensors = file.tensors(subgraph)
        names = [
            t.name if keeps_all or t.index in ends or _is_weight(t) else ""
            for t in tensors
        ]
        short = short_names(names, ends)
        for index, new in enumerate(short):
            file.rename(subgraph, index, new)


def _is_weight(tensor: Tensor) -> bool:
    is_number = tensor.dtype not in GRAPH_TYPES
    return bool(tensor.size_bytes) and len(tensor.shape) > 1 and is_number


def short_names(names: Sequence[str], kept: Collection[int]) -> list[str]:
    """Returns the part of each name that names a layer, all different.

    Names at the positions `kept`, and empty ones, stay as they are.

    Example:

    >>> names = ["x", "bn/batchnorm/mul;conv/Conv2D", "conv/Conv2D"]
    >>> short_names(names, {0})
    ['x', 'conv/Conv2D', 'conv/Conv2D_2']
    """
    shortened = list(names)
    taken = {names[index] for index in kept}
    for index, name in enumerate(names):
        if index not in kept and name:
            shortened[index] = _unique(layer_part(name), taken)
            taken.add(shortened[index])
    return shortened


def layer_part(name: str) -> str:
    """Returns the part of a name that names a layer, as the converter joins."""
    parts = name.split(";")
    # A fused normalization comes first, but another part names the layer.
    named = [p for p in parts if "/batchnorm/" not in p and "Squeeze" not in p]
    return (named or parts)[0]


def _unique(name: str, taken: set[str]) -> str:
    numbered = [f"{name}_{i}" for i in range(2, len(taken) + 3)]
    return next(c for c in [name, *numbered] if c not in taken)
