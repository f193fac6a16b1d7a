"""One serialized Keras 3 layer to the tf_keras layer that does the same."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import tf_keras

from codeq_keras.tfmot.translation import counterparts

LayerClasses = Mapping[str, type[tf_keras.layers.Layer]]

_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}

# Arguments without an effect on what the layer computes: weights are copied,
# and the rest concerns training with a layer's own extras.
_IRRELEVANT = frozenset(
    {
        "autocast",
        "build_config",
        "lora_alpha",
        "optional",
        "quantization_config",
        "renorm_momentum",
        "seed",
        # Both set it themselves where it matters, inside Bidirectional.
        "zero_output_for_mask",
    }
)

_BASE = frozenset({"name", "trainable", "dtype", "activity_regularizer"})


def translate_layer(
    entry: Mapping[str, Any], custom_layers: LayerClasses
) -> tf_keras.layers.Layer:
    """Returns the tf_keras layer of one entry of a Keras 3 model's config.

    Example:

    >>> config = {"name": "act", "negative_slope": 0.1}
    >>> entry = {
    ...     "module": "keras.layers", "class_name": "LeakyReLU",
    ...     "config": config,
    ... }
    >>> float(translate_layer(entry, {}).alpha)
    0.10000000149011612
    """
    kind = _layer_class(entry, custom_layers)
    accepted = _accepted_arguments(kind)
    renamed = _RENAMED.get(entry["class_name"], {})
    arguments = {}
    for key, value in entry["config"].items():
        name = renamed.get(key, key)
        if name in _IRRELEVANT or name.endswith("_initializer"):
            continue
        if name in accepted:
            arguments[name] = _translate_value(
                name, value, entry, custom_layers
            )
        elif value not in _neutral_values(entry, key):
            raise ValueError(
                f"{kind.__name__} of tf_keras has no argument {name!r}. "
                f"Received: {name}={value!r} in layer "
                f"{entry['config'].get('name')!r}. Build the layer without "
                "it, or give a class that has it in `custom_layers`."
            )
    return kind(**arguments)


def _layer_class(
    entry: Mapping[str, Any], custom_layers: LayerClasses
) -> type[tf_keras.layers.Layer]:
    name = entry["class_name"]
    known = {**counterparts.LAYERS, **custom_layers}
    if name in known:
        return known[name]
    is_builtin = entry.get("module") == "keras.layers"
    if is_builtin and name != "Lambda" and hasattr(tf_keras.layers, name):
        return getattr(tf_keras.layers, name)
    raise ValueError(
        "Every node of the model must be a layer that tf_keras has too. "
        f"Received: node {entry['config'].get('name')!r}, "
        f"{name} of {entry.get('module')}. Use the layer instead of an "
        "operation (`keras.layers.ReLU` for `keras.ops.relu`), or give the "
        f"tf_keras class that does the same: `custom_layers={{{name!r}: "
        "...}`."
    )


def _accepted_arguments(kind: type[tf_keras.layers.Layer]) -> set[str]:
    names = set(_BASE)
    for base in kind.__mro__:
        if base is tf_keras.layers.Layer:
            break
        if "__init__" in vars(base):
            names |= set(inspect.signature(vars(base)["__init__"]).parameters)
    return names - {"self", "args", "kwargs"}


def _neutral_values(entry: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    """Values of an argument that ask for nothing that tf_keras lacks."""
    kind = getattr(keras.layers, entry["class_name"], keras.layers.Layer)
    parameter = inspect.signature(kind.__init__).parameters.get(key)
    default = () if parameter is None else (parameter.default,)
    return (None, False, "channels_last", *default)


def _translate_value(
    name: str,
    value: Any,
    entry: Mapping[str, Any],
    custom_layers: LayerClasses,
) -> Any:
    is_serialized = isinstance(value, dict) and "class_name" in value
    if name.endswith("activation") and value is not None:
        return _activation(value, entry)
    if not is_serialized:
        return value
    if name == "dtype":
        return value["config"]["name"]
    plain = {"class_name": value["class_name"], "config": value["config"]}
    if name.endswith("_regularizer"):
        return tf_keras.regularizers.deserialize(plain)
    if name.endswith("_constraint"):
        return tf_keras.constraints.deserialize(plain)
    return translate_layer(value, custom_layers)  # The layer of a wrapper.


def _activation(value: Any, entry: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        if value in counterparts.ACTIVATIONS:
            return counterparts.ACTIVATIONS[value]
        if value in counterparts.EQUAL_ACTIVATIONS:
            return value
    name = value.get("config", value) if isinstance(value, dict) else value
    known = counterparts.EQUAL_ACTIVATIONS | set(counterparts.ACTIVATIONS)
    raise ValueError(
        "Every activation must be one that tf_keras has too, "
        f"{sorted(known)}. "
        f"Received: activation {name!r} in layer "
        f"{entry['config'].get('name')!r}. Replace it by one of these, or by "
        "a layer of your own that is in `custom_layers`."
    )
