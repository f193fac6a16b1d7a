"""Search: bits and a density for each kernel, by evolution before a training.

What HAQ asks, answered without a training inside: a candidate is judged right
after rounding, as `compress_post_training` rounds, by its loss on training
examples. Kernels are rounded independently, so each choice of a kernel is
rounded once, and most of an evaluation is a forward pass.

References:

- [HAQ, CVPR 2019](https://arxiv.org/abs/1811.08886), the question. Differs
  from it in: evolution, not DDPG; densities as well as bits, of weights alone;
  candidates are fitted by least squares, not trained for an epoch; the limit
  is on relative BOPs, and is used up.
- [Regularized evolution, AAAI 2019](https://arxiv.org/abs/1802.01548), the
  search. Differs from it in: the first population are mutations of candidates
  that treat all kernels alike; each child has up to three mutations.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
from harness.training import Training

import codeq_keras
from codeq_keras.deployment import copy_model, find_kernels
from codeq_keras.post_training.compression import Compression
from codeq_keras.post_training.rounded import RoundedKernel
from codeq_keras.quantizers.kernels import kernels_of, states_of

BIT_WIDTHS = range(2, 9)
NUM_EVALUATIONS = 200
_POPULATION, _TOURNAMENT, _MAX_MUTATIONS = 20, 5, 3

# Densities are 1, 0.84, 0.71 and so on, down to 1/64.
_STEPS_PER_HALVING, _NUM_STEPS = 4, 24

_FLOAT_BITS = 32
_BATCH_SIZE = 250

# Training examples that the kernels are fitted to, the first ones, and that the
# candidates are judged on, the last.
_NUM_SAMPLES, _NUM_EXAMPLES = 1000, 2000

Loss = Callable[["Candidate"], float]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Bits and density of one kernel; a step is a quarter of a halving."""

    bit_width: int
    step: int

    @property
    def density(self) -> float:
        """The fraction of the weights that stay."""
        return 2.0 ** (-self.step / _STEPS_PER_HALVING)

    def with_bits(self, bit_width: int) -> "Choice":
        """Returns a choice of about the same cost."""
        shift = _STEPS_PER_HALVING * np.log2(bit_width / self.bit_width)
        return Choice(bit_width, self.step).moved(round(float(shift)))

    def moved(self, steps: int) -> "Choice":
        """Returns a sparser choice, or a denser one for negative steps."""
        step = min(max(self.step + steps, 0), _NUM_STEPS)
        return dataclasses.replace(self, step=step)


