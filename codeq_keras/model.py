"""QuantizedModel and quantize_model, which makes one. No training code."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.activations.quantizer import (
    ActivationQuantizer,
    require_activation_bit_width,
)
from codeq_keras.architecture.copying import (
    copy_model,
    deserialize_architecture,
    require_quantizable,
    serialize_architecture,
)
from codeq_keras.architecture.kernels import find_float_weights, find_kernels
from codeq_keras.architecture.scoped import keep_updates, run_scoped
from codeq_keras.architecture.wrapping import ModelWrapper
from codeq_keras.config import (
    CoDeQConfig,
    Overrides,
    first_match,
    require_config,
    require_overrides,
    require_patterns,
)
from codeq_keras.quantizers.apart import taken_apart
from codeq_keras.quantizers.channels import make_gates, require_multiple
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer
from codeq_keras.quantizers.deployed import deployed_values
from codeq_keras.quantizers.kernels import (
    QuantizedKernel,
    build_quantizers,
    find_quantizer,
    quantized,
    quantizer_name,
    release_zeros,
    states_of,
    with_quantizers,
)
from codeq_keras.quantizers.older_files import (
    has_parts_as_layers,
    load_lone_logits,
)
from codeq_keras.quantizers.pattern import warn_of_obstacles
from codeq_keras.training.fitting import (
    begin_fit,
    begin_step,
    end_step,
    end_training,
)
from codeq_keras.training.regularizer import (
    CompressionRegularizer,
    require_regularizer,
)
from codeq_keras.training.schedule import TrainingSchedule, end_fit
from codeq_keras.training.weight_decay import exclude_from_weight_decay


@keras.saving.register_keras_serializable(package="codeq_keras")
class QuantizedModel(ModelWrapper):
    """A model whose kernels pass a quantizer in every call.

    Made by `quantize_model`. It trains, evaluates, saves and loads as any
    Keras model. The architecture runs unchanged inside a
    `keras.StatelessScope` in which each kernel has its quantized value, so any
    layer works, custom ones included.

    Attributes:
        latent_model: The float architecture with the latent weights.
        kernels: All kernels: a `QuantizedKernel`, or a `Kernel` where it was
            left in float; then all other weights, as `FloatWeight`.
        states: Logits and bounds of the `DeadZoneQuantizer`s, one per config.
        activation_quantizers: The `ActivationQuantizer`s of the model; empty
            without `activation_bit_width`.
        regularizer: The `CompressionRegularizer`.
        schedule: Counts the training steps and anneals the logits.

    Args:
        latent_model: Built Keras model. Owned: not copied. The other
            arguments are those of `quantize_model`.
    """

    # Set by callbacks for one training, see `compute_loss`.
    training_loss: Callable[..., Any] | None = None
    # Of a running training, for a callback that looks at the others.
    fit_callbacks: tuple[keras.callbacks.Callback, ...] = ()
    graph: Any = None  # Where activations are rounded, or looked at.
    activation_graph: ActivationGraph | None = None
    # Of files of before 2026-11-29: their optimizer begins anew.
    _has_scalar_slots = False

    def __init__(
        self,
        latent_model: keras.Model,
        config: CoDeQConfig | None = None,
        *,
        overrides: Overrides | None = None,
        activation_bit_width: int | None = None,
        channel_multiple: int | None = None,
        quantizer: Callable[..., Any] = DeadZoneQuantizer,
        regularizer: CompressionRegularizer | None = None,
        **kwargs: Any,
    ) -> None:
        # The latent model casts its inputs itself, by its own policy. Kernels,
        # logits and codes are float32 under every policy.
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.config = require_config(config)
        self.overrides = require_overrides(overrides)
        bits = require_activation_bit_width(activation_bit_width)
        self.activation_bit_width = bits
        self.latent_model = latent_model
        self.regularizer = require_regularizer(regularizer)
        self.schedule = TrainingSchedule(name="schedule")
        self.quantizer = quantizer
        kernels = find_kernels(latent_model)
        require_patterns("overrides", self.overrides, [k.path for k in kernels])
        self.kernels = with_quantizers(
            kernels,
            lambda k: first_match(k.path, self.overrides, self.config),
            quantizer,
        )
        self.kernels += tuple(find_float_weights(latent_model))
        build_quantizers(self.quantized_kernels)
        self.states: list[Any] = states_of(self.kernels)
        multiple = self.channel_multiple = require_multiple(channel_multiple)
        gates = make_gates(latent_model, self.kernels, multiple)
        self.channel_gates = gates
        if gates is not None:
            self.kernels = gates.attach(self.kernels)
            self.states += [gates]
        self._others = [  # Their variables are in no state.
            kernel.quantizer
            for kernel in self.quantized_kernels
            if type(kernel.quantizer) is not DeadZoneQuantizer
        ]
        self.activation_quantizers: list[ActivationQuantizer] = []
        if bits is not None or multiple is not None:
            graph = ActivationGraph(latent_model, rounds=bits is not None)
            self.graph, self.activation_graph = graph, graph if bits else None
            self.activation_quantizers = list(graph.quantizers.values())
        self.build_as_latent()

    @property
    def quantized_kernels(self) -> tuple[QuantizedKernel, ...]:
        """The kernels that have a quantizer."""
        return quantized(self.kernels)

    def call(
        self, inputs: Any, training: bool | None = None, **kwargs: Any
    ) -> Any:
        """Runs the architecture with quantized kernels."""
        if training:
            begin_step(self)
        has_budget = bool(training and self.regularizer.budget)
        with taken_apart(self.states, for_budget=has_budget) as unit:
            outputs = self._run_quantized(inputs, training, **kwargs)
            if training:
                end_step(self, unit if has_budget else None)
        return outputs

    def _run_quantized(self, inputs: Any, training: Any, **kwargs: Any) -> Any:
        model = self.activation_graph or self.latent_model
        if training and self.channel_gates is not None:
            model = functools.partial(self.channel_gates.observe, self.graph)
        if isinstance(inputs, dict):
            inputs = dict(inputs)  # Exporters of TensorFlow wrap it.
        run = run_scoped(
            lambda: model(inputs, training=training, **kwargs),
            deployed_values(self.kernels, self.graph, training=bool(training)),
        )
        keep_updates(
            run, {id(k.variable): k.path for k in self.quantized_kernels}
        )
        self.add_loss(run.losses)
        return run.outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns Keras's loss; in training, `training_loss` is added."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training and self.training_loss is not None:
            loss = loss + self.training_loss(x, y_pred, sample_weight)
        return loss

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles as `keras.Model.compile`; logits get no weight decay."""
        super().compile(*args, **kwargs)
        self._spare_logits()

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as it was when the model was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and not self._has_scalar_slots:
            self.optimizer.build(self.trainable_variables)  # Loaded next.

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        *,
        reestimate_batch_norm: bool = True,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains as Keras; BatchNorm gets the deployed weights' statistics."""
        if self.compiled:  # Else Keras says what is missing.
            # Again: the user may have excluded others since then.
            self._spare_logits()
        x, callbacks = begin_fit(
            self,
            x,
            callbacks,
            batch_size=batch_size,
            validation_split=kwargs.get("validation_split") or 0.0,
            reestimate=reestimate_batch_norm,
        )
        self.fit_callbacks = tuple(callbacks)
        try:
            history = super().fit(
                x, y, batch_size, epochs, verbose, callbacks, **kwargs
            )
        except Exception:
            # Under JAX, a step that fails leaves variables without a value.
            end_training(self, is_sound=False)
            raise
        except KeyboardInterrupt:
            end_training(self)
            raise
        end_training(self)
        end_fit(callbacks)
        self.fit_callbacks = ()  # They hold data.
        return history

    def release_budget(self) -> None:
        """Lets trainings without a budget change zeros and bits again.

        Without it they hold those that the last `CompressionBudget` has
        reached, and so does a loaded model. The next `CompressionBudget` calls
        it by itself; nothing else gives removed channels back.
        """
        release_zeros(self.kernels)

    def make_train_function(self, force: bool = False) -> Any:
        """Returns the function of one training step, see `keras.Model`."""
        # TensorFlow traces a step that creates variables twice.
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def _spare_logits(self) -> None:
        logits = [v for s in self.states for v in s.trainable_variables]
        exclude_from_weight_decay(self.optimizer, logits)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "latent_model": serialize_architecture(self.latent_model),
            "config": serialize(self.config),
            "overrides": {
                pattern: rule and serialize(rule)
                for pattern, rule in self.overrides.items()
            },
            "activation_bit_width": self.activation_bit_width,
            "channel_multiple": self.channel_multiple,
            "quantizer": quantizer_name(self.quantizer),
            "regularizer": serialize(self.regularizer),
        }

    def load_own_variables(self, store: Any) -> None:
        """Loads nothing but what older files have in other places."""
        super().load_own_variables(store)
        load_lone_logits(self.kernels, store)
        self.loads_parts_as_layers = has_parts_as_layers(store)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "QuantizedModel":
        """Creates the model from `get_config()`."""

        def deserialize(value: Any) -> Any:
            return value and keras.saving.deserialize_keras_object(
                value, custom_objects=custom_objects
            )

        model = cls(
            deserialize_architecture(config["latent_model"], custom_objects),
            deserialize(config["config"]),
            overrides={
                pattern: deserialize(rule)
                for pattern, rule in config["overrides"].items()
            },
            activation_bit_width=config.get(
                "activation_bit_width",
                # Where files of November 2026 have it.
                config["config"]["config"].get("activation_bit_width"),
            ),
            channel_multiple=config.get("channel_multiple"),
            quantizer=find_quantizer(config.get("quantizer"), custom_objects),
            regularizer=deserialize(config["regularizer"]),
            name=config["name"],
        )
        model._has_scalar_slots = "quantizer" not in config and any(
            len(state.bound_shapes) == 1 for state in model.states
        )
        return model


