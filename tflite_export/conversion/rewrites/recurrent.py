"""Loops over time steps, written out, of cells that multiply by whole kernels.

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


def multiplies_by_slices(layer: keras.Layer) -> bool:
    """Whether this is a cell whose kernel no single operator would hold."""
    cells = keras.layers.GRUCell | keras.layers.LSTMCell
    return isinstance(layer, cells) and layer.implementation == 1


def multiply_whole(layer: keras.Layer) -> None:
    """Computes the gates of a cell in one product, in place.

    The slices are for `recurrent_dropout`, which inference has not.
    """
    layer.implementation = 2
