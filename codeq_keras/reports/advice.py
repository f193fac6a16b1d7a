"""Which kernels would keep more with other bits, and where bytes pay most."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from codeq_keras.quantizers.dead_zone import DeadZoneQuantizer
from codeq_keras.quantizers.kernels import QuantizedKernel
from codeq_keras.reports.choices import Choice, Rate, Weights, coded_bits
from codeq_keras.reports.records import KernelReport

# Less is within what the search for levels leaves open.
_LEAST_GAIN_DB = 1.0

# The part of the weights whose kernels must agree on a bit width.
_MOST = 0.5

# A kernel is named as the one where bytes pay if it makes so much of the
# error, and so many times its part of the bytes.
_LEAST_ERROR = 0.1
_LEAST_RATIO = 2.0


def better_choice(
    kernel: QuantizedKernel,
    kept: Callable[[np.ndarray], np.ndarray],
    now: Choice,
    entropy: float,
) -> Choice | None:
    """Returns fewer bits that keep more at no more bytes; None if none do.

    Fewer bits must gain 1 dB over the levels that the kernel has now, and over
    the best levels of its bit width: weights that a training has moved, or a
    bound that fits badly, are not taken for a wrong bit width.

    None as well where no other bits may be chosen: for learned bits, frozen
    layers, patterns and blocks of zeros, the grid `"paper"`, quantizers of
    your own.

    Args:
        kernel: The kernel.
        kept: What removed channels leave of an array of its shape.
        now: Its bits, and the zeros and SNR of what is left.
        entropy: Entropy of the codes that are left, in bits per weight.
    """
    config = kernel.quantizer.config
    is_free = (
        isinstance(kernel.quantizer, DeadZoneQuantizer)
        and config.bit_width != "learned"
        and config.level_grid != "paper"
        and config.sparsity_pattern is None
        and config.sparsity_block == 1
        and kernel.variable.trainable
    )
    if not is_free or now.bit_width == 2:
        return None
    density = np.array(1.0 - now.sparsity)
    limit = Rate(entropy, float(coded_bits(density, now.bit_width)))
    latent, bounds = map(_array, (kernel.variable, kernel.quantizer.abs_bound))
    weights = Weights(
        kept(latent),
        kept(np.broadcast_to(bounds, latent.shape)),
        level_grid=config.level_grid,
    )
    found = [weights.best(bits, limit) for bits in range(2, now.bit_width)]
    fewer = [choice for choice in found if choice is not None]
    same = weights.best(now.bit_width, limit) or now
    least = max(now.snr_db, same.snr_db) + _LEAST_GAIN_DB
    most = max((choice.snr_db for choice in fewer), default=0.0)
    enough = max(least, most - _LEAST_GAIN_DB)
    # Of those that are as good, the most bits: the fewest train worst.
    return next((c for c in reversed(fewer) if c.snr_db >= enough), None)


def sentences(kernels: Sequence[KernelReport]) -> tuple[str, ...]:
    """Returns the advice in words, that for the whole model in front."""
    better = sorted(
        (k for k in kernels if k.better is not None),
        key=lambda k: -k.size_bytes,
    )
    found = [_for_the_model(kernels), _where_bytes_pay(kernels)]
    return tuple(text for text in found if text) + tuple(map(_line, better))


def _line(kernel: KernelReport) -> str:
    now = Choice(kernel.bit_width, kernel.sparsity, kernel.snr_db or 0.0)
    return f"{kernel.path}: {now}. {kernel.better} take no more bytes."


def _for_the_model(kernels: Sequence[KernelReport]) -> str | None:
    """A sentence on the bit width that most weights would be better with."""
    quantized = [k for k in kernels if k.is_quantized]
    total = sum(k.num_weights for k in quantized)
    for bits in sorted({k.better.bit_width for k in kernels if k.better}):
        agree = [
            k for k in quantized if k.better and k.better.bit_width == bits
        ]
        part = sum(k.num_weights for k in agree) / total
        if part >= _MOST:
            return (
                f"This budget is better met with {bits} bits: {len(agree)} of "
                f"{len(quantized)} kernels, {part:.0%} of the weights, keep "
                "more at the same bytes."
            )
    return None


def _where_bytes_pay(kernels: Sequence[KernelReport]) -> str | None:
    """A sentence on the kernel with the most error for its bytes."""
    known = [k for k in kernels if k.output_snr_db is not None]
    errors = np.array([10 ** (-(k.output_snr_db or 0) / 10) for k in known])
    sizes = np.array([k.size_bytes for k in known], "float64")
    if len(known) < 2:
        return None
    errors, sizes = errors / errors.sum(), sizes / sizes.sum()
    ratios = np.where(errors >= _LEAST_ERROR, errors / sizes, 0.0)
    most = int(ratios.argmax())
    if ratios[most] < _LEAST_RATIO:
        return None
    return (
        f"More bytes pay most in {known[most].path}: it makes "
        f"{errors[most]:.0%} of the error of the outputs, with "
        f"{sizes[most]:.1%} of the bytes."
    )


def _array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype("float32")