def quantize_model(
    model: keras.Model,
    config: CoDeQConfig | None = None,
    *,
    overrides: Overrides | None = None,
    activation_bit_width: int | None = None,
    channel_multiple: int | None = None,
    quantizer: Callable[..., Any] = DeadZoneQuantizer,
    regularizer: CompressionRegularizer | None = None,
) -> QuantizedModel:
    """Returns a copy of a model that learns to prune and quantize itself.

    Every kernel (variables of rank >= 2 called "kernel", "…_kernel" or
    "embeddings", in Keras's own and in custom layers) gets a quantizer in
    front. All else stays in float: `report` lists weights of other names, but
    no biases and normalizations. Weights and BatchNorm statistics are copied,
    the optimizer is not: compile the result. `model` is not changed.

    Args:
        model: Built `keras.Model`: sequential, functional, nested or
            subclassed, with `get_config`.
        config: `CoDeQConfig`, or None for its defaults.
        overrides: Map from a regular expression, searched in the path of a
            kernel such as `"block1/conv/kernel"`, to the `CoDeQConfig` it
            gets instead, or to None: left in float. The first match wins.
        activation_bit_width: None leaves the activations in float. 8 also
            rounds them to int8 in training, where a TFLite file does, and
            trains their ranges.
        channel_multiple: None keeps all channels. Otherwise a budget also
            removes channels, and each layer keeps a multiple of it: 16 for
            phones, 8 for microcontrollers and Ethos-U.
        quantizer: Class of the quantizers, or a function that makes one. It
            needs `build`, `call`, `zero_fraction`, `quantized_weight`,
            `bit_width`, `num_scales` and `config`, as
            `codeq_keras.KernelQuantizer` describes them.
            Registered with Keras, it is saved.
        regularizer: `CompressionRegularizer` with penalties of your own; not
            needed with a `CompressionBudget`.

    Returns:
        `QuantizedModel`, not compiled.

    Raises:
        ValueError: If the model is not built, has no kernel, has NaN weights
            or is quantized already, an override matches no kernel, no channel
            can be removed, or an argument is of another kind.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, name="head")]
    ... )
    >>> qmodel = codeq_keras.quantize_model(model, CoDeQConfig(bit_width=3))
    >>> [kernel.path for kernel in qmodel.kernels]
    ['head/kernel']

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981). Differs from it in:
      only kernels are quantized, never BatchNorm gammas.
    """
    require_quantizable(model)
    qmodel = QuantizedModel(
        copy_model(model),
        config,
        overrides=overrides,
        activation_bit_width=activation_bit_width,
        channel_multiple=channel_multiple,
        quantizer=quantizer,
        regularizer=regularizer,
        name=f"quantized_{model.name}",
    )
    kernels = qmodel.quantized_kernels
    warn_of_obstacles({k.path: k.pattern_obstacle for k in kernels}, 2)
    return qmodel
