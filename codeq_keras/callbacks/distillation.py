"""Distillation: trains a quantized model towards the float model's outputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from codeq_keras.model import QuantizedModel
from codeq_keras.ops.intervals import Interval, require_number

# Compiled losses whose outputs are class scores, softened by the temperature.
_CATEGORICAL = ("categorical_crossentropy", "sparse_categorical_crossentropy")

# Compiled losses that compare numbers, as well with those of a teacher.
_REGRESSION = (
    "huber", "huber_loss", "log_cosh", "mean_absolute_error",
    "mean_squared_error",
)  # fmt: skip

Distance = Callable[[Any, Any, Any], Any]


class Distillation(keras.callbacks.Callback):
    """Trains a quantized model towards the outputs of a teacher as well.

    Adds `weight * distance(teacher(x), qmodel(x))` to the loss of every
    training step; `val_loss` stays as compiled. Goes with any other callback,
    `CompressionBudget` among them. The teacher sees the same batch, augmented
    as it is, in inference mode. It is not trained, and not saved with the
    model. Train it to its end first: it keeps the quantized model from
    learning more than it knows.

    The compiled loss of an output decides its distance. Where it is a
    categorical crossentropy, the distance is the Kullback-Leibler divergence
    between the two distributions over classes, both softened by a temperature
    T, times `T ** 2`, which keeps the size of its gradient:

        T ** 2 * sum(p * ln(p / q)),  p, q = softmax(logits / T)

    The outputs are logits or probabilities as the compiled loss says. A
    binary crossentropy takes the probabilities of the teacher for labels. A
    squared, absolute, Huber or log-cosh error is that to the teacher's
    outputs. An output that is compiled without a loss has no distance.

    With several outputs the distances add up. `weight` and `loss` are then one
    for all, a list in the order of the outputs, or a dict by their names.

    `keras.distillation.Distiller` wraps the model in one of its own, which
    hides the quantizers from budgets, reports and `export`. Its losses are
    taken here, with the same values, but for those between inner layers: make
    the inner tensor an output of both models. They know no sample weights.

    Args:
        teacher: Built Keras model with the inputs and outputs of the
            quantized one: the float model it was made from, or a larger one.
        weight: Float > 0, weight of the distance in the loss.
        temperature: Float > 0. More than 1 shows more of what the teacher
            takes for second best.
        loss: Distance to take instead: a Keras loss, its name or a function,
            called as `loss(teacher_outputs, outputs)`, for example `"mse"`.
            Not softened. In a list or dict, None leaves an output out. Or a
            loss of `keras.distillation`, with a temperature of its own: alone
            for all outputs, its own `loss` as nested as they are, or in the
            list or dict for one of them.

    Raises:
        ValueError: If an argument is out of range; at the beginning of `fit`,
            if the model is not from `quantize_model`, if `weight` or `loss`
            do not fit its outputs, or an output is compiled with another loss
            and `loss` is not given.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> qmodel.compile("adam", "mse")
    >>> x = keras.ops.ones((8, 4))
    >>> history = qmodel.fit(
    ...     x, model(x), verbose=0,
    ...     callbacks=[Distillation(teacher=model, loss="mse")],
    ... )

    Reference:

    - [Distilling the Knowledge in a Neural Network,
      2015](https://arxiv.org/abs/1503.02531), section 2. Differs from it in:
      the compiled loss keeps its full weight.
    """

    def __init__(
        self,
        teacher: keras.Model,
        *,
        weight: float | Sequence[float] | Mapping[str, float] = 1.0,
        temperature: float = 2.0,
        loss: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(teacher, keras.Model) or not teacher.built:
            raise ValueError(
                "`teacher` must be a built `keras.Model`. "
                f"Received: teacher={teacher!r}."
            )
        for name, value in (("weight", weight), ("temperature", temperature)):
            for leaf in keras.tree.flatten(value):
                require_number(name, leaf, Interval(0))
        self.teacher = teacher
        self.weight = weight
        self.temperature = temperature
        self.loss = loss

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the distance on; `fit` switches it off at its end."""
        model = self.model
        if not isinstance(model, QuantizedModel):
            raise ValueError(
                "Expected a model returned by `codeq_keras.quantize_model`. "
                f"Received: an instance of {type(model).__name__}."
            )
        if model.training_loss is not None:
            raise ValueError(
                "Expected one `Distillation` per fit. Received: two. Keep one, "
                "whose teacher may be a model that averages several."
            )
        known = _output_names(model.latent_model)
        if known is not None:
            self._distances(known)  # Refuses now, not in the first step.
        teacher = self.teacher

        def training_loss(x: Any, y_pred: Any, sample_weight: Any) -> Any:
            target = keras.tree.map_structure(
                ops.stop_gradient, teacher(x, training=False)
            )
            names = known or _names_in(y_pred)
            _require_like(target, y_pred)
            if _is_of_all_outputs(self.loss):
                return self.weight * _sample_loss(self.loss)(
                    target, y_pred, sample_weight
                )
            return sum(
                weight * distance(*each)
                for (weight, distance), *each in zip(
                    self._distances(names),
                    keras.tree.flatten(target),
                    keras.tree.flatten(y_pred),
                    _per_output(
                        "sample_weight",
                        sample_weight,
                        names,
                        is_complete=False,
                    ),
                    strict=True,
                )
                if distance is not None
            )

        model.training_loss = training_loss
        model.make_train_function(force=True)

    def _distances(self, names: list[str]) -> list[tuple[Any, Distance | None]]:
        """Weight and distance of each output."""
        if _is_of_all_outputs(self.loss):
            require_number("weight", self.weight, Interval(0))
        weights = _per_output("weight", self.weight, names)
        given = _per_output("loss", self.loss, names)
        if self.loss is not None:
            distances = [loss and _sample_loss(loss) for loss in given]
        else:
            compiled = _per_output(
                "loss", self.model.loss, names, is_complete=False
            )
            distances = [
                loss and self._distance_for(loss, name)
                for loss, name in zip(compiled, names, strict=True)
            ]
        if not any(distances):
            raise ValueError(
                "`Distillation` needs an output with a loss. Received: none. "
                "Compile the model with one, or give `Distillation(loss=...)`."
            )
        return list(zip(weights, distances, strict=True))

    def _distance_for(self, loss: Any, output: str) -> Distance:
        """The distance for an output by its compiled loss."""
        if isinstance(loss, str):
            loss = keras.losses.get(loss)
        name = getattr(loss, "name", getattr(loss, "__name__", None))
        # A function by name has Keras's default, probabilities.
        from_logits = getattr(loss, "from_logits", False)
        if name in _REGRESSION:
            return _sample_loss(loss)
        if name == "binary_crossentropy":
            return _binary_distance(from_logits)
        if name in _CATEGORICAL:
            return SoftenedDivergence(
                temperature=self.temperature, from_logits=from_logits
            )
        raise ValueError(
            "`Distillation` knows the distance for outputs compiled with a "
            f"loss of {(*_CATEGORICAL, 'binary_crossentropy', *_REGRESSION)}. "
            f"Received: loss={loss!r} for output {output!r}. Give another as "
            "`Distillation(loss=...)`, e.g. 'mse'."
        )


def _output_names(latent_model: keras.Model) -> list[str] | None:
    """The names of the outputs in flat order; None before a call."""
    try:
        outputs = latent_model.output
    except (AttributeError, ValueError):
        return None  # Of a subclass.
    if isinstance(outputs, Mapping):
        return _names_in(outputs)
    names = getattr(latent_model, "output_names", None)
    return list(names) if names else _names_in(outputs)


def _names_in(outputs: Any) -> list[str]:
    """The keys of a dict of outputs, numbers elsewhere."""
    if isinstance(outputs, Mapping):
        _require_flat("outputs", outputs)
        outputs = {key: key for key in outputs}
        return [str(key) for key in keras.tree.flatten(outputs)]
    return [str(i) for i in range(len(keras.tree.flatten(outputs)))]


def _per_output(
    argument: str, given: Any, names: list[str], *, is_complete: bool = True
) -> list[Any]:
    """One value for each output, of one for all, a list or a dict."""
    _require_flat(argument, given)
    if isinstance(given, Mapping):
        missing = [n for n in names if n not in given] if is_complete else []
        unknown = [key for key in given if key not in names]
        if missing or unknown:
            raise ValueError(
                f"`{argument}` must have an entry for each output, {names}. "
                f"Received: {list(given)}."
            )
        return [given.get(name) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(
                f"`{argument}` must have an entry for each output, {names}. "
                f"Received: {len(given)} entries."
            )
        return list(given)
    return [given] * len(names)


def _require_flat(name: str, given: Any) -> None:
    """Raises a ValueError for entries that are dicts or lists themselves."""
    entries = given.values() if isinstance(given, Mapping) else given
    if not isinstance(given, Mapping | list | tuple):
        return
    if any(isinstance(entry, Mapping | list | tuple) for entry in entries):
        raise ValueError(
            f"`Distillation` needs {name} in one flat dict or list. "
            f"Received: {given}. Return them from the model as a flat one, "
            "such as {'kind_fine': ..., 'kind_coarse': ...}, and give losses "
            "and weights by the same names."
        )


def _require_like(target: Any, outputs: Any) -> None:
    """Raises a ValueError unless teacher and model have the same outputs."""
    ours, theirs = _names_in(outputs), _names_in(target)
    if ours != theirs:
        raise ValueError(
            "`teacher` must have the outputs of the model. Received: "
            f"{theirs}, where the model has {ours}."
        )


def _binary_distance(from_logits: bool) -> Distance:
    """The crossentropy to the teacher's probabilities."""
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)

    def distance(target: Any, outputs: Any, sample_weight: Any) -> Any:
        labels = ops.sigmoid(target) if from_logits else target
        return loss(labels, outputs, sample_weight)

    return distance


@keras.saving.register_keras_serializable(package="codeq_keras")
class SoftenedDivergence(keras.losses.Loss):
    """Kullback-Leibler divergence of softened outputs, see `Distillation`.

    Args:
        temperature: Float > 0.
        from_logits: Whether both arguments are logits, not probabilities.

    Example:

    >>> distance = SoftenedDivergence(temperature=2.0, from_logits=True)
    >>> teacher = ops.array([[1.0, 3.0], [2.0, 0.0]])
    >>> float(distance(teacher, teacher))
    0.0
    """

    def __init__(
        self, *, temperature: float, from_logits: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the divergence of `y_pred` from `y_true` per sample."""
        target, student = self._softened(y_true), self._softened(y_pred)
        divergence = ops.exp(target) * (target - student)
        return self.temperature**2 * ops.sum(divergence, axis=-1)

    def _softened(self, outputs: Any) -> Any:
        """Logarithms of the softened probabilities."""
        outputs = ops.convert_to_tensor(outputs)
        if not self.from_logits:
            # Up to a constant per sample, which softmax ignores.
            outputs = ops.log(ops.maximum(outputs, keras.config.epsilon()))
        return ops.log_softmax(outputs / self.temperature, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "from_logits": self.from_logits,
        }


def _sample_loss(loss: Any) -> Distance:
    """A loss that takes sample weights, from whatever Keras takes for one."""
    if isinstance(loss, keras.distillation.DistillationLoss):
        return _keras_distance(loss)
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return loss

    class Wrapped(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return loss(y_true, y_pred)

    return Wrapped()


def _is_of_all_outputs(loss: Any) -> bool:
    """Whether a loss of `keras.distillation` takes all outputs at once."""
    if not isinstance(loss, keras.distillation.DistillationLoss):
        return False
    # One loss for all goes to each output, as elsewhere.
    return keras.tree.is_nested(getattr(loss, "loss", ()))


def _keras_distance(loss: Any) -> Distance:
    """The distance of a loss of `keras.distillation`."""
    names = ("teacher_layer_name", "student_layer_name")
    inner = {n: v for n in names if (v := getattr(loss, n, None)) is not None}
    if inner:
        raise ValueError(
            "`Distillation` compares outputs, not inner layers. Received: "
            f"{type(loss).__name__} with {inner}. Make the tensors of these "
            "layers outputs of both models, before `quantize_model`."
        )

    def distance(target: Any, outputs: Any, sample_weight: Any) -> Any:
        if any(w is not None for w in keras.tree.flatten(sample_weight)):
            raise ValueError(
                "Losses of `keras.distillation` know no sample weights. "
                f"Received: {type(loss).__name__} in a training with sample "
                "weights. Leave `loss` out, or give one of `keras.losses`."
            )
        loss.validate_outputs(target, outputs)
        return loss.compute_loss(target, outputs)

    return distance
