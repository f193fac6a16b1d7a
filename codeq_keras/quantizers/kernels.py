"""QuantizedKernel: a kernel that knows its quantizer, and how it gets one."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
from keras import ops

from codeq_keras.architecture.kernels import Kernel
from codeq_keras.config import CoDeQConfig
from codeq_keras.quantizers.dead_zone import (
    DeadZoneQuantizer,
    QuantizedWeight,
    zero_counter,
)
from codeq_keras.quantizers.pattern import with_pattern
from codeq_keras.quantizers.state import QuantizerState


@runtime_checkable
class KernelQuantizer(Protocol):
    """The methods of a quantizer for `quantize_model(quantizer=)`.

    The argument is a class, or a function, called for each kernel as
    `kind(config, axis=axes_of_the_bound_or_None, name=name)`, and with
    `pattern_axis=` where `config.sparsity_pattern` is to be kept. The result
    is a `keras.layers.Layer`; where `call` takes `training`, Keras tells it of
    a training step. Its config has numbers in the place of `"auto"`. It has

    - `build(kernel_shape)`: creates its variables;
    - `call(weights)`: the deployed values, differentiable;
    - `zero_fraction(weights)`: the fraction of zeros, a scalar, for budgets
      with a gradient to what shall open the dead zone;
    - `quantized_weight(weights)`: the `QuantizedWeight` of the same values;
    - `bit_width`: bits of a code, a number or a differentiable scalar;
    - `num_scales`: number of scales that are deployed;
    - `config`: the `CoDeQConfig` that it was made with.
    """

    config: CoDeQConfig

    @property
    def bit_width(self) -> Any: ...  # noqa: D102

    @property
    def num_scales(self) -> int: ...  # noqa: D102

    def build(self, kernel_shape: tuple[int, ...]) -> None: ...  # noqa: D102

    def __call__(self, weights: Any) -> Any: ...  # noqa: D102

    def zero_fraction(self, weights: Any) -> Any: ...  # noqa: D102

    def quantized_weight(self, weights: Any) -> QuantizedWeight: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class QuantizedKernel(Kernel):
    """A kernel with a quantizer in front.

    Attributes:
        quantizer: A `DeadZoneQuantizer`, or another `KernelQuantizer`.
        pattern_obstacle: Why the kernel cannot have the `sparsity_pattern`
            that was asked for; None if it can, or none was.
    """

    quantizer: Any
    pattern_obstacle: str | None = None

    def weights(self, *, training: bool = False) -> Any:
        """Returns the latent weights, 0 in the channels that are removed."""
        if self.gate is None:
            return self.variable
        return self.gate.masked(self.variable, training=training)

    def values(self, *, training: bool = False) -> Any:
        """Returns the deployed values, differentiable."""
        return self.quantizer(self.weights(training=training))

    def zero_fraction(self) -> Any:
        """Returns the fraction of zeros, learnable by the quantizer."""
        return self.quantizer.zero_fraction(self.weights())

    def deployed(self) -> QuantizedWeight:
        """Returns the integers and scales."""
        return self.quantizer.quantized_weight(self.weights())


def quantizer_name(kind: Callable[..., Any]) -> str:
    """Returns the name by which `find_quantizer` finds a class."""
    if not hasattr(kind, "__name__"):
        raise ValueError(
            "`quantizer` must be a class or a function with a name, to be "
            f"saved. Received: {kind!r}."
        )
    return keras.saving.get_registered_name(kind)


def find_quantizer(
    name: str | None, custom_objects: dict[str, Any] | None
) -> Callable[..., Any]:
    """Returns the class of a saved name; files of November 2026 have none."""
    if name is None:
        return DeadZoneQuantizer
    kind = keras.saving.get_registered_object(name, custom_objects)
    if kind is None:
        raise ValueError(
            "Expected a quantizer that is registered. Received: a model with "
            f"{name!r}. Decorate the class with "
            "`keras.saving.register_keras_serializable`, or give it in "
            "`load_model(..., custom_objects=)`."
        )
    return kind


def with_quantizers(
    kernels: Iterable[Kernel],
    config_of: Callable[[Kernel], CoDeQConfig | None],
    kind: Callable[..., Any],
) -> tuple[Kernel, ...]:
    """Returns the kernels, those with a config as `QuantizedKernel`."""
    _require_maker(kind)
    found = []
    for kernel in kernels:
        config = config_of(kernel)
        if config is not None:
            config, pattern, obstacle = with_pattern(
                config, kernel.layer, kernel.variable
            )
            quantizer = kind(
                _as_made(config, kind),
                axis=None if config.axis is None else kernel.output_axes,
                name=kernel.path.replace("/", "_"),
                **pattern,
            )
            kernel = QuantizedKernel(
                **vars(kernel), quantizer=quantizer, pattern_obstacle=obstacle
            )
        found.append(kernel)
    return tuple(found)


def _as_made(config: CoDeQConfig, kind: Any) -> CoDeQConfig:
    """The config for a quantizer; other kinds than ours know no budget."""
    if isinstance(kind, type) and issubclass(kind, DeadZoneQuantizer):
        return config
    return config.without_budget()


def quantized(kernels: Iterable[Kernel]) -> tuple[QuantizedKernel, ...]:
    """Returns the kernels that have a quantizer."""
    return tuple(k for k in kernels if isinstance(k, QuantizedKernel))


def build_quantizers(kernels: Iterable[QuantizedKernel]) -> None:
    """Builds quantizers; `DeadZoneQuantizer`s of one config share a state."""
    groups: dict[CoDeQConfig, list[QuantizedKernel]] = {}
    for kernel in kernels:
        if isinstance(kernel.quantizer, DeadZoneQuantizer):
            groups.setdefault(kernel.quantizer.config, []).append(kernel)
        else:
            if hasattr(kernel.quantizer, "build"):
                kernel.quantizer.build(tuple(kernel.variable.shape))
            _require_quantizer(kernel.quantizer)
    for number, (config, group) in enumerate(groups.items()):
        shapes = [k.quantizer.bound_shape(k.variable.shape) for k in group]
        state = QuantizerState(config, shapes, name=f"quantizers_{number}")
        for index, kernel in enumerate(group):
            kernel.quantizer.join(state, index)
            kernel.quantizer.build(tuple(kernel.variable.shape))
            kernel.quantizer.update_abs_bound(kernel.variable)


def states_of(kernels: Iterable[Kernel]) -> list[QuantizerState]:
    """Returns the states of `DeadZoneQuantizer`s, each once, in order."""
    found: list[QuantizerState] = []
    for kernel in quantized(kernels):
        state = getattr(kernel.quantizer, "state", None)
        if isinstance(state, QuantizerState) and state not in found:
            found.append(state)
    return found


def gates_of(kernels: Iterable[Kernel]) -> list[Any]:
    """Returns the `ChannelGates` of kernels: one, or none."""
    gates = (k.gate.gates for k in kernels if k.gate is not None)
    return list({id(each): each for each in gates}.values())


def kernels_of(
    state: QuantizerState, kernels: Iterable[Kernel]
) -> list[QuantizedKernel]:
    """Returns the kernels whose quantizers share a state."""
    return [
        kernel
        for kernel in quantized(kernels)
        if getattr(kernel.quantizer, "state", None) is state
    ]


def pairs_of(
    state: QuantizerState, kernels: Iterable[Kernel]
) -> list[tuple[DeadZoneQuantizer, keras.Variable]]:
    """Returns the quantizers that share a state, each with its weights."""
    return [(k.quantizer, k.variable) for k in kernels_of(state, kernels)]


def follow_held_zeros(kernels: Sequence[Kernel]) -> None:
    """Moves the logits to the zeros that are held, for the weights now."""
    for state in states_of(kernels):
        state.follow_held_zeros(functools.partial(_counter, state, kernels))


def _counter(
    state: QuantizerState, kernels: Iterable[Kernel]
) -> Callable[[], list[Any]]:
    """Counts the zeros of the kernels whose quantizers share a state.

    While a budget moves them, of what removed channels leave: those come and
    go, and the others must not come back for them.
    """
    group = kernels_of(state, kernels)
    count = zero_counter([(k.quantizer, k.weights()) for k in group])
    if not state.moves_zeros:
        return count
    kept = [1.0 if k.gate is None else k.gate.kept() for k in group]
    return lambda: [
        1.0 - (1.0 - zeros) / part
        for zeros, part in zip(count(), kept, strict=True)
    ]


def move_zeros(kernels: Sequence[Kernel]) -> None:
    """Lets a budget move the zeros of the kernels, from those they have."""
    for state in states_of(kernels):
        state.moves_zeros = True
        state.hold_zeros(_counted(state, kernels))


def hold_zeros(kernels: Sequence[Kernel]) -> None:
    """Holds the zeros that the kernels have now in later trainings."""
    follow_held_zeros(kernels)
    for state in states_of(kernels):
        state.zeros_in_files, state.moves_zeros = None, False
        state.hold_zeros(_counted(state, kernels))


def _counted(state: QuantizerState, kernels: Iterable[Kernel]) -> list[float]:
    """Counts the zeros now."""
    return [float(fraction) for fraction in _counter(state, kernels)()]


def hold_zeros_where(
    state: QuantizerState, kernels: Sequence[Kernel], is_held: Any
) -> None:
    """Holds the zeros that the kernels have now, where `is_held` is true."""
    free = ops.convert_to_numpy(state.held_zeros)
    state.hold_zeros(np.where(is_held, _counted(state, kernels), free))


def save_zeros(kernels: Sequence[Kernel], zeros: Sequence[float]) -> None:
    """Lets files that are saved from now on hold these zeros when loaded.

    `zeros` has one fraction for each kernel, those left in float included.
    """
    by_kernel = {id(k): z for k, z in zip(kernels, zeros, strict=True)}
    for state in states_of(kernels):
        state.zeros_in_files = [
            by_kernel[id(k)] for k in kernels_of(state, kernels)
        ]


def release_zeros(kernels: Iterable[Kernel]) -> None:
    """Lets the logits of the kernels move again."""
    for state in states_of(kernels):
        state.release_zeros()


def held_sparsity(kernels: Sequence[Kernel]) -> float | None:
    """Returns the fraction of zeros that is held; None where none is."""
    zeros = total = 0.0
    for state in [s for s in states_of(kernels) if not s.moves_zeros]:
        held = ops.convert_to_numpy(state.held_zeros)
        group = kernels_of(state, kernels)
        for fraction, kernel in zip(held, group, strict=True):
            if fraction >= 0:
                zeros += float(fraction) * kernel.num_weights
                total += kernel.num_weights
    return zeros / total if total else None


def _require_maker(kind: Any) -> None:
    is_made = isinstance(kind, keras.Layer) or (
        hasattr(kind, "quantized_weight") and not isinstance(kind, type)
    )
    if is_made or not callable(kind):
        raise ValueError(
            "`quantizer` must be a class of quantizers, or a function that "
            "makes one: each kernel gets its own. Received: quantizer="
            f"{kind!r}. Give the class, as `codeq_keras.DeadZoneQuantizer`, "
            "or `functools.partial(YourQuantizer, ...)`."
        )


def _require_quantizer(quantizer: Any) -> None:
    needed = "build call bit_width config num_scales quantized_weight"
    missing = [
        name
        for name in f"{needed} zero_fraction".split()
        if not hasattr(quantizer, name)
    ]
    if missing:
        raise ValueError(
            "`quantizer` must make layers as `codeq_keras.KernelQuantizer` "
            f"describes. Received: a {type(quantizer).__name__} without "
            f"{', '.join(missing)}."
        )
