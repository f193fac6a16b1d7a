"""Distillation: trains a quantized model towards the float model's outputs."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from codeq_keras.model import QuantizedModel

# Compiled losses whose outputs are class scores, softened by the temperature.
_CATEGORICAL = ("categorical_crossentropy", "sparse_categorical_crossentropy")


class Distillation(keras.callbacks.Callback):
    """Trains a quantized model towards the outputs of a teacher as well.

    Adds `weight * distance(teacher(x), qmodel(x))` to the loss of every
    training step; `val_loss` stays as compiled. Goes with any other callback,
    `CompressionBudget` among them. The teacher sees the same batch, augmented
    as it is, in inference mode. It is not trained, and not saved with the
    model. Train it to its end first: it keeps the quantized model from
    learning more than it knows.

    Where the compiled loss is a categorical crossentropy, the distance is the
    Kullback-Leibler divergence between the two distributions over classes,
    both softened by a temperature T, times `T ** 2`, which keeps the size of
    its gradient:

        T ** 2 * sum(p * ln(p / q)),  p, q = softmax(logits / T)

    The outputs are logits or probabilities as the compiled loss says.

    Args:
        teacher: Built Keras model with the inputs and outputs of the
            quantized one: the float model it was made from, or a larger one.
        weight: Float > 0, weight of the distance in the loss.
        temperature: Float > 0. More than 1 shows more of what the teacher
            takes for second best.
        loss: Distance for models that are compiled with another loss: a
            Keras loss, its name or a function, called as
            `loss(teacher_outputs, outputs)`, for example `"mse"`. Not
            softened.

    Raises:
        ValueError: If an argument is out of range; at the beginning of `fit`,
            if the model is not from `quantize_model`, or is not compiled with
            one categorical crossentropy and `loss` is not given.

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
        weight: float = 1.0,
        temperature: float = 2.0,
        loss: str | Callable[[Any, Any], Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(teacher, keras.Model) or not teacher.built:
            raise ValueError(
                "`teacher` must be a built `keras.Model`. "
                f"Received: teacher={teacher!r}."
            )
        for name, value in (("weight", weight), ("temperature", temperature)):
            if not 0 < value < float("inf"):
                raise ValueError(
                    f"`{name}` must be a finite number > 0. "
                    f"Received: {name}={value!r}."
                )
        self.teacher = teacher
        self.weight = weight
        self.temperature = temperature
        self.loss = None if loss is None else _sample_loss(loss)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the distance on; `fit` switches it off at its end."""
        model = self.model
        if not isinstance(model, QuantizedModel):
            raise ValueError(
                "Expected a model returned by `codeq_keras.quantize_model`. "
                f"Received: an instance of {type(model).__name__}."
            )
        distance = self.loss or self._softened_divergence(model.loss)
        teacher, weight = self.teacher, self.weight

        def training_loss(x: Any, y_pred: Any, sample_weight: Any) -> Any:
            target = ops.stop_gradient(teacher(x, training=False))
            return weight * distance(target, y_pred, sample_weight)

        model.training_loss = training_loss
        model.make_train_function(force=True)

    def _softened_divergence(self, loss: Any) -> "SoftenedDivergence":
        if isinstance(loss, str):
            loss = keras.losses.get(loss)
        name = getattr(loss, "name", getattr(loss, "__name__", None))
        if name not in _CATEGORICAL:
            raise ValueError(
                "`Distillation` knows the distance for one output compiled "
                f"with a loss of {_CATEGORICAL}. Received: loss={loss!r}. "
                "Give another as `Distillation(loss=...)`, e.g. 'mse'."
            )
        return SoftenedDivergence(
            temperature=self.temperature,
            # A function by name has Keras's default, probabilities.
            from_logits=getattr(loss, "from_logits", False),
        )


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


def _sample_loss(loss: Any) -> Callable[..., Any]:
    """A loss that takes sample weights, from whatever Keras takes for one."""
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return loss

    class Wrapped(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return loss(y_true, y_pred)

    return Wrapped()
