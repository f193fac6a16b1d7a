"""Reading and writing files changes what was asked for and nothing else."""

import numpy as np
import pytest

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Constant, InputSite
from tflite_export.weights.sites import weight_sites


@pytest.fixture
def data(zoo):
    return zoo.result.path.read_bytes()


def test_reading_and_writing_changes_no_byte(data):
    assert Flatbuffer(data).to_bytes() == data


def test_every_buffer_starts_on_16_bytes(data):
    file = Flatbuffer(data)

    starts = [
        data.find(t.data.tobytes())
        for t in file.tensors()
        if t.data is not None and t.size_bytes >= 64 and t.data.any()
    ]

    assert starts
    assert {start % 16 for start in starts} == {0}


def test_metadata_is_replaced_and_other_records_are_kept(data):
    file = Flatbuffer(data)

    file.set_metadata("note", b"one")
    file.set_metadata("note", b"two")
    again = Flatbuffer(file.to_bytes())

    assert again.metadata("note") == b"two"
    assert again.metadata("absent") is None


def test_outputs_are_sorted_as_numbers(zoo):
    file = Flatbuffer(zoo.result.path.read_bytes())

    assert list(file.outputs()) == ["output_0"]


def test_writing_a_tensor_that_others_read_copies_it(data):
    file = Flatbuffer(data)
    first, second = _readers_of_one_tensor(file)
    kept = first.tensor.data
    changed = Constant(
        np.zeros_like(kept), first.tensor.scales, first.tensor.axis
    )

    file.replace_inputs({first.site: changed})
    again = Flatbuffer(file.to_bytes())

    assert not _read(again, first.site).data.any()
    assert np.array_equal(_read(again, second.site).data, kept)


def test_equal_writes_to_one_tensor_keep_it_shared(data):
    file = Flatbuffer(data)
    first, second = _readers_of_one_tensor(file)
    constant = Constant(
        first.tensor.data, first.tensor.scales * 2, first.tensor.axis
    )
    num_tensors = len(file.tensors())

    file.replace_inputs({first.site: constant, second.site: constant})

    assert len(file.tensors()) == num_tensors
    assert _read(file, first.site).index == _read(file, second.site).index


def test_int4_constant_is_read_back_exactly(data):
    file = Flatbuffer(data)
    site = weight_sites(file)[0]
    constant = Constant(
        site.slot.codes, site.tensor.scales, site.tensor.axis, 4
    )
    file.replace_inputs({site.site: constant})

    tensor = weight_sites(Flatbuffer(file.to_bytes()))[0].tensor
    assert tensor.dtype == "int4"
    assert tensor.size_bytes == -(-site.slot.codes.size // 2)
    assert np.array_equal(tensor.data, site.slot.codes)


@pytest.mark.parametrize("junk", [b"", b"not a model", bytes(64)])
def test_other_bytes_are_refused(junk):
    with pytest.raises(ValueError, match=r"Expected the bytes of a \.tflite"):
        Flatbuffer(junk)


def _readers_of_one_tensor(file):
    """The layer `shared` is called twice and has one tensor."""
    readers = {}
    for site in weight_sites(file):
        readers.setdefault(site.tensor.index, []).append(site)
    return next(sites for sites in readers.values() if len(sites) == 2)


def _read(file: Flatbuffer, site: InputSite):
    operator = next(
        o
        for o in file.operators
        if (o.subgraph, o.index) == (site.subgraph, site.operator)
    )
    return file.tensor(site.subgraph, operator.inputs[site.position])
