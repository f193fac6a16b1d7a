"""What to say of weights that are NaN or infinite."""

from collections.abc import Sequence

from keras import ops

from codeq_keras.architecture.kernels import Kernel
from codeq_keras.architecture.listing import first_few

REMEDY = (
    "Lower the learning rate, clip the gradients, or look for NaN in the "
    "data, and go on from an earlier checkpoint."
)


def words_on_divergence(kernels: Sequence[Kernel]) -> str:
    """Names the kernels with NaN or infinity; "" if there are none."""
    paths = [
        repr(kernel.path)
        for kernel in kernels
        if not bool(ops.all(ops.isfinite(kernel.variable)))
    ]
    return f"NaN or infinity in {first_few(paths)}" if paths else ""


def require_finite(kernels: Sequence[Kernel]) -> None:
    """Raises a ValueError where the training of the kernels diverged."""
    if words := words_on_divergence(kernels):
        raise ValueError(
            f"Expected finite weights. Received: {words}: the training "
            f"diverged. {REMEDY}"
        )
