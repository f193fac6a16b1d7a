"""A single code that is not the trained one is found, and its kernel named."""

import numpy as np
import pytest

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Constant
from tflite_export.trained_model import read_plain
from tflite_export.weights.metadata import write_record
from tflite_export.weights.reading_back import unequal_weights
from tflite_export.weights.sites import weight_sites


def _unequal(exported, file):
    kernels = read_plain(exported.model, exported.trained).kernels
    return unequal_weights(file, exported.trained, kernels)


@pytest.mark.parametrize(
    "path",
    ["conv/kernel", "depthwise/kernel", "multiplier/kernel", "dense/kernel"],
)
def test_one_changed_code_is_found_and_named(zoo, path):
    file = Flatbuffer(zoo.result.path.read_bytes())
    size = zoo.trained[path].codes.size
    site = next(s for s in weight_sites(file) if s.slot.codes.size == size)
    codes = site.slot.codes.copy()
    position = np.flatnonzero(codes)[0]
    codes.flat[position] -= np.sign(codes.flat[position])
    changed = Constant(codes, site.tensor.scales, site.tensor.axis)

    file.replace_inputs({site.site: changed})

    assert _unequal(zoo, file) == [path]


def test_one_new_weight_in_a_second_copy_is_found(zoo):
    # The layer `shared` is read by two operators; one gets a changed copy.
    file = Flatbuffer(zoo.result.path.read_bytes())
    kernel = zoo.trained["shared/kernel"].codes.transpose(3, 0, 1, 2)
    readers = [
        s for s in weight_sites(file) if np.array_equal(s.slot.codes, kernel)
    ]
    assert len(readers) == 2
    site = readers[0]
    codes = site.slot.codes.copy()
    codes.flat[np.flatnonzero(codes == 0)[0]] = 5
    changed = Constant(codes, site.tensor.scales, site.tensor.axis)

    file.replace_inputs({site.site: changed})

    assert _unequal(zoo, file) == ["shared/kernel"]


def test_unrecorded_channel_of_zeros_is_found(zoo):
    file = Flatbuffer(zoo.result.path.read_bytes())
    kernels = read_plain(zoo.model, zoo.trained).kernels

    write_record(file, "litert", "keras 3", {})

    assert unequal_weights(file, zoo.trained, kernels) == ["silent/kernel"]
