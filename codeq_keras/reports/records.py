"""KernelReport and ActivationReport, the parts of a CompressionReport."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from codeq_keras.reports.choices import Choice


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """One kernel of a `CompressionReport`.

    Attributes:
        path: Path of the kernel.
        is_quantized: False if it was left in float.
        float_reason: Why it was; None if it was not.
        is_frozen: Whether its layer is not trainable: its codes stay.
        num_weights: Number of weights.
        num_macs: Dense multiply-accumulates per sample, None if unknown.
        sparsity: Fraction of zeros, in [0, 1].
        bit_width: Bits per weight.
        entropy_bits: Shannon entropy of the codes, in bits per weight: no
            lossless coder that treats weights alike needs less. Weights of
            removed channels take none.
        size_bytes: Estimated bytes of the coded weights and their scales, see
            `codeq_keras.costs.size_bytes`. At least `entropy_bits` a weight.
        levels: The distinct weight values, sorted (of the first channel where
            every channel has its own). Empty for a float kernel.
        histogram: Tuple `(counts, edges)` of the latent weights.
        sparsity_pattern: The pattern of its zeros, `"2:4"` or None.
        pattern_obstacle: Why it has none though its config asks for one.
        snr_db: How near its levels are to its latent weights, those of removed
            channels left out: `10 log10(sum(w ** 2) / sum((w - q) ** 2))`, in
            decibels. 6 dB are a bit. None in float, and where nothing differs.
        output_snr_db: The same ratio for the outputs of the model, with this
            kernel alone quantized, on the `samples` of `report`; None without.
        better: `Choice` of fewer bits, with the zeros and the SNR that they
            have at no more bytes, where that is 1 dB more; None if none are.
        zero_interval: The least and the largest latent weight that became
            zero; None in float, and where none did.
    """

    path: str
    is_quantized: bool
    float_reason: str | None
    num_weights: int
    num_macs: int | None
    sparsity: float
    bit_width: int
    entropy_bits: float
    size_bytes: int
    levels: np.ndarray = dataclasses.field(repr=False)
    histogram: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)
    is_frozen: bool = False
    sparsity_pattern: str | None = None
    pattern_obstacle: str | None = None
    snr_db: float | None = None
    output_snr_db: float | None = None
    better: Choice | None = None
    zero_interval: tuple[float, float] | None = None

    def cells(self) -> tuple[str, ...]:
        """Returns its row of a table, from the path to the SNR."""
        return (
            self.path,
            f"{self.num_weights:,}",
            "?" if self.num_macs is None else f"{self.num_macs:,}",
            f"{self.sparsity:.1%}",
            str(self.bit_width),
            f"{self.entropy_bits:.2f}",
            f"{self.size_bytes:,}",
            "" if self.snr_db is None else f"{self.snr_db:.1f}",
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the numbers do not say, in a few words each."""
        found = {
            f"left in float: {self.float_reason}": not self.is_quantized,
            "frozen": self.is_frozen,
            f"no 2:4: {self.pattern_obstacle}": self.pattern_obstacle,
            f"{self.sparsity_pattern}": self.sparsity_pattern,
        }
        return tuple(text for text, is_so in found.items() if is_so)


@dataclasses.dataclass(frozen=True)
class SkippedLayer:
    """A layer with weights of which none is quantized.

    Attributes:
        path: Path of the layer.
        reason: Why, in a few words.
    """

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ChannelReport:
    """One class of channels, which can only be removed together.

    Attributes:
        members: Paths of the kernels that compute them, or a model input.
        num_channels: Number of channels.
        num_kept: Number of those that are left.
        frozen_reason: Why all that are left must stay; None if some may be
            removed.
    """

    members: tuple[str, ...]
    num_channels: int
    num_kept: int
    frozen_reason: str | None

    def __str__(self) -> str:
        """Returns a line such as "64 -> 48 channels in conv/kernel"."""
        name = self.members[0] if self.members else "a layer"
        if len(self.members) > 1:
            name += f" and {len(self.members) - 1} more"
        text = f"{self.num_channels} channels in {name}"
        if self.num_kept < self.num_channels:
            text = f"{self.num_channels} -> {self.num_kept} channels in {name}"
        if self.frozen_reason is not None:
            text += f": all stay, {self.frozen_reason}"
        return text


@dataclasses.dataclass(frozen=True)
class ActivationReport:
    """How the activations of a model are quantized.

    Attributes:
        bit_width: Bits of an activation.
        bops_factor: The part of the bit operations that they leave, in (0, 1]:
            0.25 where 8 bits take the place of 32 before every kernel. None
            where the multiply-accumulates of a kernel are not known.
        num_quantized: Number of activations with a range, trained or fixed.
        unseen: Paths of activations that have seen no batch yet. They are not
            quantized.
        inner: Paths of layers that compute with activations which cannot be
            seen from outside. Those are in float in training; in a file they
            get their ranges from a representative dataset.
    """

    bit_width: int
    bops_factor: float | None
    num_quantized: int
    unseen: tuple[str, ...]
    inner: tuple[str, ...]

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        lines = [
            f"activations    {self.bit_width} bits, {self.num_quantized} ranges"
        ]
        if self.bops_factor is not None:
            lines[0] += f"; they leave {self.bops_factor:.2%} of the BOPs"
        if self.unseen:
            lines.append(
                "not quantized: no batch was seen in training by "
                f"{', '.join(self.unseen)}"
            )
        if self.inner:
            lines.append(
                "in float inside (give `export` a representative dataset): "
                f"{', '.join(self.inner)}"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class FileReport:
    """The file that a model would be exported to now.

    Attributes:
        target: The device, as in `export`.
        bytes_by_layer: Its bytes by Keras layer and kind, the largest layer
            first; `""` has what belongs to no layer. A layer that the
            exporter cannot tell apart has the name of its operator.

    Example:

    >>> FileReport("tflm", {"dense": {"weights": 64, "biases": 16}}).size_bytes
    80
    """

    target: str
    bytes_by_layer: Mapping[str, Mapping[str, int]]

    @property
    def bytes_by_kind(self) -> dict[str, int]:
        """Its bytes by kind: weights, biases, scales, graph and others."""
        kinds = Counter[str]()
        for held in self.bytes_by_layer.values():
            kinds.update(held)
        return dict(kinds.most_common())

    @property
    def size_bytes(self) -> int:
        """Its size on the device."""
        return sum(self.bytes_by_kind.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as plain Python types, ready for JSON."""
        return {
            "target": self.target,
            "size_bytes": self.size_bytes,
            "bytes_by_kind": self.bytes_by_kind,
            "bytes_by_layer": {
                layer: dict(held) for layer, held in self.bytes_by_layer.items()
            },
        }

    def __str__(self) -> str:
        """Returns one line."""
        kinds = (f"{kind} {n:,}" for kind, n in self.bytes_by_kind.items())
        return f"{self.size_bytes:,} for {self.target!r}: {', '.join(kinds)}"
