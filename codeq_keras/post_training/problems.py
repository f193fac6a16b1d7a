"""Problems: kernels as rows, and the moments of the inputs they meet."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.calls import Call, run_graph
from codeq_keras.architecture.scoped import run_scoped
from codeq_keras.post_training.layouts import (
    Layout,
    ProductLayout,
    layout_of,
    plain_layout,
)
from codeq_keras.quantizers.kernels import QuantizedKernel

# So many samples at once: the values of all calls are held for them.
_BATCH_SIZE = 16

# A Hessian of more is half a gigabyte, and its inverse takes minutes.
MAX_COLUMNS = 8192

# Added to the diagonal, relative to its mean: few samples leave columns that
# seem to tell the same.
_DAMPING = 0.01


@dataclasses.dataclass(frozen=True)
class Problem:
    """A kernel whose rows shall keep their products with the inputs.

    Attributes:
        kernel: The kernel.
        layout: How it becomes rows.
        bias: Takes over the mean of what the kernel loses; None without one.
        hessian: `(groups, columns, columns)`, the mean product of each two
            columns, or their covariance where a bias or a BatchNormalization
            takes over the mean; damped. None where no input is known.
        means: `(groups, columns)`, the mean of each column.
    """

    kernel: QuantizedKernel
    layout: Layout
    bias: keras.Variable | None
    hessian: np.ndarray | None
    means: np.ndarray

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The weights as trained, `(groups, rows, columns)`."""
        return self.layout.rows(numpy_of(self.kernel.variable))

    @functools.cached_property
    def owners(self) -> np.ndarray:
        """The number of the scale of each row, `(groups, rows)`."""
        shape = tuple(self.kernel.variable.shape)
        bounds = self.kernel.quantizer.bound_shape(shape)
        numbers = np.arange(np.prod(bounds, dtype=int)).reshape(bounds)
        return self.layout.rows(np.broadcast_to(numbers, shape))[..., 0]

    @functools.cached_property
    def diagonal(self) -> np.ndarray:
        """The weight of a squared error in each column."""
        if self.hessian is None:
            return np.ones((len(self.rows), self.rows.shape[-1]), "float32")
        return np.einsum("gii->gi", self.hessian)

    @functools.cached_property
    def energy(self) -> float:
        """The mean square of the outputs, summed over the rows."""
        products = (
            self.rows if self.hessian is None else self.rows @ self.hessian
        )
        return max(float(np.sum(products * self.rows)), 1e-30)


class _Moments:
    """Sums over the columns that a kernel meets."""

    def __init__(self) -> None:
        self.count = 0
        self.products: Any = 0.0
        self.sums: Any = 0.0

    def add(self, columns: np.ndarray) -> None:
        """Adds `(groups, positions, columns)`."""
        self.count += columns.shape[1]
        self.products = self.products + columns.transpose(0, 2, 1) @ columns
        self.sums = self.sums + columns.sum(1)


@dataclasses.dataclass(frozen=True)
class _Product:
    """A call that multiplies its input with a kernel."""

    call: Call
    kernel: QuantizedKernel
    layout: ProductLayout
    bias: keras.Variable | None
    is_centered: bool


def make_problems(
    graph: ActivationGraph,
    kernels: Sequence[QuantizedKernel],
    batches: Iterable[Any],
) -> list[Problem]:
    """Returns a problem for each kernel, in their order.

    Reads the inputs of the float model, batch by batch.
    """
    products = list(_products(graph, kernels))
    by_tensor: dict[int, list[_Product]] = {}
    for product in products:
        index = product.call.inputs[0].index
        by_tensor.setdefault(index, []).append(product)
    moments = {id(p.kernel.variable): _Moments() for p in products}
    rng = np.random.default_rng(0)

    def after(tensor: Any, value: Any) -> Any:
        for product in by_tensor.get(tensor.index, ()):
            columns = product.layout.columns(numpy_of(value), rng)
            moments[id(product.kernel.variable)].add(columns)
        return value

    for batch in _split(batches):
        run_scoped(
            functools.partial(
                run_graph, graph.graph, batch, training=False, after=after
            ),
            graph.twins,
        )
    return [
        _problem(kernel, products, moments.get(id(kernel.variable)))
        for kernel in kernels
    ]


def _products(
    graph: ActivationGraph, kernels: Sequence[QuantizedKernel]
) -> Iterator[_Product]:
    by_variable = {id(kernel.variable): kernel for kernel in kernels}
    readers: dict[int, list[Any]] = {}
    for call in graph.graph.calls:
        for tensor in call.inputs:
            readers.setdefault(tensor.index, []).append(call.operation)
    for call in graph.graph.calls:
        layer = call.operation
        variable = getattr(layer, "kernel", None)
        kernel = by_variable.get(id(graph.original(variable)))
        layout = layout_of(layer) if kernel is not None else None
        if kernel is None or layout is None:
            continue
        if (
            layout.rows(np.empty(layer.kernel.shape, bool)).shape[-1]
            > MAX_COLUMNS
        ):
            continue
        bias = getattr(layer, "bias", None) if layout.has_bias else None
        after = readers.get(call.results[0].index, [])
        yield _Product(
            call,
            kernel,
            layout,
            graph.original(bias),
            bias is not None or _takes_mean(after),
        )


def _takes_mean(readers: Sequence[Any]) -> bool:
    """Whether all that is read passes statistics that are estimated anew."""
    kind = keras.layers.BatchNormalization
    found = [isinstance(r, kind) and r.trainable for r in readers]
    return bool(found) and all(found)


def _problem(
    kernel: QuantizedKernel,
    products: Sequence[_Product],
    moments: _Moments | None,
) -> Problem:
    if moments is None:  # No call shows it to be a factor.
        shape = tuple(kernel.variable.shape)
        layout = plain_layout(shape, kernel.output_axes)
        return Problem(kernel, layout, None, None, np.zeros(()))
    # A shared layer has several.
    calls = [p for p in products if p.kernel is kernel]
    hessian = moments.products / moments.count
    means = moments.sums / moments.count
    if all(product.is_centered for product in calls):
        hessian = hessian - means[:, :, None] * means[:, None, :]
    diagonal = np.einsum("gii->gi", hessian)
    damping = _DAMPING * diagonal.mean(1, keepdims=True)
    # Without any input, all weights are alike.
    diagonal += np.where(damping > 0, damping, 1.0)
    return Problem(kernel, calls[0].layout, calls[0].bias, hessian, means)


def _split(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        size = len(keras.tree.flatten(batch)[0])
        for start in range(0, size, _BATCH_SIZE):
            rows = slice(start, start + _BATCH_SIZE)
            yield keras.tree.map_structure(lambda x, r=rows: x[r], batch)


def numpy_of(value: Any) -> np.ndarray:
    """Returns a float32 array."""
    return keras.ops.convert_to_numpy(value).astype("float32")
