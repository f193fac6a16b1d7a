"""to_tf_keras: a Keras 3 model as a tf_keras model with the same outputs."""

from collections.abc import Mapping
from typing import Any

import keras
import tf_keras

from codeq_keras.architecture.visits import has_layer_list
from codeq_keras.model import QuantizedModel
from codeq_keras.tfmot.translation.layer import LayerClasses, translate_layer

Tensors = dict[tuple[str, int, int], Any]

_TENSOR = "__keras_tensor__"


def to_tf_keras(
    model: keras.Model, *, custom_layers: LayerClasses | None = None
) -> tf_keras.Model:
    """Returns a tf_keras model with the architecture and weights of a model.

    TensorFlow Model Optimization accepts the result, if its layers are among
    those it supports; it refuses nested models.

    Args:
        model: Built Keras 3 model: sequential or functional, with nested and
            shared layers, such as any of `keras.applications`.
        custom_layers: Map from the name of a layer class of your own to the
            tf_keras class that does the same. It must take the same arguments
            and create the same weights in the same order.

    Returns:
        `tf_keras.Model` with the same layer names, not compiled.

    Raises:
        ValueError: If the model is subclassed or not built, or a node has no
            counterpart in tf_keras: a `keras.ops` call other than adding,
            subtracting and multiplying, a Lambda, an unknown activation. The
            text names the node.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(3, activation="relu")
    ... ])
    >>> to_tf_keras(model).layers[-1].get_weights()[0].shape
    (4, 3)
    """
    _require_translatable(model)
    entry = {
        "class_name": type(model).__name__,
        "config": model.get_config(),
    }
    translated = _translate_model(entry, custom_layers or {})
    _copy_weights(model, translated)
    return translated


def _require_translatable(model: Any) -> None:
    if isinstance(model, QuantizedModel):
        raise ValueError(
            "Expected a float model. Received: a model of `quantize_model`. "
            "Translate the model that it was made from."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Expected a `keras.Model` (Keras 3). Received: an instance of "
            f"{type(model).__module__}.{type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            "Expected a built model. Received: "
            f"{model.name!r}, which has no weights yet. Give it an `Input`."
        )
    try:
        is_listed = has_layer_list(model) and "layers" in model.get_config()
    except NotImplementedError:  # A subclass without `get_config`.
        is_listed = False
    if not is_listed:
        raise ValueError(
            "Expected a sequential or functional model. Received: "
            f"{type(model).__name__}, a subclass whose `call` is code. Make "
            "it functional, or rebuild it with tf_keras layers."
        )


def _translate_model(
    entry: Mapping[str, Any], custom_layers: LayerClasses
) -> tf_keras.Model:
    config = entry["config"]
    if "output_layers" in config:
        return _translate_functional(config, custom_layers)
    layers = [_translate(layer, custom_layers) for layer in config["layers"]]
    model = tf_keras.Sequential(layers, name=config["name"])
    if not model.built:
        model.build(config["build_input_shape"])
    return model


def _translate(entry: Mapping[str, Any], custom_layers: LayerClasses) -> Any:
    config = entry["config"]
    if entry["class_name"] == "InputLayer":
        return tf_keras.layers.InputLayer(
            input_shape=tuple(config["batch_shape"][1:]),
            batch_size=config["batch_shape"][0],
            dtype=config["dtype"],
            name=config["name"],
        )
    if "output_layers" in config or entry["class_name"] == "Sequential":
        return _translate_model(entry, custom_layers)
    return translate_layer(entry, custom_layers)


def _translate_functional(
    config: Mapping[str, Any], custom_layers: LayerClasses
) -> tf_keras.Model:
    tensors: Tensors = {}
    waiting = []
    for entry in config["layers"]:
        name = entry["name"]
        if entry["class_name"] == "InputLayer":
            layer = _translate(entry, custom_layers)
            tensors[name, 0, 0] = layer.output
            continue
        layer = None
        if not _is_arithmetic(entry):
            layer = _translate(entry, custom_layers)
        for index, node in enumerate(entry["inbound_nodes"]):
            waiting.append((entry, layer, index, node))
    while waiting:
        ready = [item for item in waiting if _is_ready(item[3], tensors)]
        for entry, layer, index, node in ready:
            outputs = _call(entry, layer, node, tensors)
            for position, tensor in enumerate(keras.tree.flatten(outputs)):
                tensors[entry["name"], index, position] = tensor
        waiting = [item for item in waiting if item not in ready]
    return tf_keras.Model(
        _lookup(config["input_layers"], tensors),
        _lookup(config["output_layers"], tensors),
        name=config["name"],
    )


