"""The records of what a file holds: tensors, operators, constants."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tflite_export.format.sparse import SparseTensor


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the file: real value = `(data - zero_points) * scales`.

    `scales` has the shape `(1,)`, or `(shape[axis],)` for one scale a channel;
    it is empty where the data are the real values. `data` is `None` for a
    computed tensor, a sparse one, or a type unknown to NumPy; types below a
    byte are unpacked to int8, bfloat16 to float32. `sparse` is `None` for a
    dense tensor. `is_open`: some sizes of the shape stand for open ones.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray | None
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    size_bytes: int
    sparse: SparseTensor | None = None
    is_open: bool = False

    @property
    def short_name(self) -> str:
        """The first of the names that the converter joined by semicolons."""
        return self.name.split(";")[0]


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator; `inputs` are tensor indices, -1 where one is left out.

    Custom operators have the name that their maker gave them. `options` are
    the numbers and names by the schema's names: `strideW`, `padding`, ...
    `custom_bytes` is the size of the data that only a custom operator reads.
    """

    subgraph: int
    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    is_custom: bool = False
    options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, compare=False
    )
    custom_bytes: int = 0


# For a constant without scales, such as floats.
NO_SCALES: np.ndarray = np.zeros(0, np.float32)


class InputSite(NamedTuple):
    """The place where an operator reads a tensor."""

    subgraph: int
    operator: int
    position: int


class Constant(NamedTuple):
    """New contents of a constant tensor, with its scale or scales.

    The real values are `data * scales`, with the scales along `axis`; without
    scales the tensor keeps its own. `bit_width` 4 packs the codes into an int4
    tensor; otherwise the tensor has the type of the data.
    """

    data: np.ndarray
    scales: np.ndarray
    axis: int
    bit_width: int | None = None

    def key(self) -> tuple[bytes, bytes, int, int | None]:
        """Equal for constants that can share one tensor."""
        scales = self.scales.tobytes()
        return self.data.tobytes(), scales, self.axis, self.bit_width
