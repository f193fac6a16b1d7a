"""CompressionBudget and CompressionLogger. Compute nothing of their own."""

import warnings
from typing import Any

import keras

from codeq_keras.model import check_quantized
from codeq_keras.report import summarize

# Relative miss above which the end of the training warns.
_TOLERANCE = 0.05


class CompressionLogger(keras.callbacks.Callback):
    """Puts sparsity, bits and BOPs of a quantized model into Keras's logs.

    At the end of every epoch `sparsity`, `mean_bit_width` and, where the
    input size is fixed, `relative_bops` join the metrics: in the progress
    bar, in `History`, and in every callback listed after this one, such as
    `TensorBoard` and `CSVLogger`.

    Example:

    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> qmodel.compile("adam", "mse")
    >>> history = qmodel.fit(
    ...     keras.ops.ones((8, 4)), keras.ops.ones((8, 1)), verbose=0,
    ...     callbacks=[CompressionLogger()],
    ... )
    >>> history.history["mean_bit_width"]
    [4.0]
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the model is a quantized one."""
        check_quantized(self.model)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Adds the numbers to `logs`."""
        if logs is not None:
            logs.update(summarize(self.model))


class CompressionBudget(CompressionLogger):
    """Trains a quantized model to a budget: one number, no schedule to tune.

    Adds `100 * ln(current / target) ** 2` to the loss, with a target that
    falls geometrically from where the model is to the budget over the first
    half of the training. Weights, dead zones and bit widths settle together
    on the best split among the layers. Gives good results from about 300
    training steps on. Also logs what `CompressionLogger` logs.

    Args:
        relative_bops: Bit operations relative to the dense float32 model, in
            (0, 1), with 32-bit activations as in the paper. Dense 4-bit
            weights are at 0.125.
        sparsity: Fraction of zeros among the quantized weights, in (0, 1).

    Raises:
        ValueError: If not exactly one budget in (0, 1) is given; at the
            beginning of `fit`, if the model is not a quantized one, a kernel
            is on `level_grid="paper"`, or `relative_bops` meets a kernel
            whose multiply-accumulates are not known.

    Warns:
        UserWarning: At the end of `fit`, if the budget was missed.

    Example:

    >>> CompressionBudget(relative_bops=0.05).target
    0.05
    >>> CompressionBudget(sparsity=1.5)
    Traceback (most recent call last):
        ...
    ValueError: A budget must be in (0, 1). Received: sparsity=1.5
    """

    def __init__(
        self,
        *,
        relative_bops: float | None = None,
        sparsity: float | None = None,
    ) -> None:
        super().__init__()
        budgets = {"relative_bops": relative_bops, "sparsity": sparsity}
        given = {k: v for k, v in budgets.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                "Exactly one of `relative_bops` and `sparsity` must be given. "
                f"Received: {given}"
            )
        [(self.name, self.target)] = given.items()
        if not 0 < self.target < 1:
            raise ValueError(
                "A budget must be in (0, 1). "
                f"Received: {self.name}={self.target!r}"
            )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the budget penalty on."""
        super().on_train_begin(logs)
        self._check_logits()
        current = summarize(self.model)
        if self.name not in current:
            unknown = [k.path for k in self.model.kernels if k.num_macs is None]
            raise ValueError(
                "`relative_bops` needs the multiply-accumulates of every "
                "kernel. Received: an input size that is not fixed for "
                f"{unknown}. Build the model with a fixed input shape, or "
                "give `sparsity` instead."
            )
        start = self._cost(current)
        target = self._cost({self.name: self.target})
        if start == 0 or not any(self.model.quantizers):
            raise ValueError(
                f"A budget needs quantized kernels with a {self.name} to "
                "lower. Received: a model without. Check `overrides`."
            )
        if self.model.regularizer.budget is not None:
            raise ValueError(
                "Expected one `CompressionBudget` per fit. Received: two."
            )
        self.model.regularizer.set_budget(
            "density" if self.name == "sparsity" else self.name,
            start=max(start, target),
            target=target,
        )
        self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Switches the penalty off and warns if the budget was missed."""
        self.model.regularizer.set_budget(None)
        self.model.make_train_function(force=True)
        reached = summarize(self.model)
        cost, target = self._cost(reached), self._cost({self.name: self.target})
        if cost > target * (1 + _TOLERANCE):
            warnings.warn(
                f"CompressionBudget({self.name}={self.target:g}) was missed: "
                f"{self.name} is {reached[self.name]:.4f}. Train for more "
                "steps (300 or more), or allow more.",
                stacklevel=2,
            )

    def _check_logits(self) -> None:
        """Raises a ValueError where the optimizer moves the logits."""
        published = [
            kernel.path
            for kernel, quantizer in zip(
                self.model.kernels, self.model.quantizers, strict=True
            )
            if quantizer and quantizer.config.level_grid == "paper"
        ]
        if published:
            raise ValueError(
                "A budget needs logits that move at their own rate. Received: "
                f"level_grid='paper' for {published}, whose logits move at "
                "the optimizer's. Use `CompressionRegularizer` there, or "
                "another grid."
            )

    def _cost(self, values: dict[str, float]) -> float:
        """What the budget limits: BOPs, or density for `sparsity`."""
        value = values[self.name]
        return 1.0 - value if self.name == "sparsity" else value
