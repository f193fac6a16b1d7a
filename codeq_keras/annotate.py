"""quantize_annotate_layer, quantize_annotate_model and quantize_apply.

TFMOT's vocabulary for choosing what is quantized while a model is built. The
quantization itself is that of `codeq_keras.model`.
"""

import re
from typing import Any

import keras

from codeq_keras.architecture.copying import (
    copy_model,
    is_tf_keras,
    require_quantizable,
)
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.visits import all_layers, has_layer_list
from codeq_keras.config import CoDeQConfig, require_config
from codeq_keras.model import QuantizedModel, quantize_model
from codeq_keras.training.regularizer import CompressionRegularizer


@keras.saving.register_keras_serializable(package="codeq_keras")
class QuantizeAnnotate(keras.layers.Layer):
    """A layer with a note on how it is to be quantized. Computes nothing.

    Made by `quantize_annotate_layer`. It calls the layer and bears its name,
    so that a model with annotations trains, saves and loads as one without.

    Args:
        layer: Keras layer. Owned: not copied.
        config: `CoDeQConfig`, or None for the one given to `quantize_apply`.
    """

    def __init__(
        self,
        layer: keras.Layer,
        config: CoDeQConfig | None = None,
        **kwargs: Any,
    ) -> None:
        # The layer casts its inputs itself, by its own policy.
        super().__init__(**{"name": layer.name, **kwargs}, autocast=False)
        self.layer = layer
        self.config = config
        self.supports_masking = layer.supports_masking

    def build(self, input_shape: Any = None) -> None:
        """Leaves building to the layer's first call, which has all inputs."""

    def get_build_config(self) -> None:
        """Returns None: the layer's own config builds it."""

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer."""
        return self.layer(inputs, *args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Returns the mask of the layer."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "layer": serialize(self.layer),
            "config": self.config and serialize(self.config),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "QuantizeAnnotate":
        """Creates the layer from `get_config()`."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            deserialize(config["layer"], custom_objects=custom_objects),
            config["config"] and deserialize(config["config"]),
            name=config["name"],
        )


def quantize_annotate_layer(
    layer: keras.Layer, config: CoDeQConfig | None = None
) -> QuantizeAnnotate:
    """Marks a layer to be quantized by `quantize_apply`.

    Nothing is quantized yet: the result computes what the layer computes. If
    only some layers of a model are marked, the others stay in float. Marking
    a layer that holds others, such as a nested model or an attention, marks
    all kernels inside; a mark further inside wins.

    Args:
        layer: Keras layer, built or not. Not copied: it becomes part of the
            result.
        config: `CoDeQConfig` of the kernels of this layer, or None for the
            one that `quantize_apply` is given.

    Returns:
        A layer of the same name and outputs, to be used in its place.

    Raises:
        ValueError: If `layer` is not a Keras 3 layer or is annotated already,
            or `config` is not a `CoDeQConfig`.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="hidden"),
    ...     codeq_keras.quantize_annotate_layer(
    ...         keras.layers.Dense(3, name="head"), CoDeQConfig(bit_width=8)
    ...     ),
    ... ])
    >>> qmodel = codeq_keras.quantize_apply(model)
    >>> [layer.is_quantized for layer in codeq_keras.report(qmodel).layers]
    [False, True]

    Reference:

    - [TFMOT](https://www.tensorflow.org/model_optimization/api_docs/python/tfmot/quantization/keras/quantize_annotate_layer).
      Differs from it in: a model may be annotated as a layer of another.
    """
    if not isinstance(layer, keras.Layer):
        remedy = "Give the layer itself, as `keras.layers.Dense(3)`."
        if is_tf_keras(layer):
            remedy = "Annotate it with TFMOT and `codeq_keras.tfmot`."
        raise ValueError(
            "Expected a layer of Keras 3. Received: an instance of "
            f"{type(layer).__module__}.{type(layer).__name__}. {remedy}"
        )
    if isinstance(layer, QuantizeAnnotate):
        raise ValueError(
            "Expected a layer without annotation. Received: "
            f"{layer.name!r}, which is annotated already. Annotate it once."
        )
    if config is not None:
        require_config(config)
    return QuantizeAnnotate(layer, config)


def quantize_annotate_model(model: keras.Model) -> keras.Model:
    """Marks every layer with kernels to be quantized by `quantize_apply`.

    Layers that are annotated already keep their own config, so this is how a
    model gets a default and some exceptions. Layers of nested models are
    annotated one by one.

    Args:
        model: Built Sequential or functional model. Not changed.

    Returns:
        A copy with annotations, weights kept, not compiled.

    Raises:
        ValueError: If the model is subclassed, is not built or has no kernel.

    Example:

    >>> import codeq_keras
    >>> model = codeq_keras.quantize_annotate_model(keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8),
    ...     codeq_keras.quantize_annotate_layer(
    ...         keras.layers.Dense(3), CoDeQConfig(bit_width=8)
    ...     ),
    ... ]))
    >>> qmodel = codeq_keras.quantize_apply(model, CoDeQConfig(bit_width=3))
    >>> [layer.bit_width for layer in codeq_keras.report(qmodel).layers]
    [3, 8]

    Reference:

    - [TFMOT](https://www.tensorflow.org/model_optimization/api_docs/python/tfmot/quantization/keras/quantize_annotate_model).
      Differs from it in: nested models are annotated as well.
    """
    require_quantizable(model)
    if not has_layer_list(model):
        raise ValueError(
            "Expected a Sequential or functional model, whose layers can be "
            f"replaced. Received: {model.name!r}, which is a "
            f"{type(model).__name__}. Call `quantize_model` with `overrides`."
        )
    return copy_model(
        model, lambda config: _annotated(_without_places(config), model)
    )


