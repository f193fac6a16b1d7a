"""Shortens the names of tensors."""

from collections.abc import Collection, Sequence

from tflite_export.format.flatbuffer import Flatbuffer


def shorten_names(file: Flatbuffer) -> None:
    """Shortens each name to the part that names a layer.

    The converter joins the names of fused layers with semicolons: in a small
    network they are a tenth of the file. The names of inputs and outputs stay,
    and names stay unique.
    """
    for subgraph in range(file.num_subgraphs):
        inputs, outputs = file.interface(subgraph)
        names = [tensor.name for tensor in file.tensors(subgraph)]
        short = short_names(names, {*inputs, *outputs})
        for index, (old, new) in enumerate(zip(names, short, strict=True)):
            if new != old:
                file.rename(subgraph, index, new)


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