def _call(
    entry: Mapping[str, Any], layer: Any, node: Mapping[str, Any], known: Any
) -> Any:
    args = _substitute(node["args"], known)
    kwargs = _substitute(node["kwargs"], known)
    if layer is None:
        return _arithmetic(entry, [*args, *kwargs.values()])
    # Keras 3 fills these in by itself.
    kwargs = {
        key: value
        for key, value in kwargs.items()
        if value is not None and value is not False
    }
    return layer(*args, **kwargs)


def _is_ready(node: Any, tensors: Tensors) -> bool:
    return all(key in tensors for key in _references(node))


def _references(value: Any) -> list[tuple[str, int, int]]:
    if isinstance(value, dict):
        if value.get("class_name") == _TENSOR:
            return [tuple(value["config"]["keras_history"])]
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [key for item in value for key in _references(item)]
    return []


def _substitute(value: Any, tensors: Tensors) -> Any:
    """Puts tensors in the place of references to them."""
    if isinstance(value, dict):
        if value.get("class_name") == _TENSOR:
            return tensors[tuple(value["config"]["keras_history"])]
        return {k: _substitute(v, tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_substitute(item, tensors) for item in value)
    return value


def _lookup(reference: Any, tensors: Tensors) -> Any:
    """The inputs or outputs of a model, in their structure."""
    if isinstance(reference, dict):
        return {k: _lookup(v, tensors) for k, v in reference.items()}
    if isinstance(reference[0], str):
        return tensors[tuple(reference)]
    return [_lookup(item, tensors) for item in reference]


_ARITHMETIC = {
    "Add": tf_keras.layers.Add,
    "Multiply": tf_keras.layers.Multiply,
    "Subtract": tf_keras.layers.Subtract,
}


def _is_arithmetic(entry: Mapping[str, Any]) -> bool:
    """Whether a node is `a + b`, `a - b` or `a * b`, written as operators."""
    module = str(entry.get("module"))
    is_operation = module.startswith("keras") and ".ops." in module
    return is_operation and entry["class_name"] in _ARITHMETIC


def _arithmetic(entry: Mapping[str, Any], operands: list[Any]) -> Any:
    kind, name = entry["class_name"], entry["name"]
    numbers = [x for x in operands if isinstance(x, int | float)]
    if not numbers:
        return _ARITHMETIC[kind](name=name)(operands)
    [tensor] = [x for x in operands if not isinstance(x, int | float)]
    scale, offset = 1.0, 0.0
    if kind == "Multiply":
        scale = numbers[0]
    elif kind == "Add":
        offset = numbers[0]
    elif tensor is operands[0]:
        offset = -numbers[0]
    else:
        scale, offset = -1.0, numbers[0]
    return tf_keras.layers.Rescaling(scale, offset, name=name)(tensor)


def _copy_weights(source: keras.Model, target: tf_keras.Model) -> None:
    targets = {layer.name: layer for layer in target.layers}
    for layer in source.layers:
        if isinstance(layer, keras.Model):
            _copy_weights(layer, targets[layer.name])
        elif layer.weights:
            _copy_layer(layer, targets[layer.name])


def _copy_layer(source: keras.Layer, target: tf_keras.layers.Layer) -> None:
    values = source.get_weights()
    shapes = [value.shape for value in values]
    expected = [tuple(weight.shape) for weight in target.weights]
    if shapes != expected:
        raise ValueError(
            f"Layer {source.name!r} ({type(source).__name__}) must have "
            f"weights of the same shapes in tf_keras, {expected}. Received: "
            f"{shapes}. Give a class with the same weights in "
            "`custom_layers`."
        )
    target.set_weights(values)
