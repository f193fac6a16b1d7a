"""Writes Dense + BatchNormalization as a 1x1 convolution, which folds."""

import collections
from typing import Any

import numpy as np
import tf_keras
from tensorflow_model_optimization.quantization.keras.graph_transformations import (  # noqa: E501
    transforms,
)

# Arguments that mean the same in both layers.
_COMMON = (
    "name",
    "trainable",
    "dtype",
    "use_bias",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
)


class DenseBatchNormAsConvolution(transforms.Transform):
    """Replaces Dense + BatchNormalization (+ ReLU) by its 1x1 convolution.

    The converter folds BatchNormalization into a convolution with int8
    weights, but leaves a fully connected layer in float, in stock TFMOT too.
    The convolution computes the same numbers; its kernel has the shape
    `(1, 1, inputs, units)`. It keeps the name of the Dense layer.

    Args:
        activation: Pattern of the layer after it, `("ReLU", {})` or
            `("Activation", {"activation": "relu"})`, or None without one.
    """

    def __init__(self, activation: tuple[str, dict[str, Any]] | None) -> None:
        self.activation = activation

    def pattern(self) -> transforms.LayerPattern:
        """Returns the layers to look for, last one first."""
        dense = transforms.LayerPattern("Dense", {"activation": "linear"})
        pattern = transforms.LayerPattern("BatchNormalization", inputs=[dense])
        if self.activation is None:
            return pattern
        return transforms.LayerPattern(*self.activation, inputs=[pattern])

    def replacement(
        self, match_layer: transforms.LayerNode
    ) -> transforms.LayerNode:
        """Returns reshape, convolution, the other layers, and reshape."""
        nodes = [match_layer]
        while nodes[-1].input_layers:
            nodes.append(nodes[-1].input_layers[0])
        dense, batch_norm = nodes[-1], nodes[-2]
        rank = int(np.ravel(batch_norm.layer["config"]["axis"])[0]) + 1
        if rank > 3 or not _is_plain(dense) or any(map(_is_custom, nodes)):
            return match_layer
        kernel = next(iter(dense.weights.values()))
        name = dense.layer["config"]["name"]
        batch_norm.layer["config"]["axis"] = [3]
        convolution = _convolution_node(dense, kernel)
        batch_norm.input_layers = [convolution]
        convolution.input_layers = [
            _reshape_node(f"{name}_to_map", (-1, 1, kernel.shape[0]))
        ]
        units = kernel.shape[1]
        output = _reshape_node(
            f"{name}_from_map", (units,) if rank == 2 else (-1, units)
        )
        output.input_layers = [match_layer]
        return output


def dense_batch_norm_transforms() -> list[transforms.Transform]:
    """Returns the transforms, the longest pattern first."""
    return [
        DenseBatchNormAsConvolution(("ReLU", {})),
        DenseBatchNormAsConvolution(("Activation", {"activation": "relu"})),
        DenseBatchNormAsConvolution(None),
    ]


def _is_custom(node: transforms.LayerNode) -> bool:
    return node.metadata.get("quantize_config") is not None


def _is_plain(dense: transforms.LayerNode) -> bool:
    # A constraint may mean another axis of the convolution's kernel.
    config = dense.layer["config"]
    special = ("kernel_constraint", "bias_constraint", "activity_regularizer")
    return not any(config.get(name) for name in special)


def _convolution_node(
    dense: transforms.LayerNode, kernel: np.ndarray
) -> transforms.LayerNode:
    config = dense.layer["config"]
    layer = tf_keras.layers.Conv2D(
        config["units"], 1, **{k: config[k] for k in _COMMON if k in config}
    )
    weights = collections.OrderedDict(dense.weights)
    weights[next(iter(weights))] = kernel[None, None]
    return _node(layer, weights)


def _reshape_node(
    name: str, target_shape: tuple[int, ...]
) -> transforms.LayerNode:
    return _node(tf_keras.layers.Reshape(target_shape, name=name), None)


def _node(layer: tf_keras.layers.Layer, weights: Any) -> transforms.LayerNode:
    config = tf_keras.utils.legacy.serialize_keras_object(layer)
    config["name"] = layer.name
    return transforms.LayerNode(
        config, weights, metadata={"quantize_config": None}
    )
