"""FileTemplate: the bytes of a model's file for any codes, converted once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tflite_export.format.accounting import ByteAccount
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.names import shorten_names
from tflite_export.format.records import Constant, InputSite
from tflite_export.targets.target import Target, find_target
from tflite_export.weights.matching import arranged, match_slots
from tflite_export.weights.metadata import write_record
from tflite_export.weights.records import Match
from tflite_export.weights.sites import embedding_sites, weight_sites

if TYPE_CHECKING:
    from tflite_export.trained_model import TrainedModel

_NUM_SAMPLES = 8


class _Place(NamedTuple):
    """Where the file holds a kernel, and how."""

    site: InputSite
    scales: np.ndarray
    axis: int
    slot_axis: int | None
    match: Match


class FileTemplate:
    """A model's file, in which other codes take the place of the kernels.

    It has the operators, biases and scales of the file that `export` would
    write. They do not depend on the codes, so one conversion serves a whole
    training.
    """

    def __init__(self, trained: "TrainedModel", device: Target) -> None:
        # Imported here: checking a file must not import Keras.
        from tflite_export.samples import random_samples

        self._device = device
        if trained.samples is None and not trained.brings_ranges:
            trained = trained.with_samples(
                random_samples(trained.inputs, _NUM_SAMPLES)
            )
        converted = device.convert(trained)
        file = converted.file
        shorten_names(file, keeps_all=device.reads_names)
        self._places = _places(file, trained)
        write_record(
            file, device.name, trained.origin, converted.silent_channels
        )
        self._data = file.to_bytes()

    def dense(self) -> bytes:
        """Returns the file with the codes of now, one byte a weight."""
        file = Flatbuffer(self._data)
        self._device.store(file, "int8")
        return file.to_bytes()

    def num_bytes(self, codes: Mapping[str, np.ndarray]) -> int:
        """Returns the bytes on the device, with these codes by path."""
        return len(self.deployed(codes))

    def deployed(self, codes: Mapping[str, np.ndarray]) -> bytes:
        """Returns the file that the device holds, with these codes by path."""
        return self._device.deployed(self._stored(codes).to_bytes())

    def kernel_bytes(self, codes: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns the bytes of each kernel among them, by path."""
        file = self._stored(codes)
        weights = self._device.weight_bytes(file)
        sizes: dict[str, float] = {}
        # Storing changes no order, and tables of embeddings come last.
        for place, size in zip(self._places, weights, strict=False):
            if place is not None:
                path = place.match.path
                sizes[path] = sizes.get(path, 0.0) + size
        return sizes

    def _stored(self, codes: Mapping[str, np.ndarray]) -> Flatbuffer:
        file = Flatbuffer(self._data)
        file.replace_inputs(
            {
                place.site: Constant(
                    arranged(
                        place.match, codes[place.match.path], place.slot_axis
                    ),
                    place.scales,
                    place.axis,
                )
                for place in self._places
                if place is not None
            }
        )
        self._device.store(file, "auto")
        return file


def _places(file: Flatbuffer, trained: "TrainedModel") -> list[_Place | None]:
    """The places of a file's weights; None for those that were not trained."""
    sites = [
        *weight_sites(file),
        *embedding_sites(file, trained.weights),
    ]
    codes = {path: weight.codes for path, weight in trained.weights.items()}
    matches = match_slots([site.slot for site in sites], codes)
    return [
        _Place(
            site=site.site,
            scales=site.tensor.scales,
            axis=site.tensor.axis if site.slot.axis is None else site.slot.axis,
            slot_axis=site.slot.axis,
            match=match,
        )
        if match is not None
        else None
        for site, match in zip(sites, matches, strict=True)
    ]


class FileMeter:
    """Measures the file of a quantized model during its training.

    A `codeq_keras.reports.meter.FileMeter`. Converts again where
    channels were removed.
    """

    def __init__(self, model: Any, target: str) -> None:
        self._device = find_target(target)
        if not self._device.weighs_codes:
            raise ValueError(
                "The bytes of a file for "
                f"{self._device.title} cannot be foreseen: it depends on the "
                "zeros which operators it has. Received: "
                f"target={target!r}. Use `sparsity` or `relative_bops`."
            )
        self._template: FileTemplate | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}

    def num_bytes(self, model: Any) -> int:
        """Returns the bytes that the device would hold of the file."""
        template, codes = self._of(model)
        return template.num_bytes(codes)

    def kernel_bytes(self, model: Any) -> dict[str, float]:
        """Returns the bytes of each kernel among them, by path."""
        template, codes = self._of(model)
        return template.kernel_bytes(codes)

    def bytes_by_layer(self, model: Any) -> dict[str, dict[str, int]]:
        """Returns all bytes of it by layer and kind."""
        template, codes = self._of(model)
        return ByteAccount(template.deployed(codes)).by_layer

    def renew(self) -> None:
        """Forgets the biases and ranges of before."""
        self._template = None

    def _of(self, model: Any) -> tuple[FileTemplate, dict[str, np.ndarray]]:
        from codeq_keras.deployment import quantized_weights
        from tflite_export.trained_model import read_model

        if self._template is None or model.channel_gates is not None:
            trained = read_model(model, None)  # Without removed channels.
            weights = trained.weights
            shapes = {path: w.codes.shape for path, w in weights.items()}
            if self._template is None or shapes != self._shapes:
                self._template = FileTemplate(trained, self._device)
                self._shapes = shapes
        else:
            weights = quantized_weights(model)
        return self._template, {path: w.codes for path, w in weights.items()}
