"""Huffman codes of microcontrollers: the format, the best code, and damage."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_export.format.decoding import decode
from tflite_export.format.huffman import (
    MAX_BITS,
    HuffmanCode,
    code_lengths,
    count_codes,
    decode_huffman,
    encode_huffman,
    smallest_code,
)
from tflite_export.format.lut import HEADER_BYTES

NUM_DAMAGED = 1_000
SEED = 20260101
# One type, two versions, a table of 2 bits.
_HEADER = [1, 1, 0, 0, 1, 1 << 4, *[0] * 10]


def _packed(codes):
    code = smallest_code(count_codes(codes))
    return encode_huffman(codes, code), code.tables


def _leaf(length, weight):
    value = 0x8000 | length << 11 | weight & 0xFF
    return [value & 0xFF, value >> 8]


def _node(bits, distance):
    value = (bits - 1) << 11 | distance
    return [value & 0xFF, value >> 8]


def _bytes(*bits):
    text = "".join(bits)
    text += "0" * (-len(text) % 32)
    return np.array(
        [int(text[i : i + 8], 2) for i in range(0, len(text), 8)], np.uint8
    )


def test_bytes_of_a_tiny_tensor_are_those_written_by_hand():
    codes = np.array([[0, 0, 3], [-2, 0, 0]], np.int8)

    stream, tables = _packed(codes)

    # 0 is "0"; -2 and 3 have two bits, the smaller one first.
    assert stream.tolist() == [0b0_0_11_10_0_0, 0, 0, 0]
    leaves = [_leaf(1, 0), _leaf(1, 0), _leaf(2, -2), _leaf(2, 3)]
    assert tables.tolist() == [*_HEADER, *itertools.chain(*leaves)]
    assert leaves[2] == [0xFE, 0x90]
    assert np.array_equal(decode(stream, tables, shape=(2, 3)), codes)


def test_long_words_have_a_table_of_their_own():
    # 0 has "0", 1 has "1000", 2 has "1001", ... and 8 has "1111".
    lengths = np.zeros(256, int)
    lengths[128:137] = [1, *[4] * 8]

    tables = HuffmanCode(lengths).tables

    # 2 and 8 entries in place of 16; the node is 1 in front of its table.
    rest = [_leaf(3, weight) for weight in range(1, 9)]
    entries = [_leaf(1, 0), _node(3, 1), *rest]
    header = [1, 1, 0, 0, 1, 0, *[0] * 10]
    assert tables.tolist() == [*header, *itertools.chain(*entries)]
    codes = np.array([0, 3, 2, 6, 0, 1], np.int8)
    stream = encode_huffman(codes, HuffmanCode(lengths))
    text = "".join(f"{byte:08b}" for byte in stream)
    assert text.rstrip("0") == "0" + "1010" + "1001" + "1101" + "0" + "1"
    assert decode_huffman(stream, tables, shape=(6,)).tolist() == codes.tolist()


def test_node_leads_to_a_further_table():
    # The second entry of two leads on: 2 bits, 1 entry behind the node.
    tables = np.array(
        [
            *[1, 1, 0, 0, 1, 0, *[0] * 10],
            *(*_leaf(1, 0), *_node(2, 1)),
            *(*_leaf(1, 5), *_leaf(1, 5), *_leaf(2, -6), *_leaf(2, 7)),
        ],
        np.uint8,
    )
    stream = _bytes("0", "1" + "0", "1" + "10", "1" + "11", "0")

    decoded = decode_huffman(stream, tables, shape=(5,))

    assert decoded.tolist() == [0, 5, -6, 7, 0]


def test_test_vector_of_tflite_micro_is_read():
    # `decode_state_huffman_test.cc`: a table of 3 bits and six further ones.
    stream = bytes.fromhex(
        "f00d79fc9c1a6e4c32af29b35df6360250158ca795db29683fbab7edb119e2e0"
    )
    entries = [
        *(0x986D, 0x9861, 0x986A, 0x0005, 0x0806, 0x0809, 0x000E, 0x000F),
        *(0x886F, 0x8868, 0x8864, 0x8864, 0x9069, 0x9066, 0x8863, 0x8863),
        *(0x0002, 0x906B, 0x8867, 0x886C, 0x8865, 0x8862, 0x8870, 0x886E),
    ]
    header = [1, 1, 0, 0, 1, 2 << 4, *[0] * 10]
    tables = [np.array(header, np.uint8), np.array(entries, "<u2")]

    decoded = decode(
        np.frombuffer(stream, np.uint8),
        np.concatenate([array.view(np.uint8) for array in tables]),
        shape=(64,),
    )

    text = "nmmacnanefdacopjomeckifookhbdbdmjjdmjgojfecpbiibmanbbjbnlgjafejp"
    assert decoded.tobytes().decode() == text


@given(st.data())
def test_decode_is_the_inverse_of_encode(data):
    size = data.draw(st.integers(1, 300))
    levels = data.draw(st.integers(1, 256))
    skew = data.draw(st.floats(0, 0.99))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    values = rng.permutation(np.arange(-128, 128))[:levels]
    codes = np.where(
        rng.random(size) < skew, values[0], rng.choice(values, size)
    )
    codes = codes.astype(np.int8).reshape(1, -1)

    code = smallest_code(count_codes(codes))
    stream = encode_huffman(codes, code)

    assert stream.size == code.stream_bytes(count_codes(codes))
    assert code.tables.size == code.table_bytes
    decoded = decode_huffman(stream, code.tables, shape=codes.shape)
    assert np.array_equal(decoded, codes)
    assert decoded.dtype == np.int8


def test_long_streams_are_read_across_their_pieces(rng):
    codes = rng.integers(-100, 100, 200_000).astype(np.int8)
    codes[rng.random(codes.size) < 0.5] = 0
    stream, tables = _packed(codes)

    # More than two pieces of 32 kB.
    assert stream.size > 2 * 2**15
    assert np.array_equal(decode(stream, tables, shape=codes.shape), codes)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=40))
def test_code_without_a_limit_is_as_short_as_huffmans(counts):
    heap = list(counts)
    heapq.heapify(heap)
    num_bits = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        num_bits += joined
        heapq.heappush(heap, joined)

    lengths = code_lengths(np.array(counts), 40)

    assert int(lengths @ counts) == num_bits
    assert np.sum(0.5**lengths) == 1


@pytest.mark.parametrize("max_bits", [2, 3, 4])
def test_limited_code_is_the_best_of_all(rng, max_bits):
    for _ in range(20):
        counts = rng.integers(1, 200, 4) ** rng.integers(1, 4)
        lengths = range(1, max_bits + 1)
        best = min(
            int(np.dot(tried, counts))
            for tried in itertools.product(lengths, repeat=4)
            if sum(0.5**length for length in tried) <= 1
        )

        held = code_lengths(counts, max_bits)

        assert held.max() <= max_bits
        assert int(held @ counts) == best


@pytest.mark.parametrize(
    ("values", "longest"),
    [([0], 1), ([-128], 1), ([0, 5], 1), (range(-128, 128), 8)],
    ids=["one", "one_negative", "two", "all"],
)
def test_degenerate_tensors_come_back(values, longest):
    codes = np.repeat(np.array(values, np.int8), 3).reshape(-1, 3)

    code = smallest_code(count_codes(codes))
    stream = encode_huffman(codes, code)

    assert code.longest == longest
    # The reader takes as many bits as the longest word has.
    num_bits = codes.size * longest + longest - 1
    assert stream.size == -(-num_bits // 32) * 4
    held = decode_huffman(stream, code.tables, shape=codes.shape)
    assert np.array_equal(held, codes)


def test_rare_weights_get_no_more_than_nine_bits():
    counts = np.zeros(256, int)
    counts[100:130] = 2 ** np.arange(30)

    assert code_lengths(counts, 30).max() == 29
    assert smallest_code(counts).longest <= MAX_BITS


def test_what_has_no_code_is_refused():
    code = smallest_code(count_codes(np.array([0, 1], np.int8)))

    with pytest.raises(ValueError, match=r"1 to 2 .*Received: 0"):
        smallest_code(count_codes(np.zeros(0, np.int8)))
    with pytest.raises(ValueError, match=r"1 to 4 .*Received: 5"):
        code_lengths(np.ones(5), 2)
    with pytest.raises(ValueError, match="have a word for each weight"):
        encode_huffman(np.array([2], np.int8), code)
    with pytest.raises(ValueError, match="have a word for each weight"):
        encode_huffman(np.zeros((0, 3), np.int8), code)


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (0, 2, r"first of them 0 .* or 1 .*Received: \[2, 1,"),
        (1, 9, r"versions must be 1. Received: \[9, 1\]"),
        (4, 0, r"versions must be 1. Received: \[1, 0\]"),
        (5, 1 << 4 | 1, "entries of 16 bits. Received: 32 bits"),
        (5, 2 << 4, "table of 3 bits must be whole"),
    ],
    ids=["type", "version", "layout", "width", "size"],
)
def test_damaged_tables_are_refused(position, value, text):
    codes = np.array([0, 0, 3, -2], np.int8)
    stream, tables = _packed(codes)
    tables[position] = value

    with pytest.raises(ValueError, match=text):
        decode(stream, tables, shape=codes.shape)


def test_streams_that_contradict_their_shape_are_refused():
    codes = np.array([0, 0, 3, -2], np.int8)
    stream, tables = _packed(codes)

    with pytest.raises(ValueError, match="a bit for each weight"):
        decode(stream, tables, shape=(2**20, 2**20))
    with pytest.raises(ValueError, match="a bit for each weight"):
        decode(stream, tables, shape=(0, 4))
    with pytest.raises(ValueError, match="a header of 16 bytes"):
        decode(stream, tables[:9], shape=(4,))
    ones = np.full(4, 255, np.uint8)
    # 17 words of 2 bits do not fit into 32 bits.
    with pytest.raises(ValueError, match=r"have 17 words\. Received: 16"):
        decode(ones, tables, shape=(17,))


@pytest.mark.parametrize(
    "entry",
    [_node(1, 0), _node(16, 0x7FF), _leaf(0, 1)],
    ids=["loop", "outside", "no_bits"],
)
def test_words_that_lead_nowhere_are_refused_where_they_occur(entry):
    codes = np.array([0, 0, 3, -2], np.int8)
    stream, tables = _packed(codes)
    tables[HEADER_BYTES + 4 : HEADER_BYTES + 6] = entry

    assert decode(stream, tables, shape=(3,)).tolist() == [0, 0, 3]
    with pytest.raises(ValueError, match=r"have 4 words\. Received: 3"):
        decode(stream, tables, shape=(4,))


def test_damaged_streams_are_read_or_refused(rng):
    codes = rng.integers(-7, 8, 3_000).astype(np.int8)
    codes[rng.random(codes.size) < 0.8] = 0
    stream, tables = _packed(codes)
    rng = np.random.default_rng(SEED)
    num_changed = 0
    texts = []

    for _ in range(NUM_DAMAGED):
        damaged = [stream.copy(), tables.copy()]
        target = damaged[rng.integers(2)]
        for place in rng.integers(target.size, size=rng.integers(1, 9)):
            target[place] = rng.integers(256)
        if rng.integers(4) == 0:
            side = rng.integers(2)
            damaged[side] = damaged[side][: rng.integers(damaged[side].size)]
        try:
            held = decode(*damaged, shape=codes.shape)
        except ValueError as error:
            texts.append(str(error))
        else:
            assert held.shape == codes.shape
            num_changed += not np.array_equal(held, codes)

    assert [text for text in texts if "Received: " not in text] == []
    assert len(texts) > 0.2 * NUM_DAMAGED
    assert num_changed > 0.2 * NUM_DAMAGED


def test_words_of_one_code_are_no_prefixes_of_each_other(rng):
    lengths = code_lengths(rng.integers(0, 50, 256) ** 3)
    words = HuffmanCode(lengths).words()[lengths > 0]
    held = lengths[lengths > 0]

    texts = [
        f"{word:09b}"[:length] for word, length in zip(words, held, strict=True)
    ]

    for left, right in itertools.permutations(texts, 2):
        assert not right.startswith(left)
