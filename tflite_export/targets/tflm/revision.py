"""The tflite-micro that a file needs, stated here only."""

from collections.abc import Collection
from typing import NamedTuple

from tflite_export.format.operators import DECODE


class _Revision(NamedTuple):
    """A commit of tflite-micro, its date, and the wheel that was made of it."""

    commit: str
    date: str
    wheel: str


# The first one whose DECODE unpacks look-up tables and Huffman codes. Its
# wheel runs files of both (tried); the one before knows no Huffman codes.
PACKED_WEIGHTS = _Revision(
    "a94423c6b6ee1f30c82d60952d70f749296a5581",
    "2025-10-31",
    "0.dev20251031215621",
)

# Projects were built and run with it, and fetch it.
BUILT_WITH = ("90b983c2b3f1480642e040bbd2ddb37b998f3424", "2026-08-20")


def needed_tflm(operators: Collection[str]) -> str:
    """Returns a sentence on the tflite-micro that runs these operators.

    Example:

    >>> needed_tflm(["CONV_2D"])
    'Any tflite-micro that has these operators runs it.'
    >>> needed_tflm(["CONV_2D", "TFLM_DECODE"])
    'Packed weights need tflite-micro a94423c6b6 (2025-10-31) or newer.'
    """
    if DECODE not in operators:
        return "Any tflite-micro that has these operators runs it."
    commit, date, _ = PACKED_WEIGHTS
    return f"Packed weights need tflite-micro {commit[:10]} ({date}) or newer."
