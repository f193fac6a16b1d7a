"""ArenaLimit: which weights may be unpacked, so that the arena is small."""

import bisect

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.targets.tflm.simulation import measure_arena
from tflite_export.targets.tflm.storage import store_packed
from tflite_export.weights.sites import weight_sites


class ArenaLimit:
    """The most RAM of an arena, and what of a file's weights it has room for.

    DECODE unpacks a tensor into the arena while its operator runs, so the
    largest tensors decide. The answer depends on their shapes and not on the
    codes: it is the same for a file that is foreseen and one that is written.
    """

    def __init__(self, max_arena_bytes: int) -> None:
        self._max_arena_bytes = max_arena_bytes
        self._known: dict[tuple[int, ...], float] = {}

    def unpacked_bytes(self, file: Flatbuffer) -> float:
        """Returns the bytes of the largest tensor that may be packed.

        Weights as they are need more RAM than allowed: that is a ValueError.
        """
        sizes = tuple(site.slot.codes.size for site in weight_sites(file))
        if sizes not in self._known:
            self._known[sizes] = self._largest(file.to_bytes(), sizes)
        return self._known[sizes]

    def _largest(self, dense: bytes, sizes: tuple[int, ...]) -> float:
        least = _arena_bytes(dense, 0)
        if least > self._max_arena_bytes:
            raise ValueError(
                f"`max_arena_bytes` must be at least {least:,} here, without "
                "a packed weight. Received: max_arena_bytes="
                f"{self._max_arena_bytes:,}. Allow more, or make the "
                "activations smaller, as by `channel_multiple`."
            )
        steps = [0, *sorted(set(sizes))]
        fitting = bisect.bisect_right(
            steps,
            self._max_arena_bytes,
            lo=1,
            key=lambda size: _arena_bytes(dense, size),
        )
        return steps[fitting - 1]


def _arena_bytes(dense: bytes, max_unpacked_bytes: int) -> int:
    """The arena where all smaller weights are unpacked, even if none gains."""
    file = Flatbuffer(dense)
    if max_unpacked_bytes:
        store_packed(file, "huffman", max_unpacked_bytes=max_unpacked_bytes)
    data = file.to_bytes()
    return measure_arena(data, interpreter.zero_inputs(file))
