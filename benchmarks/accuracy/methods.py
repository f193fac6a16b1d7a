"""The methods that are compared, each from a float network."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from baselines import optimal_brain as brain
from baselines import pruning
from baselines import search as bit_search
from baselines.masked_model import MaskedModel
from harness.training import Training
from harness.workload import CLASSIFICATION

import codeq_keras
from accuracy.outcome import (
    FLOAT_BITS,
    Outcome,
    calibration,
    copy,
    masked_outcome,
    outcome_of,
    trained_outcome,
    values_of,
)
from codeq_keras.architecture.kernels import find_kernels

_ACTIVATION_BITS = 8
# The masks are final after this fraction of the training.
_PRUNING_FRACTION = 0.5
# Exponents that layer-wise pruning chooses from, each after a training of that
# many epochs, on the validation split.
_EXPONENTS, _TRIAL_EPOCHS = (0.0, 0.25, 0.5, 1.0), 2
# Strength of the paper's penalty, scaled for a training of a few epochs.
_PAPER_PENALTY = 0.1


def min_max_qat(bit_width: int | None) -> Callable[..., Outcome]:
    """Training with min-max quantization, or in float, without pruning."""

    def compress(net: keras.Model, training: Training, budget: None) -> Outcome:
        model = MaskedModel(copy(net), bit_width=bit_width)
        training.fit(model)
        return masked_outcome(model, training)

    return compress


def prune_qat_uniform(
    net: keras.Model, training: Training, budget: float
) -> Outcome:
    """Prunes every kernel alike on TFMOT's schedule, with 4-bit QAT."""
    densities = [8 * budget] * len(find_kernels(net))
    return _prune_and_train(net, training, densities)


def prune_qat_layer_wise(
    net: keras.Model, training: Training, budget: float
) -> Outcome:
    """As uniform, with a split over the kernels chosen on validation.

    The candidates differ in how they weigh the multiply-accumulates; each is
    trained for two epochs and judged.
    """
    kernels, density = find_kernels(net), 8 * budget
    split = pruning.layer_wise_densities
    candidates: dict[Any, list[float]] = {
        "uniform": [density] * len(kernels),
        **{e: split(kernels, density, exponent=e) for e in _EXPONENTS},
    }
    trial = dataclasses.replace(training, epochs=_TRIAL_EPOCHS)
    scores = {}
    for name, densities in candidates.items():
        outcome = _prune_and_train(net, trial, densities)
        scores[name] = training.evaluate(outcome.model, "validation")
    best = max(scores, key=scores.__getitem__)
    outcome = _prune_and_train(net, training, candidates[best])
    settings = {"exponent": best, "trials": scores}
    return dataclasses.replace(outcome, settings=settings)


def _prune_and_train(
    net: keras.Model, training: Training, densities: Sequence[float]
) -> Outcome:
    """Trains at 4 bits: an eighth of the float's bit operations at most."""
    model = MaskedModel(copy(net), bit_width=4)
    end_step = max(1, round(_PRUNING_FRACTION * training.num_steps))
    schedule = pruning.PruneOnSchedule(densities, end_step=end_step)
    training.fit(model, [schedule])
    return masked_outcome(model, training)


def tfmot_pqat(net: keras.Model, training: Training, budget: float) -> Outcome:
    """Trains with TFMOT itself, to classify. Needs TensorFlow."""
    from baselines import tfmot_pqat as pqat

    if training.workload.goal is not CLASSIFICATION:
        raise ValueError(
            "`tfmot_pqat` trains with a crossentropy. Leave the method out. "
            f"Received: loss={training.workload.goal.loss.name!r}."
        )
    model, deployed = pqat.train(
        net,
        training.batches,
        density=budget * FLOAT_BITS / pqat.BIT_WIDTH,
        epochs=training.epochs,
        learning_rate=training.workload.learning_rate,
    )
    kernels = find_kernels(net)
    return Outcome(model, kernels, deployed, [pqat.BIT_WIDTH] * len(kernels))


def hgq2(net: keras.Model, training: Training, budget: float) -> Outcome:
    """Trains with HGQ2, which quantizes activations too.

    It aims at a quarter of the budget, as a network with 8-bit activations
    does; HGQ2 counts bit operations without the signs of the weights. The
    bytes do not count that each weight's bit width is to be told.
    """
    from baselines import hgq2

    model, deployed, bits = hgq2.train(
        net,
        training,
        relative_bops=budget * _ACTIVATION_BITS / FLOAT_BITS,
        samples=calibration(training),
    )
    per_weight = np.concatenate([b.ravel() for b in bits])
    own_costs = {
        "mean_bit_width": float(per_weight.mean()),
        "relative_bops": hgq2.effective_bops(model) / hgq2.float_bops(net),
        "kernel_bytes": int(np.ceil(per_weight.sum() / 8)),
    }
    kernels, widths = find_kernels(net), [0] * len(deployed)
    return Outcome(model, kernels, deployed, widths, own_costs=own_costs)


