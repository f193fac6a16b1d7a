"""Loops over time steps, written out.

The converter turns a loop into WHILE with subgraphs, and crashes when it
calibrates those for int8. Written out, each step is a few integer operators
that read the same weights.
"""

import keras


def is_rolled(layer: keras.Layer) -> bool:
    """Whether this is a recurrent layer with a loop."""
    return isinstance(layer, keras.layers.RNN) and not layer.unroll


def unroll(layer: keras.Layer) -> None:
    """Unrolls a recurrent layer, in place."""
    layer.unroll = True
