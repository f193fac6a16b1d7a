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
from typing import Any

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
        bit_widths: The choices of bits.
        relative_bops: The limit, with 32-bit activations.
        rng: Where all chance comes from.
    """

    macs: Sequence[int]
    bit_widths: Sequence[int]
    relative_bops: float
    rng: np.random.Generator

    def cost(self, candidate: Candidate) -> float:
        """Returns the relative BOPs."""
        bits = [choice.density * choice.bit_width for choice in candidate]
        return float(np.dot(self.macs, bits) / (sum(self.macs) * _FLOAT_BITS))

    def uniform(self) -> Iterator[Candidate]:
        """Yields a candidate of each bit width that treats kernels alike."""
        for bit_width in self.bit_widths:
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
                bits = int(self.rng.choice(self.bit_widths))
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


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """What a rounding gives a kernel, and its bias if that changes."""

    value: np.ndarray
    latent: np.ndarray
    bias: np.ndarray | None


class Judge:
    """Tells the losses of candidates, each kernel rounded, nothing trained.

    Reads the training split alone.

    Args:
        net: The float network. Not changed.
        training: Its data, and the loss of the task.
    """

    def __init__(self, net: keras.Model, training: Training) -> None:
        x, y = training.split.train
        samples = x[:_NUM_SAMPLES]
        self.examples = x[-_NUM_EXAMPLES:], y[-_NUM_EXAMPLES:]
        self.loss = training.workload.goal.loss
        self.samples = [
            samples[start : start + _BATCH_SIZE]
            for start in range(0, len(samples), _BATCH_SIZE)
        ]
        self.net = copy_model(net)
        self.kernels = find_kernels(self.net)
        self.bit_widths = BIT_WIDTHS
        self.roundings = _roundings(net, samples, self.bit_widths)
        self._found: dict[tuple[int, Choice], _Rounded] = {}

    def __call__(self, candidate: Candidate) -> float:
        """Returns the loss of a candidate, whose values `net` has then."""
        for kernel, rounded in zip(
            self.kernels, self._rounded(candidate), strict=True
        ):
            kernel.variable.assign(rounded.value)
            if rounded.bias is not None:
                kernel.layer.bias.assign(rounded.bias)
        codeq_keras.reestimate_batch_norm(self.net, self.samples)
        x, y = self.examples
        outputs = self.net.predict(x, batch_size=_BATCH_SIZE, verbose=0)
        return float(self.loss(y, outputs))

    def quantized(self, candidate: Candidate) -> keras.Model:
        """Returns a quantized model that holds bits and zeros in a `fit`.

        It starts where the candidate was judged.
        """
        self(candidate)
        paths = [f"^{re.escape(kernel.path)}$" for kernel in self.kernels]
        configs = [codeq_keras.CoDeQConfig(c.bit_width) for c in candidate]
        qmodel = codeq_keras.quantize_model(
            self.net, overrides=dict(zip(paths, configs, strict=True))
        )
        zeros = {}
        for kernel, choice, rounded in zip(
            qmodel.quantized_kernels,
            candidate,
            self._rounded(candidate),
            strict=True,
        ):
            kernel.variable.assign(rounded.latent)
            zeros[id(kernel)] = 1.0 - choice.density
        for state in states_of(qmodel.kernels):
            group = kernels_of(state, qmodel.kernels)
            state.hold_zeros([zeros[id(kernel)] for kernel in group])
        return qmodel

    def _rounded(self, candidate: Candidate) -> list[_Rounded]:
        for key in set(enumerate(candidate)) - self._found.keys():
            index, choice = key
            rounding = self.roundings[choice.bit_width][index]
            self._found[key] = _round(rounding, choice.density)
        return [self._found[key] for key in enumerate(candidate)]


def _round(rounding: RoundedKernel, density: float) -> _Rounded:
    scores = np.sort(rounding.scores, axis=None)
    num_kept = max(1, round(density * scores.size))
    # A weight stays if its score is above the threshold.
    rounding.round(np.append(-1.0, scores)[-num_kept - 1])
    kernel, bias = rounding.kernel, rounding.bias
    return _Rounded(
        _copied(kernel.values()),
        _copied(kernel.variable),
        None if bias is None else _copied(bias),
    )


def _copied(value: Any) -> np.ndarray:
    """A copy: the next rounding assigns to the same variable."""
    return np.array(keras.ops.convert_to_numpy(value))


def _roundings(
    net: keras.Model, samples: np.ndarray, bit_widths: Sequence[int]
) -> dict[int, list[RoundedKernel]]:
    """The kernels for each bit width; their problems are made once."""
    qmodels = [
        codeq_keras.quantize_model(
            net, codeq_keras.CoDeQConfig(bit_width, range_quantile=1.0)
        )
        for bit_width in bit_widths
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
        for bit_width, qmodel in zip(bit_widths, qmodels, strict=True)
    }


def search(judge: Judge, relative_bops: float, *, seed: int) -> list[Trial]:
    """Returns what is tried under a limit, in the order of the search."""
    macs = [kernel.num_macs or 0 for kernel in judge.kernels]
    rng = np.random.default_rng(seed)
    space = Space(macs, judge.bit_widths, relative_bops, rng)
    return evolve(space, judge, NUM_EVALUATIONS)