def optimal_brain(
    net: keras.Model, training: Training, budget: float
) -> Outcome:
    """Prunes and quantizes after training, layer by layer."""
    model, samples = copy(net), calibration(training)
    brain.compress(
        model, np.concatenate(samples[:4]), bit_width=4, density=8 * budget
    )
    codeq_keras.reestimate_batch_norm(model, samples)
    kernels = find_kernels(model)
    return Outcome(model, kernels, values_of(kernels), [4] * len(kernels))


def post_training(
    net: keras.Model, training: Training, budget: float
) -> Outcome:
    """Prunes and quantizes after training, in seconds."""
    start = time.monotonic()
    model = codeq_keras.compress_post_training(
        net, calibration(training), relative_bops=budget, verbose=0
    )
    settings = {"seconds": round(time.monotonic() - start, 1)}
    return outcome_of(model, settings)


def searched_bits(
    net: keras.Model, training: Training, budget: float
) -> Outcome:
    """Searches for bits and densities, then trains with both held."""
    begin = time.monotonic()
    judge = bit_search.Judge(net, training)
    tried = bit_search.search(judge, budget, seed=training.seed)
    best = bit_search.best(tried)
    middle = time.monotonic()
    model = judge.quantized(best.candidate)
    training.fit(model)
    settings = {
        "bit_widths": [choice.bit_width for choice in best.candidate],
        "densities": [choice.density for choice in best.candidate],
        "first_loss": tried[0].loss,
        "best_loss": best.loss,
        "num_evaluations": len(tried),
        "search_seconds": round(middle - begin, 1),
        "training_seconds": round(time.monotonic() - middle, 1),
    }
    return trained_outcome(model, training, settings)


def fitted_first(bit_width: int | str = "auto") -> Callable[..., Outcome]:
    """Trains on from what is had without training, whose zeros are held."""

    def compress(
        net: keras.Model, training: Training, budget: float
    ) -> Outcome:
        config = codeq_keras.CoDeQConfig(
            bit_width, level_grid="uniform", axis=-1
        )
        model = codeq_keras.compress_post_training(
            net, calibration(training), config, relative_bops=budget, verbose=0
        )
        training.fit(model)
        return trained_outcome(model, training, {})

    return compress


def codeq_paper(net: keras.Model, training: Training, budget: None) -> Outcome:
    """The published method: its grid and its penalties, learned bits."""
    config = codeq_keras.CoDeQConfig(
        bit_width="learned", min_bit_width=2, level_grid="paper"
    )
    regularizer = codeq_keras.CompressionRegularizer(
        dead_zone_penalty=_PAPER_PENALTY, bit_width_penalty=_PAPER_PENALTY
    )
    model = codeq_keras.quantize_model(net, config, regularizer=regularizer)
    training.fit(model)
    return trained_outcome(model, training, {"penalty": _PAPER_PENALTY})


def codeq(
    *,
    distill: bool = False,
    zeros: float | None = None,
    pattern: str = "",
    activation_bit_width: int | None = None,
    level_grid: str = "uniform",
    bit_width: int | str | None = None,
) -> Callable[..., Outcome]:
    """Returns this package's method with one number, the budget.

    The float network may teach. `zeros` is a fraction to reach instead of a
    budget in BOPs; only kernels of the `pattern` are quantized. Without a
    `bit_width` it is that of `bit_width_for`.
    """

    def compress(
        net: keras.Model, training: Training, budget: float | None
    ) -> Outcome:
        settings: dict[str, Any] = {
            "bit_width": bit_width or bit_width_for(budget),
            "level_grid": level_grid,
        }
        goal = {"sparsity": zeros} if zeros else {"relative_bops": budget}
        model = codeq_keras.quantize_model(
            net,
            codeq_keras.CoDeQConfig(**settings),
            overrides={f"^(?!.*{pattern})": None} if pattern else {},
            activation_bit_width=activation_bit_width,
        )
        callbacks = [codeq_keras.CompressionBudget(**goal)]
        if distill:
            distance = training.workload.goal.distance
            callbacks.append(codeq_keras.Distillation(net, loss=distance))
        training.fit(model, callbacks)
        # Accuracies are those of the integers.
        weights = codeq_keras.quantized_weights(model)
        for kernel in find_kernels(codeq_keras.strip_quantizers(model)):
            [values] = values_of([kernel])
            np.testing.assert_array_equal(
                weights[kernel.path].dequantize(), values
            )
        if activation_bit_width is not None:
            settings["activation_bit_width"] = activation_bit_width
        return trained_outcome(model, training, settings)

    return compress


