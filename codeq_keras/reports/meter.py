"""FileMeter: what an installed exporter knows of the file of a model."""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from codeq_keras.extras import missing_extra

# Exporters register `(model, target) -> FileMeter` under it.
ENTRY_POINTS = "codeq_keras.file_meters"


class FileMeter(Protocol):
    """What an exporter knows of a model's file before it is written."""

    def num_bytes(self, model: Any) -> int:
        """The bytes of the file that the model would be exported to now."""

    def kernel_bytes(self, model: Any) -> Mapping[str, float]:
        """The bytes of it that each kernel takes, by path."""

    def bytes_by_layer(self, model: Any) -> Mapping[str, Mapping[str, int]]:
        """All bytes of it by layer and kind; `""` for the file's own."""

    def renew(self) -> None:
        """Looks at all but the codes anew, when it measures next."""


def file_meter(model: Any, target: str, *, needed_for: str) -> FileMeter:
    """Returns what an installed exporter measures files with."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        make: Callable[[Any, str], FileMeter] = entry.load()
        return make(model, target)
    raise missing_extra(needed_for, "the exporter", "export")
