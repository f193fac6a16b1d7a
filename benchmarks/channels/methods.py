"""The methods that are compared, each to a share of the MACs.

All quantize alike: 4 bits on the uniform grid, 8-bit activations.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

import codeq_keras
from channels.cases import MULTIPLE, Start, narrow_macs, narrow_widths
from channels.uniform import remove_uniformly

CONFIG = codeq_keras.CoDeQConfig(bit_width=4, level_grid="uniform")
ACTIVATION_BITS = 8
# Of the epochs, before the channels are removed and the rest is trained.
EARLY = 0.4

Compress = Callable[[Start, int, float], keras.Model]


def quantize(
    net: keras.Model,
    config: codeq_keras.CoDeQConfig = CONFIG,
    **options: Any,
) -> codeq_keras.QuantizedModel:
    """Returns a network as all methods quantize it."""
    return codeq_keras.quantize_model(
        net, config, activation_bit_width=ACTIVATION_BITS, **options
    )


def wide_qat(*, distill: bool = False) -> Compress:
    """Trains on with all channels."""

    def compress(start: Start, epochs: int, share: float) -> keras.Model:
        model = quantize(start.net)
        start.training(epochs).fit(model, _teacher(start, distill))
        return model

    return compress


def narrow_scratch(start: Start, epochs: int, share: float) -> keras.Model:
    """Trains a narrower network in float and then quantized, from scratch.

    As many epochs of each as the wide network gets.
    """
    net = _narrow(start, share)
    start.training(_float_epochs(start, epochs)).fit(net)
    model = quantize(net)
    start.training(epochs).fit(model)
    return model


def narrow_float(start: Start, epochs: int, share: float) -> keras.Model:
    """Trains a narrower network in float alone, all epochs in one cosine."""
    net = _narrow(start, share)
    start.training(_float_epochs(start, epochs) + epochs).fit(net)
    return net


def uniform_removal(*, distill: bool = False) -> Compress:
    """Removes the same share of every class at once and trains on."""

    def compress(start: Start, epochs: int, share: float) -> keras.Model:
        sizes = narrow_widths(start.case, share)
        net = remove_uniformly(start.net, start.split.train[0], sizes)
        model = quantize(net)
        start.training(epochs).fit(model, _teacher(start, distill))
        return model

    return compress


def channels(*, early: bool = False, distill: bool = False) -> Compress:
    """Learns the channels in the same fit as the codes; removes them.

    The budget is what the narrow network has: it may be a little more than the
    share. If early, they are removed after 40 % of the epochs, and what is
    left is trained on.
    """

    def compress(start: Start, epochs: int, share: float) -> keras.Model:
        limit = narrow_macs(start.case, share)
        # The search for widths has built networks.
        keras.utils.set_random_seed(start.seed)
        model = quantize(start.net, channel_multiple=MULTIPLE)
        budget = codeq_keras.CompressionBudget(relative_macs=limit)
        first = max(1, round(EARLY * epochs)) if early else epochs
        callbacks = [budget, *_teacher(start, distill)]
        start.training(first).fit(model, callbacks)
        model = codeq_keras.remove_channels(model)
        if first < epochs:
            rest = start.training(epochs - first)
            rest.fit(model, _teacher(start, distill))
        return model

    return compress


def half_zeros(start: Start, epochs: int, share: float) -> keras.Model:
    """Trains to 50 % zeros anywhere, with all channels."""
    model = quantize(start.net)
    budget = codeq_keras.CompressionBudget(sparsity=0.5)
    start.training(epochs).fit(model, [budget])
    return model


def two_of_four(start: Start, epochs: int, share: float) -> keras.Model:
    """Trains with two of four input channels, and all channels."""
    config = dataclasses.replace(CONFIG, sparsity_pattern="2:4")
    model = quantize(start.net, config)
    start.training(epochs).fit(model)
    return model


@dataclasses.dataclass(frozen=True)
class Method:
    """A method. One without a share keeps all channels."""

    label: str
    compress: Compress
    has_share: bool = True


METHODS: Mapping[str, Method] = {
    "wide_qat": Method("Wide, 4 bits", wide_qat(), False),
    "wide_qat_distilled": Method(
        "Wide, 4 bits, distilled", wide_qat(distill=True), False
    ),
    "half_zeros": Method("Wide, 50 % zeros anywhere", half_zeros, False),
    "two_of_four": Method("Wide, 2:4 zeros", two_of_four, False),
    "narrow_scratch": Method("Narrow from scratch", narrow_scratch),
    "narrow_float": Method("Narrow from scratch, float", narrow_float),
    "uniform_removal": Method("Uniform removal, one shot", uniform_removal()),
    "uniform_distilled": Method(
        "Uniform removal, distilled", uniform_removal(distill=True)
    ),
    "channels": Method("Learned channels", channels()),
    "channels_early": Method("Learned channels, early", channels(early=True)),
    "channels_distilled": Method(
        "Learned channels, distilled", channels(distill=True)
    ),
    "channels_early_distilled": Method(
        "Learned channels, early, distilled",
        channels(early=True, distill=True),
    ),
}


def _narrow(start: Start, share: float) -> keras.Model:
    widths = start.case.narrowed(narrow_widths(start.case, share))
    # The search for widths has built networks, once for all seeds.
    keras.utils.set_random_seed(start.seed)
    return start.case.workload(widths).build()


def _float_epochs(start: Start, epochs: int) -> int:
    """As many float epochs to one of fine-tuning as the case has."""
    case = start.case
    return max(1, round(epochs * case.float_epochs / case.epochs))


def _teacher(start: Start, distill: bool) -> Iterable[Any]:
    return [codeq_keras.Distillation(start.net)] if distill else []
