"""Loops over time steps, written out.

The converter turns a loop into WHILE with subgraphs, and crashes when it has
to calibrate those for int8. Written out, each step is a handful of integer
operators that read the same weights.
"""

from collections.abc import Sequence

import keras


def applies(layer: keras.Layer) -> bool:
    """Whether this is a recurrent layer with a loop.

    Args:
        layer: Any layer.
    """
    return isinstance(layer, keras.layers.RNN) and not layer.unroll


def apply(layer: keras.Layer) -> None:
    """Unrolls the layer, in place.

    Args:
        layer: A layer that `applies` holds for.
    """
    layer.unroll = True


def note(names: Sequence[str]) -> str:
    """Says what was done.

    Args:
        names: The layers.
    """
    return (
        f"Recurrent layers {list(names)} were unrolled: the converter cannot "
        "make integers of their loop."
    )
