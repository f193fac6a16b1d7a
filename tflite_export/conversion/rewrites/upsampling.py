"""Nearest upsampling as one operator.

Keras repeats rows and columns. The converter makes RESHAPE and TILE of five
dimensions of that. The Edge TPU and microcontrollers have no TILE. The Ethos-U
has one, and resizes by a few factors only: the others keep the TILE.
"""

from typing import Any

import keras
from keras import ops

# Of both axes; Vela places these on the Ethos-U.
_FACTORS = (2, 4, 8)


class ResizingUpSampling2D(keras.layers.UpSampling2D):
    """Repeats rows and columns by `ops.image.resize`."""

    operator_kind = "UpSampling2D"

    def call(self, inputs: Any) -> Any:
        """Enlarges images of shape `(batch, height, width, channels)`."""
        _, height, width, _ = ops.shape(inputs)
        rows, columns = self.size
        return ops.image.resize(
            inputs,
            (height * rows, width * columns),
            interpolation="nearest",
            data_format="channels_last",
        )


def is_nearest(layer: keras.Layer) -> bool:
    """Whether this repeats rows and columns of images equally often."""
    return (
        type(layer) is keras.layers.UpSampling2D
        and layer.interpolation == "nearest"
        and layer.data_format == "channels_last"
        and layer.size in [(factor, factor) for factor in _FACTORS]
    )


def as_resize(layer: keras.Layer) -> None:
    """Makes an upsampling one operator, in place."""
    layer.__class__ = ResizingUpSampling2D