def quantize_apply(
    annotated: keras.Model,
    config: CoDeQConfig | None = None,
    *,
    activation_bit_width: int | None = None,
    regularizer: CompressionRegularizer | None = None,
) -> QuantizedModel:
    """Quantizes the annotated layers of a model; the others stay in float.

    The same as `quantize_model` on the model without annotations, with
    `overrides` that say what the annotations say. Paths, names, weights and
    outputs are those of the model that was never annotated.

    Args:
        annotated: Built model with layers from `quantize_annotate_layer`, or
            from `quantize_annotate_model`; also one that was trained, or
            saved and loaded, since. Not changed.
        config: `CoDeQConfig` of the layers annotated without one, or None for
            its defaults.
        activation_bit_width: As in `quantize_model`.
        regularizer: As in `quantize_model`.

    Returns:
        `QuantizedModel`, not compiled.

    Raises:
        ValueError: If the model has no annotation, or has one where it
            cannot be taken off: in the constructor of a subclassed model.

    Example: see `quantize_annotate_layer`.

    Reference:

    - [TFMOT](https://www.tensorflow.org/model_optimization/api_docs/python/tfmot/quantization/keras/quantize_apply).
      Differs from it in: `config` instead of a scheme; layers keep their
      names, without "quant_".
    """
    require_quantizable(annotated)
    notes = _annotations(annotated)
    if not notes:
        raise ValueError(
            "Expected a model with at least one annotated layer. Received: "
            f"{annotated.name!r} without. Annotate layers with "
            "`quantize_annotate_layer` or the model with "
            "`quantize_annotate_model`, or call `quantize_model`."
        )
    plain = copy_model(
        annotated, lambda config: _plain(_without_places(config))
    )
    left = _annotations(plain)
    if left:
        raise ValueError(
            "Expected annotations in Sequential and functional models. "
            f"Received: {left[0].name!r}, annotated inside a class of its "
            "own, which creates it anew. Annotate the whole of that layer, or "
            "call `quantize_model` with `overrides`."
        )
    # Outer annotations come first, so that inner ones win.
    chosen = {id(v): note.config for note in notes for v in note.variables}
    overrides = {}
    pairs = zip(find_kernels(annotated), find_kernels(plain), strict=True)
    for kernel, plain_kernel in pairs:
        rule = chosen.get(id(kernel.variable), None)
        if id(kernel.variable) in chosen and rule is None:
            continue  # The default of `config`.
        overrides[f"^{re.escape(plain_kernel.path)}$"] = rule
    return quantize_model(
        plain,
        config,
        overrides=overrides,
        activation_bit_width=activation_bit_width,
        regularizer=regularizer,
    )


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A config that names no layers by places, which wrapping moves."""
    return {**config, "frozen": []}


def _annotations(model: keras.Model) -> list[QuantizeAnnotate]:
    return [x for x in all_layers(model) if isinstance(x, QuantizeAnnotate)]


# How Keras serializes the class.
_EMPTY_NOTE = {
    "module": __name__,
    "class_name": QuantizeAnnotate.__name__,
    "registered_name": f"codeq_keras>{QuantizeAnnotate.__name__}",
}

# The keys of the layer itself in the config of a model; the others are its
# place in the graph.
_OF_THE_LAYER = {*_EMPTY_NOTE, "config", "build_config"}


def _annotated(config: dict[str, Any], model: keras.Layer) -> dict[str, Any]:
    """Serialized `model` with every layer that has kernels annotated."""

    def annotate(entry: dict[str, Any]) -> dict[str, Any]:
        layer = layers.get(entry["config"]["name"])
        if layer is None or isinstance(layer, QuantizeAnnotate):
            return entry
        if isinstance(layer, keras.Model) and has_layer_list(layer):
            return _annotated(entry, layer)
        if not find_kernels(layer):
            return entry
        inner = {k: v for k, v in entry.items() if k in _OF_THE_LAYER}
        graph = {k: v for k, v in entry.items() if k not in _OF_THE_LAYER}
        note = {"name": layer.name, "layer": inner, "config": None}
        return {**_EMPTY_NOTE, "config": note, **graph}

    layers = {layer.name: layer for layer in model.layers}
    inner = dict(config["config"])
    inner["layers"] = [annotate(entry) for entry in inner["layers"]]
    return {**config, "config": inner}


def _plain(config: Any) -> Any:
    """Serialized model with the annotations replaced by their layers."""
    if isinstance(config, list | tuple):
        return [_plain(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("registered_name") == _EMPTY_NOTE["registered_name"]:
        graph = {k: v for k, v in config.items() if k not in _OF_THE_LAYER}
        return {**_plain(config["config"]["layer"]), **_plain(graph)}
    return {key: _plain(value) for key, value in config.items()}