def bit_width_for(budget: float | None) -> int:
    """Returns the bits for a budget: as a first study chose, not tuned here."""
    if budget is None or budget >= 0.04:
        return 4
    return 3 if budget >= 0.02 else 2


@dataclasses.dataclass(frozen=True)
class Method:
    """A method and what a run of it needs.

    `compress` makes an `Outcome` of the float network, the training and the
    budget. A method without a budget does not aim at relative BOPs; one that
    does not train works after training.
    """

    label: str
    compress: Callable[..., Outcome]
    has_budget: bool = True
    trains: bool = True


_OURS = "CoDeQ for Keras"
_default_grid = partial(codeq, level_grid="dead_zone")
_in_8_bits = {"distill": True, "activation_bit_width": _ACTIVATION_BITS}

METHODS = {
    "float": Method("Float fine-tuning", min_max_qat(None), False),
    "qat8": Method("Min-max QAT 8 bit", min_max_qat(8), False),
    "qat4": Method("Min-max QAT 4 bit", min_max_qat(4), False),
    "qat3": Method("Min-max QAT 3 bit", min_max_qat(3), False),
    "qat2": Method("Min-max QAT 2 bit", min_max_qat(2), False),
    "prune_uniform": Method("Prune (uniform) + QAT 4 bit", prune_qat_uniform),
    "prune_layer_wise": Method(
        "Prune (layer-wise, tuned) + QAT 4 bit", prune_qat_layer_wise
    ),
    "tfmot_pqat": Method("TFMOT PQAT, 8 bit", tfmot_pqat),
    "hgq2": Method("HGQ2, weights + activations", hgq2),
    "obc": Method(
        "OBC-style, after training, 4 bit", optimal_brain, trains=False
    ),
    "paper": Method("CoDeQ as published", codeq_paper, False),
    "ours": Method(_OURS, codeq()),
    "ours_distilled": Method(f"{_OURS}, distilled", codeq(distill=True)),
    "ours_8bit": Method(
        f"{_OURS}, distilled, 8-bit activations", codeq(**_in_8_bits)
    ),
    "post_training": Method(
        f"{_OURS}, without training", post_training, trains=False
    ),
    # The default configuration, without a teacher and with one; and what
    # other bits or another start would give it.
    "auto": Method(f"{_OURS}, default", _default_grid(bit_width="auto")),
    "auto_distilled": Method(
        f"{_OURS}, default, distilled",
        _default_grid(bit_width="auto", distill=True),
    ),
    "fitted_first": Method(
        f"{_OURS}, without training first, its zeros held", fitted_first()
    ),
    "fitted_first2": Method(
        f"{_OURS}, without training first, its zeros held, 2 bit",
        fitted_first(bit_width=2),
    ),
    "fixed4": Method(f"{_OURS}, 4 bit", _default_grid(bit_width=4)),
    "fixed3": Method(f"{_OURS}, 3 bit", _default_grid(bit_width=3)),
    "fixed2": Method(f"{_OURS}, 2 bit", _default_grid(bit_width=2)),
    "learned": Method(
        f"{_OURS}, learned bits", _default_grid(bit_width="learned")
    ),
    "search": Method(f"{_OURS}, searched bits", searched_bits),
    # For `parity`, `file_size` and `arm_instructions`.
    "ours_dead_zone": Method(
        f"{_OURS}, distilled, 8-bit activations, dead-zone grid",
        codeq(**_in_8_bits, level_grid="dead_zone"),
    ),
    "ours_zeros": Method(f"{_OURS}, 80 % zeros", codeq(zeros=0.8), False),
    "ours_ternary": Method(
        f"{_OURS}, 80 % zeros, 2 bit", codeq(zeros=0.8, bit_width=2), False
    ),
    "ours_1x1": Method(
        f"{_OURS}, 90 % zeros in 1x1s", codeq(zeros=0.9, pattern="point"), False
    ),
}
