"""QuantizedModel and quantize_model, which makes one. No training code."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

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
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.scoped import ScopedRun, run_scoped
from codeq_keras.config import (
    CoDeQConfig,
    Overrides,
    first_match,
    require_config,
    require_overrides,
)
from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer
from codeq_keras.quantizers.kernels import (
    QuantizedKernel,
    build_quantizers,
    compute_bounds,
    find_quantizer,
    quantized,
    quantizer_name,
    states_of,
    with_quantizers,
)
from codeq_keras.quantizers.older_files import load_lone_logits
from codeq_keras.training.regularizer import CompressionRegularizer
from codeq_keras.training.schedule import (
    ScheduleCallback,
    TrainingSchedule,
    end_fit,
)
from codeq_keras.training.weight_decay import exclude_from_weight_decay

# The exact quantile of |w| costs a partial sort; over 10 steps it moves less
# than the noise between seeds.
REFRESH_STEPS = 10


@keras.saving.register_keras_serializable(package="codeq_keras")
class QuantizedModel(keras.Model):
    """A model whose kernels pass a quantizer in every call.

    Made by `quantize_model`. It trains, evaluates, saves and loads as any
    Keras model; `summary`, callbacks and optimizers see nothing special. The
    architecture runs unchanged inside a `keras.StatelessScope` in which each
    kernel has its quantized value, so any layer works, custom ones included.

    Attributes:
        latent_model: The float architecture with the latent weights.
        kernels: All kernels found: a `QuantizedKernel`, or a `Kernel` where
            it was left in float.
        states: Logits and bounds of the `DeadZoneQuantizer`s, one per config.
        activation_quantizers: The `ActivationQuantizer`s of the model; empty
            without `activation_bit_width`.
        regularizer: The `CompressionRegularizer`.
        schedule: Counts the training steps and anneals the logits.

    Args:
        latent_model: Built Keras model. Owned: not copied. The other
            arguments are those of `quantize_model`.
    """

    def __init__(
        self,
        latent_model: keras.Model,
        config: CoDeQConfig | None = None,
        *,
        overrides: Overrides | None = None,
        activation_bit_width: int | None = None,
        quantizer: Callable[..., Any] = DeadZoneQuantizer,
        regularizer: CompressionRegularizer | None = None,
        **kwargs: Any,
    ) -> None:
        # The latent model casts its inputs itself, by its own policy.
        super().__init__(autocast=False, **kwargs)
        self.config = require_config(config)
        self.overrides = dict(overrides or {})
        require_activation_bit_width(activation_bit_width)
        self.activation_bit_width = activation_bit_width
        self.latent_model = latent_model
        self.regularizer = regularizer or CompressionRegularizer()
        self.schedule = TrainingSchedule(name="schedule")
        self.quantizer = quantizer
        kernels = find_kernels(latent_model)
        require_overrides(self.overrides, [k.path for k in kernels])
        self.kernels = with_quantizers(
            kernels,
            lambda k: first_match(k.path, self.overrides, self.config),
            quantizer,
        )
        build_quantizers(self.quantized_kernels)
        self.states = states_of(self.kernels)
        # Quantizers of another class have variables that are in no state.
        quantizers = [k.quantizer for k in self.quantized_kernels]
        self._others = [
            q for q in quantizers if type(q) is not DeadZoneQuantizer
        ]
        # Until 2026-11-29 a quantizer alone with its config had scalar logits:
        # the optimizer of such a file begins anew, and Keras says so.
        self._has_scalar_slots = False
        # Set by callbacks for one training, see `compute_loss`.
        self.training_loss: Callable[..., Any] | None = None
        self.activation_graph: ActivationGraph | None = None
        self.activation_quantizers: list[ActivationQuantizer] = []
        if activation_bit_width is not None:
            graph = self.activation_graph = ActivationGraph(latent_model)
            self.activation_quantizers = list(graph.quantizers.values())
        self.built = True

    @property
    def quantized_kernels(self) -> tuple[QuantizedKernel, ...]:
        """The kernels that have a quantizer."""
        return quantized(self.kernels)

    def call(
        self, inputs: Any, training: bool | None = None, **kwargs: Any
    ) -> Any:
        """Runs the architecture with quantized kernels."""
        if training:
            self._begin_training_step()
        with contextlib.ExitStack() as stack:
            for state in self.states:
                stack.enter_context(state.taken_apart())
            outputs = self._run_quantized(inputs, training, **kwargs)
            if training:
                self._add_penalty()
        return outputs

    def _run_quantized(self, inputs: Any, training: Any, **kwargs: Any) -> Any:
        model = self.activation_graph or self.latent_model
        run = run_scoped(
            lambda: model(inputs, training=training, **kwargs),
            self._substituted_state(),
        )
        for variable, value in self._kept_updates(run):
            variable.assign(value)
        for loss in run.losses:
            self.add_loss(loss)
        return run.outputs

    def _add_penalty(self) -> None:
        penalty = self.regularizer.penalty(
            self.kernels, progress=self.schedule.progress()
        )
        if penalty is not None:
            self.add_loss(penalty)

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
            # Its state is loaded next.
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit`; the logits settle by its last step."""
        if isinstance(callbacks, keras.callbacks.CallbackList):
            raise ValueError(
                "`callbacks` must be a list of callbacks. Received: a "
                "CallbackList. Pass `callbacks.callbacks`."
            )
        # Again: the user may have excluded other variables since `compile`.
        self._spare_logits()
        schedule = ScheduleCallback(self.schedule, self.states)
        callbacks = [schedule, *keras.tree.flatten(callbacks or [])]
        try:
            history = super().fit(
                x, y, batch_size, epochs, verbose, callbacks, **kwargs
            )
        finally:
            # Also after an interrupt: a budget lasts for one training.
            if self.regularizer.budget is not None or self.training_loss:
                self.regularizer.set_budget(None)
                self.training_loss = None
                self.make_train_function(force=True)
        end_fit(callbacks)
        return history

    def make_train_function(self, force: bool = False) -> Any:
        """Returns the function of one training step, see `keras.Model`."""
        # TensorFlow traces a step that creates variables twice, as it does
        # where the optimizer is built by its first update.
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def _spare_logits(self) -> None:
        logits = [v for s in self.states for v in s.trainable_variables]
        exclude_from_weight_decay(self.optimizer, logits)

    def _begin_training_step(self) -> None:
        rate, done = self.schedule.logit_rate(), self.schedule.steps_done()
        is_due = ops.equal(self.schedule.step % REFRESH_STEPS, 0)
        for state in self.states:
            state.advance(rate=rate, step=done)
            state.refresh_bounds(
                functools.partial(compute_bounds, state, self.kernels),
                when=is_due,
            )
        self.schedule.advance()

    def _substituted_state(self) -> list[tuple[keras.Variable, Any]]:
        # All variables, not only the kernels: under JAX the values live in an
        # outer scope, which an inner one hides.
        held = [*self.latent_model.variables, *self._range_variables()]
        state = {id(v): (v, v) for v in held}
        for kernel in self.quantized_kernels:
            state[id(kernel.variable)] = (kernel.variable, kernel.values())
        if self.activation_graph is not None:
            for twin, original in self.activation_graph.twins:
                state[id(twin)] = (twin, state[id(original)][1])
        return list(state.values())

    def _range_variables(self) -> list[keras.Variable]:
        return [v for q in self.activation_quantizers for v in q.variables]

    def _kept_updates(self, run: ScopedRun) -> list[tuple[Any, Any]]:
        """Statistics, ranges and seeds."""
        kept = [
            *self.latent_model.non_trainable_variables,
            *self._range_variables(),
        ]
        ids = {id(variable) for variable in kept}
        return [update for update in run.updates if id(update[0]) in ids]

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
            "quantizer": quantizer_name(self.quantizer),
            "regularizer": serialize(self.regularizer),
        }

    def load_own_variables(self, store: Any) -> None:
        """Loads nothing but what older files have in other places."""
        super().load_own_variables(store)
        load_lone_logits(self.kernels, store)

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
    quantizer: Callable[..., Any] = DeadZoneQuantizer,
    regularizer: CompressionRegularizer | None = None,
) -> QuantizedModel:
    """Returns a copy of a model that learns to prune and quantize itself.

    Every kernel (variables of rank >= 2 called "kernel", "…_kernel" or
    "embeddings", in Keras's own and in custom layers) gets a
    `DeadZoneQuantizer` in front. Biases and BatchNorm stay in float. The
    weights and the BatchNorm statistics are copied; the optimizer is not, so
    compile the result. `model` is not changed.

    Args:
        model: Built `keras.Model`: sequential, functional, nested or
            subclassed, with `get_config`.
        config: `CoDeQConfig`, or None for its defaults: 4 bits, int8 codes.
        overrides: Map from a regular expression, searched in the path of a
            kernel such as `"block1/conv/kernel"`, to the `CoDeQConfig` it
            gets instead, or to None, which leaves it in float. The first
            match wins.
        activation_bit_width: None leaves the activations in float. 8 also
            rounds them to int8 in training, where a TFLite file does, and
            trains their ranges.
        quantizer: Class of the quantizers, or a function that makes one. It
            needs `build`, `call`, `zero_fraction`, `quantized_weight`,
            `bit_width`, `num_scales` and `config`, as
            `codeq_keras.KernelQuantizer` describes them.
            Registered with Keras, it survives saving.
        regularizer: `CompressionRegularizer` with penalties of your own; not
            needed with a `CompressionBudget`.

    Returns:
        `QuantizedModel`, not compiled.

    Raises:
        ValueError: If the model is not built, has no kernel, has NaN weights
            or is quantized already, an override matches no kernel, or
            `activation_bit_width` is another number.

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
    if isinstance(model, QuantizedModel):
        raise ValueError(
            "Expected a float model. Received: a model that is quantized "
            "already. Call `strip_quantizers` on it first."
        )
    require_quantizable(model)
    return QuantizedModel(
        copy_model(model),
        config,
        overrides=overrides,
        activation_bit_width=activation_bit_width,
        quantizer=quantizer,
        regularizer=regularizer,
        name=f"quantized_{model.name}",
    )
