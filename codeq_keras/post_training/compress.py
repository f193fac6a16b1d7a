"""compress_post_training: prunes and quantizes with samples, without `fit`."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras

from codeq_keras import costs
from codeq_keras.config import CoDeQConfig, Overrides, require_overrides
from codeq_keras.model import QuantizedModel, quantize_model
from codeq_keras.ops.intervals import Interval, require_number
from codeq_keras.post_training.compression import Compression
from codeq_keras.post_training.problems import MAX_COLUMNS
from codeq_keras.post_training.search import search
from codeq_keras.training.auto import choose_bit_width

_RANGES = {
    "relative_bops": Interval(0, 1, has_high=True),
    "sparsity": Interval(0, 1, has_low=True),
    "bits_per_weight": Interval(0, 32),
    "size_bytes": Interval(0),
}

# One scale per channel: without training a shared one costs accuracy.
_DEFAULT = CoDeQConfig(level_grid="uniform", axis=-1)

# Without training 2 bits lose most of the accuracy.
_LEAST_BIT_WIDTH = 3


def compress_post_training(
    model: keras.Model,
    samples: Any,
    config: CoDeQConfig | None = None,
    *,
    relative_bops: float | None = None,
    sparsity: float | None = None,
    bits_per_weight: float | None = None,
    size_bytes: float | None = None,
    max_drop: float | None = None,
    evaluate: Callable[[keras.Model], float] | None = None,
    overrides: Overrides | None = None,
    activation_bit_width: int | None = None,
    verbose: int | str = "auto",
) -> QuantizedModel:
    """Prunes and quantizes a trained model with unlabelled samples alone.

    Takes seconds, not epochs. A weight stays if what it adds to the outputs of
    its kernel, for its cost, is above one threshold for the whole model. The
    others make up for it by least squares, and so they do for the rounding.
    Biases, BatchNorm statistics and ranges are adapted. The result is what a
    training gives: `report`, `save`, `export` and `fit` go on from it.

    Args:
        model: Built `keras.Model`, trained. Not changed.
        samples: Inputs, unlabelled or not, of the forms that
            `calibrate_activations` takes. At least 32, better 500; the first
            1,024 are used and held in memory.
        config: `CoDeQConfig`, or None for one scale per channel on the uniform
            grid. Its `bit_width` is a number or `"auto"`: 3 bits where 4
            would leave less than half of the weights, else 4.
            `range_quantile` has no effect: the largest level of each scale is
            searched for.
        relative_bops: Bit operations relative to the dense float32 model, in
            (0, 1]. At most one of these four is given; with none, weights are
            quantized, and pruned where they round to zero.
        sparsity: Fraction of zeros, in [0, 1).
        bits_per_weight: Mean of density times bits, > 0.
        size_bytes: Estimated bytes of all kernels, see `report`, > 0.
        max_drop: Instead of a budget, with `evaluate`: the most zeros are
            searched for, by bisection, whose score is at most so much below
            that of `model`.
        evaluate: Function of a model that returns a score, the larger the
            better, as an accuracy. Called about 8 times.
        overrides: As in `quantize_model`.
        activation_bit_width: As in `quantize_model`. With 8 the ranges of the
            activations are those of the samples.
        verbose: 0 for no output, 1 for progress bars and a table of what
            `max_drop` tried; "auto" is 1.

    Returns:
        `QuantizedModel`, not compiled.

    Raises:
        ValueError: If an argument is out of range or does not fit to others,
            a budget cannot be met, samples are too few, alike, not finite or
            of another shape, or `evaluate` returns no finite number; also
            where `quantize_model` raises one.

    Example:

    >>> import codeq_keras
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> samples = np.random.default_rng(0).normal(size=(100, 8))
    >>> qmodel = codeq_keras.compress_post_training(
    ...     model, samples, sparsity=0.5, verbose=0
    ... )
    >>> codeq_keras.report(qmodel).sparsity
    0.5

    Reference:

    - [Optimal Brain Compression, 2022](https://arxiv.org/abs/2208.11580).
      Differs from it in: one Hessian per layer serves all rows; one threshold
      on the relative error, no dynamic programme.
    - [GPTQ, 2022](https://arxiv.org/abs/2210.17323), the order of the
      rounding. Differs from it in: the columns go by the size of their inputs;
      pruned weights stay zero.
    - [Wanda, 2023](https://arxiv.org/abs/2306.11695), the score. Differs from
      it in: squared, relative to the outputs, for the cost of a weight.
    """
    budget = _require_budget(
        relative_bops=relative_bops,
        sparsity=sparsity,
        bits_per_weight=bits_per_weight,
        size_bytes=size_bytes,
    )
    _require_search(budget, max_drop, evaluate)
    qmodel = quantize_model(
        model,
        _searched(_DEFAULT if config is None else config),
        overrides={
            k: _searched(v) for k, v in require_overrides(overrides).items()
        },
        activation_bit_width=activation_bit_width,
    )
    if "relative_bops" in budget:
        costs.require_macs("relative_bops", qmodel.kernels)
    limits = {k: 1 - v if k == "sparsity" else v for k, v in budget.items()}
    _choose_bit_width(qmodel, limits)
    compression = Compression(
        qmodel,
        samples,
        macs_matter="relative_bops" in budget,
        verbose=1 if verbose == "auto" else int(verbose),
    )
    _warn_of_others(compression.others)
    if evaluate is not None and max_drop is not None:
        search(compression, model, evaluate, max_drop)
    elif limits:
        compression.meet(*limits.popitem())
    else:
        compression.round(0.0)
    return qmodel


def _choose_bit_width(qmodel: QuantizedModel, limits: dict[str, float]) -> None:
    """Sets the bits that a budget has a say in."""
    found = costs.deployed_costs(qmodel.kernels)
    for name, limit in limits.items():
        choose_bit_width(
            qmodel.kernels, found, name, limit, at_least=_LEAST_BIT_WIDTH
        )


def _require_budget(**budgets: float | None) -> dict[str, float]:
    """Returns the one that is given; raises a ValueError for several."""
    given = {name: v for name, v in budgets.items() if v is not None}
    if len(given) > 1:
        raise ValueError(
            f"At most one of {list(budgets)} must be given. Received: {given}."
        )
    for name, value in given.items():
        require_number(name, value, _RANGES[name])
    return given


def _require_search(
    budget: dict[str, float], max_drop: Any, evaluate: Any
) -> None:
    if (max_drop is None) != (evaluate is None):
        raise ValueError(
            "`max_drop` and `evaluate` belong together: a drop of the score "
            f"that `evaluate` returns. Received: max_drop={max_drop!r}, "
            f"evaluate={evaluate!r}."
        )
    if max_drop is None:
        return
    if budget:
        raise ValueError(
            "`max_drop` searches for the zeros that a budget sets. Received: "
            f"max_drop={max_drop} and {budget}. Leave one out."
        )
    require_number("max_drop", max_drop, Interval(0, has_low=True))
    if not callable(evaluate):
        raise ValueError(
            "`evaluate` must be a function of a model that returns a number. "
            f"Received: evaluate={evaluate!r}."
        )


def _searched(config: CoDeQConfig | None) -> CoDeQConfig | None:
    """A config whose bounds are searched for: a later `fit` keeps them."""
    if not isinstance(config, CoDeQConfig):
        return config  # None, or what `quantize_model` refuses.
    for name, value, remedy in (
        ("bit_width", "learned", "Name a number, 4 for example"),
        ("level_grid", "paper", "Use 'uniform' or 'dead_zone'"),
    ):
        if getattr(config, name) == value:
            raise ValueError(
                f"{name}={value!r} needs a training. Received: {config!r}. "
                f"{remedy}, or train with `CompressionBudget`."
            )
    if config.sparsity_block != 1:
        raise ValueError(
            "`sparsity_block` needs a training. Received: sparsity_block="
            f"{config.sparsity_block}. Leave it out, or train with "
            "`CompressionBudget`."
        )
    return dataclasses.replace(config, range_quantile=1.0)


def _warn_of_others(paths: list[str]) -> None:
    if paths:
        named = ", ".join(map(repr, paths[:5]))
        rest = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        warnings.warn(
            "compress_post_training: no layer shows what it multiplies with "
            f"{named}{rest}, or one sums over more than {MAX_COLUMNS:,} "
            "weights. They are rounded to the nearest level, without "
            "the samples: look at the accuracy, or leave them in float with "
            "`overrides`.",
            stacklevel=3,
        )
