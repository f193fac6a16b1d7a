"""The records of weights in a file: their places, matches and notes."""

from typing import NamedTuple

import numpy as np

from tflite_export.format.records import InputSite, Operator, Tensor

# The part of a slot that holds a kernel; `()` is all of it.
Window = tuple[slice, ...]


class Slot(NamedTuple):
    """A weight tensor of the file: real weight = `codes * scale`.

    `codes` are its integers without the zero point. `axis` is the axis of the
    output channels, where each may have a scale; None for one scale in all.
    """

    operator: str
    codes: np.ndarray
    axis: int | None


class Match(NamedTuple):
    """The kernel that a slot holds: `|slot row - gain * codes row| <= 1`.

    A row is an output channel. `codes` are the trained ones in the slot's
    shape, with the sign of each channel's gain, so that `gains` are >= 0. A
    channel is silent if only the slot holds zeros there: its gain is NaN.
    `order` are the kernel's axes as the slot has them, `signs` those of the
    gains.
    """

    path: str
    codes: np.ndarray
    gains: np.ndarray
    distance: float
    is_canonical: bool
    order: tuple[int, ...]
    signs: np.ndarray

    @property
    def num_silent_rows(self) -> int:
        """Channels with codes that are zeros in the slot."""
        return int((np.isnan(self.gains)).sum())


class WeightSite(NamedTuple):
    """An operator input that holds constant weights in any storage.

    `tensor` has them dense; an operator that unpacks it may lie between. In a
    file of integers, real value = `slot.codes * tensor.scales`. In a float
    file, each channel of the slot is `tensor.data` with a peak of 127.
    """

    operator: Operator
    site: InputSite
    tensor: Tensor
    slot: Slot
    bias: tuple[InputSite, Tensor] | None

    @property
    def key(self) -> tuple[int, int]:
        """Subgraph and index of the tensor: equal for sites that share it."""
        return self.site.subgraph, self.tensor.index


class WrittenWeights(NamedTuple):
    """The notes for the user on a file with written codes.

    `silent_channels` counts the channels that a folded gain of zero removed, by
    path: their codes are not in the file, and their weights are zero.
    """

    notes: list[str]
    silent_channels: dict[str, int]
