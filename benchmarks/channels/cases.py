"""The networks, data and trainings in which channels are removed."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import keras
import networks
import numpy as np
from datasets import load
from harness import training
from harness.training import Training
from harness.workload import Splits, Workload

from codeq_keras.deployment import find_kernels

# Widths are multiples of it.
MULTIPLE = 8
# Factors on the widths of a narrow network that are tried.
_FACTORS = np.linspace(0.05, 1.0, 96)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network that comes in several widths, its data and its epochs.

    The float network is trained for `float_epochs`, then quantized and trained
    for `epochs`. With `given`, a number of examples, the float network comes
    from that many, and all that follows sees `num_train`.
    """

    build: Callable[..., keras.Model]
    widths: Sequence[int]
    dataset: str
    note: str
    num_train: int = 10_000
    float_epochs: int = 6
    epochs: int = 6
    given: int | None = None
    given_epochs: int = 6

    def workload(self, widths: Sequence[int] | None = None) -> Workload:
        """Returns the network in these widths, its own by default."""
        return Workload(
            partial(self.build, widths=widths or self.widths),
            partial(load, self.dataset),
            self.note,
            num_train=self.num_train,
        )

    def narrowed(self, sizes: Mapping[int, int]) -> tuple[int, ...]:
        """Returns the widths, each replaced by what stays of it."""
        return tuple(sizes[width] for width in self.widths)


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the methods start with a seed: the data and the float network."""

    case: Case
    split: Splits
    net: keras.Model
    seed: int

    @classmethod
    def load(
        cls, name: str, seed: int, folder: Path, limit: int | None
    ) -> "Start":
        """Loads the data; trains the float network unless it has a file."""
        case = CASES[name]
        split = Splits.load(case.workload(), limit)
        epochs, source = case.float_epochs, split
        if case.given is not None:
            whole = dataclasses.replace(case, num_train=case.given)
            source = Splits.load(whole.workload(), limit)
            epochs = case.given_epochs
        path = folder / "float" / f"{name}_{seed}.keras"
        cycles = ((1 if limit else epochs, 1.0),)
        net = training.float_network(
            case.workload(), source, path, cycles, seed
        )
        return cls(case, split, net, seed)

    def training(self, epochs: int) -> Training:
        """Returns a training on the data with the seed."""
        return Training(self.case.workload(), self.split, epochs, self.seed)


@functools.cache
def narrow_widths(case: Case, relative_macs: float) -> Mapping[int, int]:
    """Returns the narrow width of each width, for about a share of the MACs.

    All are scaled alike and rounded to multiples of 8. Then one may become a
    multiple larger or smaller, where that is nearer to the share.
    """
    old = sorted(set(case.widths))
    goal = relative_macs * num_macs(case.build(widths=case.widths))

    def miss(new: tuple[int, ...]) -> float:
        widths = case.narrowed(dict(zip(old, new, strict=True)))
        return abs(num_macs(case.build(widths=widths)) - goal)

    alike = {networks.scaled(old, f, MULTIPLE): None for f in _FACTORS}
    best = min(alike, key=miss)
    others = [
        (*best[:i], best[i] + step, *best[i + 1 :])
        for i, step in itertools.product(range(len(old)), (-MULTIPLE, MULTIPLE))
        if MULTIPLE <= best[i] + step <= old[i]
    ]
    return dict(zip(old, min([best, *others], key=miss), strict=True))


@functools.cache
def narrow_macs(case: Case, relative_macs: float) -> float:
    """Returns the MACs of the narrow network, relative to the wide one."""
    widths = case.narrowed(narrow_widths(case, relative_macs))
    wide = num_macs(case.build(widths=case.widths))
    return num_macs(case.build(widths=widths)) / wide


def num_macs(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one inference."""
    return sum(kernel.num_macs or 0 for kernel in find_kernels(model))


_FASHION_RESNET = Case(
    partial(networks.resnet8, input_shape=(28, 28, 1), stem_strides=2),
    networks.RESNET_WIDTHS,
    "fashion_mnist",
    "ResNet-8 with a stem of stride 2 (2.6 M MACs); Fashion-MNIST, 28x28x1",
)
_FASHION_MOBILENET = Case(
    networks.small_mobilenet,
    networks.SMALL_MOBILENET_WIDTHS,
    "fashion_mnist",
    "MobileNetV1 of 25 thousand weights (0.6 M MACs); Fashion-MNIST, 28x28x1",
)


def _few(case: Case) -> Case:
    """A tenth of the data, for a float network that saw all of them.

    Two thirds of the steps: a budget takes about 300, these are 600.
    """
    return dataclasses.replace(
        case,
        note=f"{case.note}; float network given, trained on with a tenth",
        num_train=case.num_train // 10,
        float_epochs=40,
        epochs=40,
        given=case.num_train,
        given_epochs=case.float_epochs,
    )


CASES = {
    "fashion_resnet8": _FASHION_RESNET,
    "fashion_mobilenet": _FASHION_MOBILENET,
    "shapes_resnet8": Case(
        partial(networks.resnet8, stem_strides=2),
        networks.RESNET_WIDTHS,
        "shapes",
        "ResNet-8 with a stem of stride 2 (3.2 M MACs); synthetic images of "
        "shapes, 32x32x3",
    ),
    "fashion_resnet8_few": _few(_FASHION_RESNET),
    "fashion_mobilenet_few": _few(_FASHION_MOBILENET),
}