Candidate = tuple[Choice, ...]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A candidate, and the loss that it was found to have."""

    candidate: Candidate
    loss: float


@dataclasses.dataclass(frozen=True)
class Space:
    """The candidates that meet a limit, and come close to it.

    Attributes:
        macs: Multiply-accumulates of each kernel.
        relative_bops: The limit, with 32-bit activations.
        rng: Where all chance comes from.
    """

    macs: Sequence[int]
    relative_bops: float
    rng: np.random.Generator

    def cost(self, candidate: Candidate) -> float:
        """Returns the relative BOPs."""
        bits = [choice.density * choice.bit_width for choice in candidate]
        return float(np.dot(self.macs, bits) / (sum(self.macs) * _FLOAT_BITS))

    def uniform(self) -> Iterator[Candidate]:
        """Yields a candidate of each bit width that treats kernels alike."""
        for bit_width in BIT_WIDTHS:
            step = _STEPS_PER_HALVING * np.log2(
                bit_width / (_FLOAT_BITS * self.relative_bops)
            )
            choice = Choice(bit_width, 0).moved(round(float(step)))
            yield self.fitted((choice,) * len(self.macs))

    def mutated(self, candidate: Candidate) -> Candidate:
        """Returns a neighbour: other bits, or weights, for a few kernels."""
        found = list(candidate)
        for _ in range(self.rng.integers(1, _MAX_MUTATIONS + 1)):
            index = self.rng.integers(len(found))
            if self.rng.random() < 0.5:
                bits = int(self.rng.choice(BIT_WIDTHS))
                found[index] = found[index].with_bits(bits)
            else:
                steps = self.rng.integers(1, 2 * _STEPS_PER_HALVING)
                sign = self.rng.choice([-1, 1])
                found[index] = found[index].moved(int(sign * steps))
        return self.fitted(tuple(found))

    def fitted(self, candidate: Candidate) -> Candidate:
        """Prunes kernels at random until they meet the limit, and use it up."""
        while self.cost(candidate) > self.relative_bops:
            sparser = list(self._neighbours(candidate, 1))
            if not sparser:
                raise ValueError(
                    f"`relative_bops` is below {self.cost(candidate):.4g}, the "
                    "least with these bits. Received: "
                    f"relative_bops={self.relative_bops}. Allow more."
                )
            candidate = sparser[self.rng.integers(len(sparser))]
        while denser := [
            neighbour
            for neighbour in self._neighbours(candidate, -1)
            if self.cost(neighbour) <= self.relative_bops
        ]:
            candidate = denser[self.rng.integers(len(denser))]
        return candidate

    @staticmethod
    def _neighbours(candidate: Candidate, steps: int) -> Iterator[Candidate]:
        for index, choice in enumerate(candidate):
            if (moved := choice.moved(steps)) != choice:
                yield (*candidate[:index], moved, *candidate[index + 1 :])


def search(
    net: keras.Model, training: Training, relative_bops: float
) -> list[Trial]:
    """Returns what `evolve` tries for a network, judged on training data."""
    x, y = training.split.train
    judge = Judge(
        net,
        x[:_NUM_SAMPLES],
        (x[-_NUM_EXAMPLES:], y[-_NUM_EXAMPLES:]),
        training.workload.goal.loss,
    )
    macs = [kernel.num_macs or 0 for kernel in judge.kernels]
    rng = np.random.default_rng(training.seed)
    return evolve(Space(macs, relative_bops, rng), judge, NUM_EVALUATIONS)


def evolve(space: Space, loss: Loss, num_evaluations: int) -> list[Trial]:
    """Returns all candidates with their losses, in the order of the search.

    The best of a few of the population has a child, which replaces the oldest.
    """
    first = list(space.uniform())
    tried: list[Trial] = []
    for number in range(num_evaluations):
        if number < len(first):
            candidate = first[number]
        elif number < _POPULATION:
            candidate = space.mutated(first[number % len(first)])
        else:
            drawn = space.rng.choice(_POPULATION, _TOURNAMENT, replace=False)
            alive = tried[-_POPULATION:]
            candidate = space.mutated(best([alive[i] for i in drawn]).candidate)
        tried.append(Trial(candidate, loss(candidate)))
    return tried


def best(trials: Sequence[Trial]) -> Trial:
    """Returns the trial of the least loss."""
    return min(trials, key=lambda trial: trial.loss)


class Judge:
    """Tells the losses of candidates, each kernel rounded, nothing trained.

    Args:
        net: The float network. Not changed.
        samples: Inputs that the kernels and the BatchNorms are fitted to.
        examples: Inputs and targets that the loss is computed on.
        loss: The loss of the task.
    """

    def __init__(
        self,
        net: keras.Model,
        samples: np.ndarray,
        examples: tuple[np.ndarray, np.ndarray],
        loss: keras.losses.Loss,
    ) -> None:
        self.examples, self.loss = examples, loss
        self.samples = [
            samples[start : start + _BATCH_SIZE]
            for start in range(0, len(samples), _BATCH_SIZE)
        ]
        self.net = copy_model(net)
        self.kernels = find_kernels(self.net)
        self.roundings = _roundings(net, samples)
        self._found: dict[tuple[int, Choice], list[np.ndarray]] = {}

    def __call__(self, candidate: Candidate) -> float:
        """Returns the loss of a candidate."""
        for index, choice in enumerate(candidate):
            if (index, choice) not in self._found:
                self._found[index, choice] = self._rounded(index, choice)
            layer = self.kernels[index].layer
            value, *bias = self._found[index, choice]
            self.kernels[index].variable.assign(value)
            if bias:
                layer.bias.assign(bias[0])
        codeq_keras.reestimate_batch_norm(self.net, self.samples)
        x, y = self.examples
        outputs = self.net.predict(x, batch_size=_BATCH_SIZE, verbose=0)
        return float(self.loss(y, outputs))

    def _rounded(self, index: int, choice: Choice) -> list[np.ndarray]:
        """The values of a kernel, and of its bias if that changes."""
        rounding = self.roundings[choice.bit_width][index]
        scores = np.sort(rounding.scores, axis=None)
        num_kept = max(1, round(choice.density * scores.size))
        is_dense = num_kept == scores.size
        rounding.round(-1.0 if is_dense else scores[-num_kept - 1])
        changed = [rounding.kernel.values()]
        if rounding.bias is not None:
            changed.append(rounding.bias)
        # A copy: the next rounding assigns to the same variables.
        return [np.array(keras.ops.convert_to_numpy(v)) for v in changed]


def _roundings(
    net: keras.Model, samples: np.ndarray
) -> dict[int, list[RoundedKernel]]:
    """The kernels for each bit width; their problems are made once."""
    qmodels = [
        codeq_keras.quantize_model(
            net, codeq_keras.CoDeQConfig(bit_width, range_quantile=1.0)
        )
        for bit_width in BIT_WIDTHS
    ]
    made = Compression(qmodels[0], samples, macs_matter=False).kernels
    return {
        bit_width: [
            RoundedKernel(
                dataclasses.replace(one.problem, kernel=kernel),
                macs_matter=False,
            )
            for one, kernel in zip(made, qmodel.quantized_kernels, strict=True)
        ]
        for bit_width, qmodel in zip(BIT_WIDTHS, qmodels, strict=True)
    }


def quantized(net: keras.Model, candidate: Candidate) -> keras.Model:
    """Returns a quantized model with the bits of a candidate."""
    return codeq_keras.quantize_model(
        net,
        overrides={
            f"^{re.escape(kernel.path)}$": codeq_keras.CoDeQConfig(
                choice.bit_width
            )
            for kernel, choice in zip(find_kernels(net), candidate, strict=True)
        },
    )


def hold_densities(qmodel: keras.Model, densities: Sequence[float]) -> None:
    """Holds a fraction of weights for each kernel in the training."""
    by_kernel = dict(
        zip(map(id, qmodel.quantized_kernels), densities, strict=True)
    )
    for state in states_of(qmodel.kernels):
        group = kernels_of(state, qmodel.kernels)
        state.hold_zeros([1.0 - by_kernel[id(kernel)] for kernel in group])
