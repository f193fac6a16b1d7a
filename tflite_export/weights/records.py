"""The records of weights in a file: places, findings, what was written."""

from typing import NamedTuple

import numpy as np

from tflite_export.format.records import InputSite, Operator, Tensor

# The part of a slot that holds a kernel; `()` is all of it.
Window = tuple[slice, ...]


class Slot(NamedTuple):
    """A weight tensor of the file: real weight = `codes * scale`.

    `codes` are its integers without the zero point. `axis` is that of the
    output channels, each of which may have a scale; None if one scale is all.
    """

    operator: str
    codes: np.ndarray
    axis: int | None


class Match(NamedTuple):
    """The kernel that a slot holds: `|slot row - gain * codes row| <= 1`.

    A row is an output channel. `codes` are the trained ones in the slot's
    shape, with the sign of each channel's gain, so that `gains` are >= 0. A
    channel with codes of which the slot holds zeros is silent: its gain is NaN.
    """

    path: str
    codes: np.ndarray
    gains: np.ndarray
    distance: float
    is_canonical: bool

    @property
    def num_silent_rows(self) -> int:
        """Channels with codes that are zeros in the slot."""
        return int((np.isnan(self.gains)).sum())


class WeightSite(NamedTuple):
    """An operator input that holds constant weights, however stored.

    `tensor` has them dense; an operator that unpacks it may lie between. In a
    file of integers, real value = `slot.codes * tensor.scales`; in one of
    floats, each channel of the slot is `tensor.data` with a peak of 127.
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
    """The notes on a file whose codes were written, for the user.

    `silent_channels` counts, by path, the channels that a folded gain of zero
    removed: their codes are not in the file, and their weights are zero.
    """

    notes: list[str]
    silent_channels: dict[str, int]
