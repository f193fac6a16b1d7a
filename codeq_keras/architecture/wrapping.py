"""ModelWrapper: a model that runs another one and answers as that one does."""

import dataclasses
import functools
import warnings
from typing import Any

import keras

from codeq_keras.architecture.visits import has_layer_list


@dataclasses.dataclass
class _Graph:
    """Inputs of the wrapper's own, and its output once it was asked for."""

    input_layers: dict[int, keras.layers.InputLayer]  # By that of the latent.
    input: Any
    output: Any = None


def _new_graph(model: keras.Model) -> _Graph:
    structure = _input_structure(model)
    if isinstance(model, keras.Sequential):
        tensor = keras.Input(
            batch_shape=structure.shape,
            dtype=structure.dtype,
            name=structure.name,
        )
        return _Graph({}, tensor)
    layers, tensors = {}, {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            own = type(layer).from_config(layer.get_config())
            layers[id(layer)] = own
            tensors[id(layer.output)] = own.output
    return _Graph(
        layers,
        keras.tree.map_structure(lambda t: tensors[id(t)], structure),
    )


def _input_structure(model: keras.Model) -> Any:
    is_sequential = isinstance(model, keras.Sequential)
    return model.inputs[0] if is_sequential else model.input


class ModelWrapper(keras.Model):
    """Base class of a model whose graph and layers are those of another.

    Around a functional or sequential model it has its inputs and outputs, by
    name, its shapes and its layers. A subclassed model has no graph: its
    wrapper lacks the same attributes.

    Attributes:
        latent_model: The model inside.
        loads_parts_as_layers: Whether a file is being loaded from the time
            when `layers` were the parts of the wrapper.
    """

    latent_model: keras.Model
    optimizer: Any
    loads_parts_as_layers = False

    @functools.cached_property
    def _graph(self) -> _Graph:
        return _new_graph(self.latent_model)

    @property
    def input(self) -> Any:
        """The structure of Keras tensors that the model is called on.

        A graph from them runs this wrapper. Keras refuses one that leads to a
        tensor of `latent_model`, which would compute in float.
        """
        return self._graph.input

    @property
    def output(self) -> Any:
        """The structure of Keras tensors that the model returns."""
        if self._graph.output is None:
            self._graph.output = self(self._graph.input)
        return self._graph.output

    @property
    def inputs(self) -> list[Any]:
        """The inputs as a list."""
        return keras.tree.flatten(self.input)

    @property
    def outputs(self) -> list[Any]:
        """The outputs as a list."""
        return keras.tree.flatten(self.output)

    @property
    def output_names(self) -> list[str]:
        """The names by which `compile` and `fit` know the outputs."""
        return self.latent_model.output_names

    @property
    def input_shape(self) -> Any:
        """The shape of the input, or a list of shapes."""
        return self.latent_model.input_shape

    @property
    def output_shape(self) -> Any:
        """The shape of the output, or a list of shapes."""
        return self.latent_model.output_shape

    @property
    def input_spec(self) -> Any:
        """The shapes that a call accepts."""
        return self.latent_model.input_spec

    @property
    def input_dtype(self) -> str:
        """The type of the inputs; that of floats where they differ."""
        if has_layer_list(self.latent_model):
            dtypes = {tensor.dtype for tensor in self.latent_model.inputs}
            if len(dtypes) == 1:
                return dtypes.pop()
        return self.latent_model.input_dtype

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers of the model inside. Alone, they compute in float."""
        if self.loads_parts_as_layers:
            # Keras reads it once, to find what the file has under `layers`.
            self.loads_parts_as_layers = False
            return keras.Model.layers.fget(self)
        layers = self.latent_model.layers
        if not has_layer_list(self.latent_model):
            return layers
        own = self._graph.input_layers
        return [own.get(id(layer), layer) for layer in layers]

    def get_layer(
        self, name: str | None = None, index: int | None = None
    ) -> keras.layers.Layer:
        """Returns a layer of the model inside; warns of its float weights."""
        layer = super().get_layer(name, index)
        warnings.warn(
            "The layers of a quantized model have float weights, and a model "
            "made of their tensors computes in float. Received: "
            f"get_layer({layer.name!r}). For what is deployed, ask "
            "`codeq_keras.strip_quantizers(qmodel)` for the layer.",
            stacklevel=2,
        )
        return layer

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns shapes and types of the outputs, without a trace."""
        return self.latent_model.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shapes of the outputs."""
        return self.latent_model.compute_output_shape(input_shape)

    def compile(
        self, *args: Any, auto_scale_loss: bool = True, **kwargs: Any
    ) -> None:
        """Compiles as the model inside, which decides on loss scaling."""
        super().compile(*args, auto_scale_loss=auto_scale_loss, **kwargs)
        scaled = keras.optimizers.LossScaleOptimizer
        if (
            auto_scale_loss
            and self.latent_model.dtype_policy.name == "mixed_float16"
            and self.optimizer is not None
            and not isinstance(self.optimizer, scaled)
        ):
            self.optimizer = scaled(self.optimizer, name="loss_scale_optimizer")

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns what `compile` was given, and the loss scaling in use."""
        config = super().get_compile_config()
        scaled = keras.optimizers.LossScaleOptimizer
        if self.compiled and isinstance(self.optimizer, scaled):
            # A model that is loaded under another policy goes on with it.
            config["optimizer"] = keras.saving.serialize_keras_object(
                self.optimizer
            )
        return config

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raises a ValueError: the model is quantized already."""
        raise ValueError(
            "Expected a float model for Keras's `quantize`. Received: "
            f"{self.name!r}, which `quantize_model` quantized already. Call "
            "`strip_quantizers` on it first."
        )

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Exports as `keras.Model.export`."""
        if input_signature is None:
            input_signature = self._input_signature()
        return super().export(
            filepath, format, verbose, input_signature, **kwargs
        )

    def build(self, input_shape: Any = None) -> None:
        """Creates nothing; Keras's exporters read the shape from here."""
        self.built = True

    def build_as_latent(self) -> None:
        """Builds for the input shape of the model inside, if it is known."""
        shape = (self.latent_model.get_build_config() or {}).get("input_shape")
        if has_layer_list(self.latent_model):
            shape = keras.tree.map_structure(
                lambda tensor: tensor.shape,
                _input_structure(self.latent_model),
            )
        self.build(shape)

    def _input_signature(self) -> list[Any] | None:
        """The inputs, or what a subclassed model was built with."""
        if has_layer_list(self.latent_model):
            return [self.input]
        shape = (self.latent_model.get_build_config() or {}).get("input_shape")
        if not shape:
            return None
        dtype = self.latent_model.input_dtype
        return [keras.InputSpec(shape=(None, *shape[1:]), dtype=dtype)]
