"""The smallest storage for microcontrollers, from counts: bytes and choice."""

import numpy as np
import pytest

from tflite_export.format.decoding import decoded_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.huffman import count_codes
from tflite_export.format.lut import look_ups
from tflite_export.format.operators import DECODE
from tflite_export.format.records import NO_SCALES, Constant
from tflite_export.targets.tflm.packing import (
    READER_BYTES,
    Weights,
    plan,
    total_bytes,
)
from tflite_export.targets.tflm.storage import store_packed
from tflite_export.weights.sites import weight_sites


def _weights(codes, num_readers=1):
    return Weights(count_codes(codes), look_ups(codes, None), num_readers)


def _least_bytes(codes):
    """The bytes of the smallest form of one tensor."""
    return min(o.num_bytes for o in _weights(codes).options("auto"))


def _codes(rng, size, sparsity, max_code=7):
    codes = rng.integers(-max_code, max_code + 1, size)
    return np.where(rng.random(size) < sparsity, 0, codes).astype(np.int8)


@pytest.mark.parametrize(
    ("codes", "storage"),
    [
        (lambda rng: _codes(rng, 10_000, 0.8), "huffman"),
        # 16 equally frequent values: both need 4 bits, and tables are smaller
        # by the header's leaves.
        (lambda rng: np.arange(10_000).astype(np.int8) % 16, "lut"),
        (lambda rng: rng.integers(-128, 128, 10_000).astype(np.int8), "int8"),
        (lambda rng: _codes(rng, 60, 0.8), "int8"),
    ],
    ids=["zeros", "equal", "all", "few"],
)
def test_each_tensor_gets_its_smallest_form(rng, codes, storage):
    held = _weights(codes(rng))

    (packing,) = plan([held], "auto")

    assert packing.storage == storage
    assert packing.num_bytes == _least_bytes(codes(np.random.default_rng(0)))


def test_table_is_shared_where_that_is_smaller(rng):
    alike = [_weights(_codes(rng, size, 0.8)) for size in (900, 1200, 40_000)]
    apart = [w.options("huffman")[0] for w in alike]

    packings = plan(alike, "huffman")

    assert len({packing.table_key for packing in packings}) == 1
    # Three tables of 2**7 entries at most become one.
    saved = total_bytes(apart) - total_bytes(packings)
    assert 0 < saved < 2 * (2 * 2**7 + 60)


def test_tensor_with_other_weights_keeps_a_table_of_its_own(rng):
    alike = [_weights(_codes(rng, 5_000, 0.8)) for _ in range(3)]
    # Its most frequent weight is none of theirs.
    other = _weights(np.resize(np.array([-9, 100], np.int8), 50_000))

    *shared, own = plan([*alike, other], "huffman")

    assert len({packing.table_key for packing in shared}) == 1
    assert own.code.longest == 1


def test_small_tensors_share_what_none_of_them_can_pay_alone(rng):
    tensors = [_weights(_codes(rng, 256, 0.8)) for _ in range(12)]

    assert [p.storage for p in plan(tensors[:1], "auto")] == ["int8"]
    packings = plan(tensors, "auto")
    assert {packing.storage for packing in packings} == {"huffman"}
    assert len({packing.table_key for packing in packings}) == 1


def test_plan_is_never_larger_than_the_smallest_forms_alone(rng):
    for _ in range(30):
        tensors = [
            _weights(_codes(rng, *row))
            for row in zip(
                rng.integers(1, 5_000, 6),
                rng.random(6),
                rng.integers(1, 120, 6),
                strict=True,
            )
        ]
        for storage in ("auto", "huffman", "lut"):
            alone = [
                min(w.options(storage), key=lambda p: p.num_bytes)
                for w in tensors
            ]

            assert total_bytes(plan(tensors, storage)) <= total_bytes(alone)


def test_each_reader_costs_an_operator(rng):
    codes = _codes(rng, 10_000, 0.8)

    (once,), (twice,) = (plan([_weights(codes, n)], "huffman") for n in (1, 2))

    assert twice.num_bytes == once.num_bytes + READER_BYTES


def test_packing_that_only_pays_for_its_own_name_is_left_out(rng):
    # It saves some 60 of its 224 bytes, less than the operator's name needs.
    codes = np.tile(np.array([0, 0, 0, 1], np.int8), 53)

    assert _least_bytes(codes) < 224
    assert [p.storage for p in plan([_weights(codes)], "auto")] == ["int8"]
    assert len(plan([_weights(codes)], "huffman")) == 1


@pytest.mark.parametrize("storage", ["auto", "huffman", "lut"])
def test_file_grows_and_shrinks_as_planned(dense_path, storage):
    data = dense_path.read_bytes()
    file = Flatbuffer(data)
    weights = [_weights(site.slot.codes) for site in weight_sites(file)]
    before = len(file.to_bytes())

    store_packed(file, storage)

    planned = total_bytes(plan(weights, storage))
    dense = sum(w.dense().num_bytes for w in weights)
    actual = len(file.to_bytes()) - before
    # A buffer starts at a multiple of 16, so tables in front move those behind.
    assert actual == pytest.approx(planned - dense, abs=16 * len(weights))


def test_stored_weights_are_those_of_the_file(dense_path):
    file = Flatbuffer(dense_path.read_bytes())
    expected = {s.tensor.short_name: s.slot.codes for s in weight_sites(file)}

    notes = store_packed(file, "huffman")

    decoded = decoded_constants(Flatbuffer(file.to_bytes())).tensors.values()
    assert len(decoded) == len(expected) == len(notes)
    for tensor in decoded:
        assert np.array_equal(tensor.data, expected[tensor.short_name])


def test_packed_weights_are_not_packed_again(dense_path):
    file = Flatbuffer(dense_path.read_bytes())
    store_packed(file, "huffman")
    data = file.to_bytes()

    notes = store_packed(file, "auto")

    assert all("another operator unpacks it already" in note for note in notes)
    assert file.to_bytes() == data
    names = [operator.name for operator in file.operators]
    assert names.count(DECODE) == len(notes)


def test_form_that_fits_no_tensor_is_refused(dense_path):
    file = Flatbuffer(dense_path.read_bytes())
    rng = np.random.default_rng(0)
    for site in weight_sites(file):
        noise = rng.integers(-127, 128, site.slot.codes.shape).astype(np.int8)
        file.write(*site.key, Constant(noise, NO_SCALES, 0))
    data = file.to_bytes()

    with pytest.raises(ValueError, match=r"'lut'.* smaller\. Received: .*auto"):
        store_packed(file, "lut")

    assert file.to_bytes() == data
