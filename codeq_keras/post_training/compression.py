"""Compression: rounds the kernels of one model, again for each budget."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from codeq_keras import costs
from codeq_keras.activations.calibration import observe_ranges, read_batches
from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.model import QuantizedModel
from codeq_keras.post_training.problems import make_problems, numpy_of
from codeq_keras.post_training.pruning import threshold_for
from codeq_keras.post_training.rounded import RoundedKernel
from codeq_keras.quantizers.deployed import deployed_values
from codeq_keras.quantizers.kernels import hold_zeros, release_zeros
from codeq_keras.training.batch_norm import (
    reestimate_deployed,
    reestimate_plain,
    trainable_batch_norms,
)
from codeq_keras.training.batches import num_samples

# Fewer tell nothing of what a layer meets.
MIN_SAMPLES = 32

# Rounding prunes some of what the threshold has left: the budget is met by a
# few corrections, to this part of it.
_NUM_CORRECTIONS = 5
_CLOSE = 0.98


class Compression:
    """A quantized model, and all that its kernels are rounded from.

    Args:
        qmodel: Model whose weights are those of the float model. Changed.
        samples: Inputs, as for `calibrate_activations`.
        macs_matter: Whether the budget counts multiply-accumulates.
        verbose: 1 shows a progress bar, 0 nothing.
    """

    def __init__(
        self,
        qmodel: QuantizedModel,
        samples: Any,
        *,
        macs_matter: bool,
        verbose: int = 0,
    ) -> None:
        self.qmodel, self.verbose = qmodel, verbose
        self.graph = qmodel.activation_graph or ActivationGraph(
            qmodel.latent_model, rounds=False
        )
        self.batches = list(read_batches(self.graph, samples))
        self._require_samples()
        problems = make_problems(
            self.graph, qmodel.quantized_kernels, self.batches
        )
        # Their inputs are not known.
        self.others = [p.kernel.path for p in problems if p.hessian is None]
        self.kernels = [
            RoundedKernel(problem, macs_matter=macs_matter)
            for problem in problems
        ]
        self._dense = costs.deployed_costs(qmodel.kernels)
        self._statistics = _statistics(qmodel.latent_model)
        self._trained = [numpy_of(v) for v in self._statistics]
        self._before = self._reestimated(
            functools.partial(reestimate_plain, qmodel.latent_model)
        )

    def _require_samples(self) -> None:
        count = sum(map(num_samples, self.batches))
        if count < MIN_SAMPLES:
            raise ValueError(
                f"`samples` must hold at least {MIN_SAMPLES} samples, better "
                f"500: layers are fitted to them. Received: {count}."
            )
        first = keras.tree.flatten(self.batches[0])
        if all(
            np.all(numpy_of(array) == numpy_of(one)[:1])
            for batch in self.batches
            for array, one in zip(keras.tree.flatten(batch), first, strict=True)
        ):
            raise ValueError(
                "`samples` must differ from each other. Received: "
                f"{count} times the same. Give inputs as the device meets them."
            )

    def meet(self, name: str, limit: float) -> None:
        """Rounds all kernels to a limit on `costs.MEASURES[name]`."""
        measure, aim = costs.MEASURES[name], limit
        self._require_reachable(name, limit)
        scores = [kernel.scores for kernel in self.kernels]
        met: dict[float, float] = {}  # What they leave, by thresholds.
        for _ in range(_NUM_CORRECTIONS):
            is_met = functools.partial(self._is_met, measure, aim)
            threshold = threshold_for(scores, is_met)
            self.round(threshold)
            found = float(measure(costs.deployed_costs(self.qmodel.kernels)))
            if found <= limit:
                met[threshold] = found
                if threshold == 0 or found >= _CLOSE * limit:
                    return
            aim *= limit / found
        if met:
            self.round(max(met, key=met.__getitem__))
            return
        warnings.warn(
            f"compress_post_training: {name} was missed by a factor of "
            f"{found / limit:.3f}: rounding prunes in larger steps. Ask for a "
            "little less, or take more bits.",
            stacklevel=3,
        )

    def _require_reachable(self, name: str, limit: float) -> None:
        least = self._estimated(costs.MEASURES[name], np.inf)
        if least < limit:
            return
        value = 1.0 - least if name == "sparsity" else least
        asked = 1.0 - limit if name == "sparsity" else limit
        raise ValueError(
            f"`{name}` reaches {value:.4g} here, where all quantized weights "
            f"are zero. Received: {name}={asked:.4g}. Allow more, or leave "
            "fewer kernels in float."
        )

    def _is_met(self, measure: Any, limit: float, threshold: float) -> bool:
        return self._estimated(measure, threshold) <= limit

    def _estimated(self, measure: Any, threshold: float) -> float:
        """The cost that a threshold leaves, before anything is rounded."""
        densities = {
            id(k.kernel.variable): k.density(threshold) for k in self.kernels
        }
        left = [
            dataclasses.replace(
                cost, density=densities.get(id(kernel.variable), cost.density)
            )
            for kernel, cost in zip(
                self.qmodel.kernels, self._dense, strict=True
            )
        ]
        return float(measure(left))

    def round(self, threshold: float) -> None:
        """Rounds all kernels; weights of lower scores are zero."""
        release_zeros(self.qmodel.kernels)
        bar = keras.utils.Progbar(
            len(self.kernels), verbose=self.verbose, unit_name="kernel"
        )
        for number, kernel in enumerate(self.kernels):
            kernel.round(threshold)
            bar.update(number + 1)
        self._adapt()

    def _adapt(self) -> None:
        """Gives BatchNorms and ranges what the rounded kernels need.

        Statistics change as they change on the samples: those of few samples
        alone would be worse than those of the training.
        """
        self._observe()
        if self._statistics:
            self._move_statistics()
            self._observe()
        # A training without a budget goes on from these zeros.
        hold_zeros(self.qmodel.kernels)

    def _move_statistics(self) -> None:
        found = self._reestimated(
            functools.partial(reestimate_deployed, self.qmodel)
        )
        for variable, trained, before, after in zip(
            self._statistics, self._trained, self._before, found, strict=True
        ):
            if variable.name == "moving_mean":
                variable.assign(trained + after - before)
            else:
                one = np.ones_like(before)
                ratio = np.divide(after, before, out=one, where=before > 0)
                variable.assign(trained * ratio)

    def _observe(self) -> None:
        if self.qmodel.activation_graph is not None:
            values = deployed_values(self.qmodel.kernels, self.graph)
            observe_ranges(self.graph, values, self.batches)

    def _reestimated(
        self, reestimate: Callable[[Iterable[Any]], None]
    ) -> list[np.ndarray]:
        """The statistics on the samples; the variables are as trained."""
        if self._statistics:
            reestimate(self.batches)
        found = [numpy_of(variable) for variable in self._statistics]
        for variable, value in zip(
            self._statistics, self._trained, strict=True
        ):
            variable.assign(value)
        return found


def _statistics(model: keras.Model) -> list[keras.Variable]:
    return [
        variable
        for layer in trainable_batch_norms(model)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
