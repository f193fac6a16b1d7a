"""Rows times columns must be what the layer computes, at some positions."""

import keras
import numpy as np
import pytest

from codeq_keras.post_training.layouts import layout_of, plain_layout

L = keras.layers

LAYERS = {
    "dense": (L.Dense(5), (3,)),
    "dense_in_time": (L.Dense(5), (4, 3)),
    "einsum": (L.EinsumDense("abc,cde->abde", (None, 2, 5)), (4, 3)),
    "einsum_two_axes": (L.EinsumDense("abcd,cde->abe", (None, 5)), (4, 2, 3)),
    "einsum_ellipsis": (L.EinsumDense("...x,xy->...y", 5), (4, 3)),
    "einsum_turned": (L.EinsumDense("abc,dc->abd", (None, 5)), (4, 3)),
    "conv1d": (L.Conv1D(5, 3, strides=2, padding="same"), (9, 4)),
    "conv1d_causal": (
        L.Conv1D(5, 3, dilation_rate=2, padding="causal"),
        (9, 4),
    ),
    "conv2d": (L.Conv2D(5, (3, 2), strides=(2, 1), padding="same"), (8, 7, 3)),
    "conv2d_valid": (L.Conv2D(5, 3, dilation_rate=2), (8, 7, 3)),
    "conv2d_groups": (L.Conv2D(6, 3, groups=3, padding="same"), (5, 5, 6)),
    "conv3d": (L.Conv3D(4, 2, padding="same"), (3, 4, 5, 2)),
    "depthwise1d": (L.DepthwiseConv1D(3, depth_multiplier=2), (9, 3)),
    "depthwise2d": (
        L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
        (8, 7, 3),
    ),
    # Taps that do not overlap: one for each output.
    "transposed": (L.Conv2DTranspose(5, 2, strides=2), (3, 4, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_columns_are_outputs_of_the_layer(name):
    layer, shape = LAYERS[name]
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    outputs = keras.ops.convert_to_numpy(layer(x))
    layout = layout_of(layer)
    kernel = keras.ops.convert_to_numpy(layer.kernel)

    rows = layout.rows(kernel)
    columns = layout.columns(x, np.random.default_rng(0))
    np.testing.assert_array_equal(layout.kernel(rows), kernel)
    found = np.einsum("gpc,grc->pgr", columns, rows)

    # All positions are asked for: the images are small. Their order is open.
    found = np.sort(found.reshape(-1))
    np.testing.assert_allclose(found, np.sort(outputs.reshape(-1)), atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_bias_has_a_number_for_each_row(name):
    layer, shape = LAYERS[name]
    layer(np.zeros((1, *shape), "float32"))
    layout = layout_of(layer)
    if layout.has_bias and layer.bias is not None:
        rows = layout.rows(keras.ops.convert_to_numpy(layer.kernel))
        assert rows.shape[0] * rows.shape[1] == np.prod(layer.bias.shape)


def test_large_images_are_read_at_a_few_positions():
    layer = L.Conv2D(2, 3)
    layer.build((None, 64, 64, 1))
    x = np.zeros((3, 64, 64, 1), "float32")
    columns = layout_of(layer).columns(x, np.random.default_rng(0))
    assert columns.shape == (1, 3 * 64, 9)


def test_a_kernel_per_position_has_no_layout():
    layer = L.EinsumDense("abc,bcd->abd", (4, 5))
    layer.build((None, 4, 3))
    assert layout_of(layer) is None


def test_layers_of_others_have_no_layout():
    class Twice(L.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    layer = Twice(3)
    layer.build((None, 2))
    assert layout_of(layer) is None


def test_plain_layout_has_a_row_for_each_output():
    kernel = np.arange(24.0).reshape(2, 3, 4)
    layout = plain_layout(kernel.shape, (1, 2))
    rows = layout.rows(kernel)
    assert rows.shape == (1, 12, 2)
    np.testing.assert_array_equal(rows[0, 5], kernel[:, 1, 1])
    np.testing.assert_array_equal(layout.kernel(rows), kernel)
