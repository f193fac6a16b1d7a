"""Checks and copies the float model that is to be quantized."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.architecture.finite import require_finite
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.visits import all_layers
from codeq_keras.architecture.wrapping import ModelWrapper


def require_no_path(model: Any) -> None:
    """Raises a ValueError for the path of a model in place of the model."""
    if isinstance(model, str | os.PathLike):
        raise ValueError(
            f"Expected a model. Received: the path {str(model)!r}. Load it "
            "with `keras.saving.load_model` and pass the model."
        )


def require_model(model: Any) -> None:
    """Raises a ValueError for what is no Keras 3 model."""
    require_no_path(model)
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Expected a `keras.Model` (Keras 3). Received: an instance of "
            f"{type(model).__module__}.{type(model).__name__}. "
            f"{_model_for(model)}"
        )


def require_quantizable(model: Any) -> None:
    """Raises a ValueError unless `model` is a sound, built float model."""
    require_model(model)
    if not model.built or not model.variables:
        raise ValueError(
            "Expected a built model with weights. Received: "
            f"{model.name!r}, which has none. Give it an `Input`, call "
            "`build(input_shape)` or call it once on data."
        )
    for layer in all_layers(model):
        _require_float(layer)
    _require_rebuildable(model)
    kernels = find_kernels(model)
    if not kernels:
        raise ValueError(
            "Expected a model with at least one kernel to quantize. Received: "
            f"{model.name!r} without any variable of rank >= 2 named "
            "'kernel', '..._kernel' or 'embeddings'."
        )
    require_finite(kernels)


def _model_for(value: Any) -> str:
    """The remedy for a value that stands where a model belongs."""
    if is_tf_keras(value):
        return "A `tf_keras` model goes through `codeq_keras.tfmot`."
    if isinstance(value, keras.Layer):
        return "Wrap it: `keras.Sequential([keras.Input(shape), layer])`."
    if isinstance(value, type):
        return "Make a model of the class first."
    return "Build one, or load it with `keras.saving.load_model`."


def is_tf_keras(value: Any) -> bool:
    """Whether a model or a layer is one of Keras 2."""
    modules = (kind.__module__ for kind in type(value).__mro__)
    return any(name.split(".")[0] == "tf_keras" for name in modules)


def _require_float(layer: keras.Layer) -> None:
    """Raises a ValueError for weights that are not the layer's kernel alone."""
    if isinstance(layer, ModelWrapper):
        raise ValueError(
            "Expected a float model. Received: "
            f"{layer.name!r}, which is quantized already. Call "
            "`strip_quantizers` on it first."
        )
    if getattr(layer, "lora_enabled", False):
        raise ValueError(
            "Expected layers without LoRA. Received: "
            f"{layer.name!r} ({type(layer).__name__}) with LoRA, whose kernel "
            "is not what it computes with. Merge it first: `save_weights`, "
            "build the model again without LoRA, and `load_weights`."
        )
    if layer.quantization_mode is not None:
        raise ValueError(
            "Expected float weights. Received: "
            f"{layer.name!r} ({type(layer).__name__}), which Keras quantized "
            f"to {layer.quantization_mode!r}. Take the float model as it was "
            "before Keras's `quantize`."
        )


def _require_rebuildable(model: keras.Model) -> None:
    for name in ("train_step", "test_step", "compute_loss", "compute_metrics"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise ValueError(
                f"Expected a model with Keras's own `{name}`. Received: "
                f"{type(model).__name__}, which overrides it; the quantized "
                "model would train on something else. Move the loss into "
                "`add_loss`, or quantize the inner model and train it in your "
                "own loop."
            )
    for layer in all_layers(model):
        if hasattr(layer, "save_assets"):
            raise ValueError(
                "Expected layers whose state is in variables. Received: "
                f"{layer.name!r} ({type(layer).__name__}), which keeps it in "
                "files. Apply it in the input pipeline, outside the model."
            )


def serialize_architecture(model: keras.Model) -> dict[str, Any]:
    """Returns the config of a model without its optimizer and loss."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    if frozen := _frozen_layers(model):
        config["frozen"] = frozen
    return config


def deserialize_architecture(
    config: dict[str, Any], custom_objects: Any = None, **kwargs: Any
) -> keras.Model:
    """Returns the model of `serialize_architecture`, with new weights."""
    model: keras.Model = keras.saving.deserialize_keras_object(
        config, custom_objects=custom_objects, **kwargs
    )
    # Of layers that are created when another is built, as in attention, Keras
    # forgets `trainable=False`. An outer layer comes first and sets its inner.
    frozen = set(config.get("frozen", ()))
    for index, layer in enumerate(all_layers(model)) if frozen else ():
        if layer.trainable == (index in frozen):
            layer.trainable = index not in frozen
    return model


def _frozen_layers(model: keras.Model) -> list[int]:
    """The frozen layers, by their places in `all_layers`."""
    layers = enumerate(all_layers(model))
    return [index for index, layer in layers if not layer.trainable]


def _numpy(variable: keras.Variable) -> np.ndarray:
    values: np.ndarray = ops.convert_to_numpy(variable)
    return values


def assign_copy(variable: keras.Variable, values: Any) -> None:
    """Assigns values that the variable shares with no other."""
    # Through NumPy: JAX would share the buffer, and training frees it.
    variable.assign(np.array(ops.convert_to_numpy(values)))


def copy_model(
    model: keras.Model,
    rewrite: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    values: Callable[[keras.Variable], np.ndarray] = _numpy,
) -> keras.Model:
    """Returns a copy of architecture and state, without the optimizer.

    `rewrite` maps the serialized architecture to that of the copy, which must
    have the same variables in the same order; `values` maps a variable of the
    model to the value in the copy. Classes need not be registered.
    """
    # Keras finds its own classes by their modules. By name alone, its layer
    # `Add` would stand in for its operation `Add`.
    classes = {
        type(layer).__name__: type(layer)
        for layer in all_layers(model)
        if not type(layer).__module__.startswith("keras.")
    }
    try:
        config = serialize_architecture(model)
        if rewrite:
            config = rewrite(config)
        with keras.saving.custom_object_scope(classes):
            copy = deserialize_architecture(config, safe_mode=False)
    except NotImplementedError as error:
        raise ValueError(
            "Expected a model that can be rebuilt from its config. Received: "
            f"{type(model).__name__}, for which Keras reports: {error}"
        ) from error
    if len(copy.variables) != len(model.variables):
        raise ValueError(
            "Expected a model that its config rebuilds with all variables. "
            f"Received: {model.name!r}, {len(model.variables)} variables, of "
            f"which the rebuilt model has {len(copy.variables)}. Define "
            "`build` or `get_build_config`, and create every layer in "
            "`__init__`."
        )
    pairs = zip(copy.variables, model.variables, strict=True)
    for target, source in pairs:
        assign_copy(target, values(source))
        if target.trainable != source.trainable:
            target.trainable = source.trainable
    for layer in all_layers(copy):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()  # Normalization computes from constants.
    return copy
