"""Huffman codes of LiteRT for Microcontrollers <-> dense codes, NumPy only.

Each weight is a code word of 1 to 9 bits, the highest bit first. A table has an
entry for each possible value of the next bits of the stream:

    leaf = 0x8000 | bits of the code word << 11 | weight & 0xFF
    node = bits of a further table - 1 << 11 | its distance from this entry

The first table has leaves for short words, and leads to further ones for longer
ones. Files of others may be nested deeper: they are read too. Source:
`decode_state_huffman.h` of tflite-micro.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tflite_export.format.lut import HEADER_BYTES, LOWEST_CODE, NUM_CODES

# The first byte of the header.
HUFFMAN = 1
# A table of 2**9 entries has 1 kB; 8 bits would not shorten 255 weights.
MAX_BITS = 9
_VERSIONS = {1: 1, 4: 1}
# The byte of the header that says the size of the table, and of an entry.
_SIZE = 5
_LEAF = 0x8000
_LENGTH_SHIFT = 11
_LENGTH_MASK = 0xF
_OFFSET_MASK = 0x7FF
_WORD_BITS = 32
# Longer words, of files of others, would make large tables.
_MAX_READ_BITS = 16
# The stream is read in pieces, so that the work of each fits into the cache.
_PIECE_BYTES = 2**15
# One jump in five doublings is 32 weights.
_NUM_DOUBLINGS = 5


class HuffmanCode(NamedTuple):
    """A canonical code: the bits of each weight's word, 0 for absent ones.

    `lengths` has the shape `(256,)`, for the weights -128 to 127. Shorter words
    come first, and smaller weights first among equals.
    """

    lengths: np.ndarray

    @property
    def longest(self) -> int:
        """The bits of the longest word."""
        return int(self.lengths.max())

    @property
    def tables(self) -> np.ndarray:
        """The header and the tables, as bytes."""
        lengths, weights = self._windows()
        _, bits = _first_bits(lengths)
        first: list[int] = []
        further: list[int] = []
        for prefix, row in enumerate(lengths.reshape(2**bits, -1)):
            spread = max(int(row.max()) - bits, 0)
            step = row.size >> spread
            places = slice(prefix * row.size, (prefix + 1) * row.size, step)
            leaves = _LEAF | weights[places] & 0xFF
            if not spread:
                first.append(int(leaves[0]) | int(row[0]) << _LENGTH_SHIFT)
                continue
            distance = 2**bits + len(further) - prefix
            first.append((spread - 1) << _LENGTH_SHIFT | distance)
            rest: np.ndarray = lengths[places] - bits
            further += (leaves | rest << _LENGTH_SHIFT).tolist()
        header: np.ndarray = np.zeros(HEADER_BYTES, np.uint8)
        header[[0, *_VERSIONS]] = HUFFMAN, *_VERSIONS.values()
        header[_SIZE] = (bits - 1) << 4
        entries: np.ndarray = np.array(first + further, "<u2")
        return np.concatenate([header, entries.view(np.uint8)])

    @property
    def table_bytes(self) -> int:
        """The size of `tables`."""
        num_entries, _ = _first_bits(self._windows()[0])
        return HEADER_BYTES + 2 * num_entries

    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        """The length and the weight of the word at the front of all bits."""
        order = self._order()
        lengths = self.lengths[order]
        windows: np.ndarray = np.repeat(order, 1 << (self.longest - lengths))
        # One word alone has one bit, which is 0; 1 never comes.
        windows = np.resize(windows, 1 << self.longest)
        return self.lengths[windows], windows + LOWEST_CODE

    def words(self) -> np.ndarray:
        """Returns the words `(256,)`, with their first bit the highest of 9."""
        order = self._order()
        spaces = 1 << (MAX_BITS - self.lengths[order])
        words: np.ndarray = np.zeros(NUM_CODES, np.int64)
        words[order] = np.cumsum(spaces) - spaces
        return words

    def stream_bytes(self, counts: np.ndarray) -> int | None:
        """Returns the size of a stream; None if a weight has no word."""
        if np.any(counts[self.lengths == 0]):
            return None
        # The reader takes as many bits as the longest word has, and puts the
        # others back: at most all but one, after the last word.
        num_bits = int(counts @ self.lengths) + self.longest - 1
        return -(-num_bits // _WORD_BITS) * _WORD_BITS // 8

    def _order(self) -> np.ndarray:
        present = np.flatnonzero(self.lengths)
        order: np.ndarray = present[
            np.argsort(self.lengths[present], kind="stable")
        ]
        return order


def _first_bits(lengths: np.ndarray) -> tuple[int, int]:
    """The fewest entries of all tables, and the bits of the first one for them.

    `lengths` are those of the words at the front of all bits. Each prefix with
    longer words has a further table. Among equals the largest is the fastest.
    """
    options = []
    for bits in range(1, lengths.size.bit_length()):
        longest = lengths.reshape(2**bits, -1).max(axis=1)
        further = 2 ** (longest[longest > bits] - bits)
        options.append((2**bits + int(further.sum()), -bits))
    num_entries, bits = min(options)
    return num_entries, -bits


def count_codes(codes: np.ndarray) -> np.ndarray:
    """Counts int8 codes: `(256,)`, for -128 to 127."""
    flat: np.ndarray = codes.ravel().astype(np.int16) - LOWEST_CODE
    counts: np.ndarray = np.bincount(flat, minlength=NUM_CODES)
    return counts


def code_lengths(counts: np.ndarray, max_bits: int = MAX_BITS) -> np.ndarray:
    """Returns the bits of each word of the best code of at most `max_bits`.

    Package-merge (Larmore and Hirschberg, 1990): a word of `l` bits buys coins
    of 1/2, 1/4, ... `2**-l`, each at the price of its count; the cheapest coins
    worth `n - 1` make the shortest stream of all. `counts` are `(m,)`; those of
    0 get no word.

    Example:

    >>> code_lengths(np.array([10, 3, 2, 1]))
    array([1, 2, 3, 3])
    >>> code_lengths(np.array([10, 3, 2, 1]), 2)
    array([2, 2, 2, 2])
    """
    present = np.flatnonzero(counts)
    lengths: np.ndarray = np.zeros(counts.size, np.int64)
    if not 1 <= present.size <= 2**max_bits:
        raise ValueError(
            f"A Huffman code of at most {max_bits} bits must have 1 to "
            f"{2**max_bits} different weights. Received: {present.size}."
        )
    if present.size == 1:
        lengths[present] = 1
        return lengths
    prices = counts[present]
    coins: np.ndarray = np.eye(present.size, dtype=np.int16)
    packages, package_prices = coins, prices
    for bits in range(max_bits):
        order = np.argsort(package_prices, kind="stable")
        packages, package_prices = packages[order], package_prices[order]
        if bits == max_bits - 1:
            break
        even = order.size // 2 * 2
        pairs = packages[0:even:2] + packages[1:even:2]
        pair_prices = package_prices[0:even:2] + package_prices[1:even:2]
        packages = np.concatenate([coins, pairs])
        package_prices = np.concatenate([prices, pair_prices])
    lengths[present] = packages[: 2 * present.size - 2].sum(axis=0)
    return lengths


def smallest_code(counts: np.ndarray) -> HuffmanCode:
    """Returns the code with the fewest bytes of stream and table together.

    Shorter words make a smaller table and a longer stream. `counts` are those
    of `count_codes`.
    """
    num_present = int(np.count_nonzero(counts))
    fewest = max((num_present - 1).bit_length(), 1)
    best, best_bytes = None, math.inf
    for max_bits in range(fewest, MAX_BITS + 1):
        code = HuffmanCode(code_lengths(counts, max_bits))
        num_bytes = (code.stream_bytes(counts) or 0) + code.table_bytes
        if num_bytes < best_bytes:
            best, best_bytes = code, num_bytes
        if code.longest < max_bits:
            break  # No limit binds any more.
    return best or HuffmanCode(code_lengths(counts))


def encode_huffman(codes: np.ndarray, code: HuffmanCode) -> np.ndarray:
    """Returns the stream of int8 codes of any shape, in row-major order.

    Example: `0` has the word 0, `-1` has 10, `1` has 11; then zeros.

    >>> codes = np.array([0, 0, 1, 0, -1], np.int8)
    >>> code = smallest_code(count_codes(codes))
    >>> [f"{byte:08b}" for byte in encode_huffman(codes, code)]
    ['00110100', '00000000', '00000000', '00000000']
    >>> decode_huffman(encode_huffman(codes, code), code.tables, shape=(5,))
    array([ 0,  0,  1,  0, -1], dtype=int8)
    """
    num_bytes = code.stream_bytes(count_codes(codes))
    if num_bytes is None or not codes.size:
        raise _fault("code must have a word for each weight", codes.shape)
    places = np.arange(MAX_BITS)
    is_used = places < code.lengths[:, None]
    bits = (code.words()[:, None] >> places[::-1] & 1).astype(np.uint8)
    rows: np.ndarray = codes.ravel().astype(np.int16) - LOWEST_CODE
    packed = np.packbits(bits[rows][is_used[rows]])
    stream: np.ndarray = np.zeros(num_bytes, np.uint8)
    stream[: packed.size] = packed
    return stream


def decode_huffman(
    stream: np.ndarray, tables: np.ndarray, *, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the codes of a tensor that is stored as code words.

    `stream` are the words as bytes `(n,)`, `tables` the header and the table as
    bytes `(m,)`. Bytes that contradict the shape are an error.
    """
    size = math.prod(shape)
    if min(shape, default=0) < 1 or size > 8 * stream.size:
        raise _fault(
            f"stream for shape {shape} must have a bit for each weight",
            f"{stream.size} bytes",
        )
    table = _read_table(tables)
    pieces, num_weights = [], 0
    for piece in _pieces(stream, table):
        pieces.append(piece[: size - num_weights])
        num_weights += pieces[-1].size
        if num_weights == size:
            return np.concatenate(pieces).reshape(shape)
    raise _fault(
        f"stream for shape {shape} must have {size} words",
        f"{num_weights}, and then the end or no word of the table",
    )


class _Table(NamedTuple):
    """The weight and the length of the word at the front of `bits` bits."""

    bits: int
    weights: np.ndarray
    lengths: np.ndarray


def _read_table(tables: np.ndarray) -> _Table:
    """One table of all words, also where nodes lead to further ones."""
    header = [int(byte) for byte in tables[:HEADER_BYTES]]
    if len(header) < HEADER_BYTES or header[0] != HUFFMAN:
        raise _fault(
            f"header must have {HEADER_BYTES} bytes, the first a 1", header
        )
    if any(header[at] != version for at, version in _VERSIONS.items()):
        raise _fault("versions must be 1", [header[at] for at in _VERSIONS])
    if header[_SIZE] & 1:
        raise _fault("table must have entries of 16 bits", "32 bits")
    bits = (header[_SIZE] >> 4) + 1
    body = np.ascontiguousarray(tables[HEADER_BYTES:])
    if body.size % 2 or body.size < 2 * 2**bits:
        raise _fault(f"table of {bits} bits must be whole", f"{body.size} B")
    return _flattened(body.view("<u2").astype(np.int64), bits)


def _flattened(entries: np.ndarray, bits: int) -> _Table:
    """Follows all nodes; words that lead nowhere get a length of 0."""
    places = np.arange(2**bits)
    used = np.full(places.size, bits)
    last = used.copy()
    while True:
        held = entries[places]
        is_node = (held < _LEAF) & (last > 0)
        if not is_node.any():
            break
        further = (held >> _LENGTH_SHIFT) + 1
        grown = max(int((used + further)[is_node].max()), bits)
        if grown > _MAX_READ_BITS:
            last[is_node] = 0
            break
        # Each entry stands for all values of the bits that were not read.
        copies = 1 << (grown - bits)
        places, used, last, held, is_node, further = (
            np.repeat(array, copies)
            for array in (places, used, last, held, is_node, further)
        )
        bits = grown
        ahead = np.arange(2**bits) >> np.maximum(bits - used - further, 0)
        ahead &= (1 << further) - 1
        target = places + (held & _OFFSET_MASK) + ahead
        is_inside = target < entries.size
        places = np.where(is_node & is_inside, target, places)
        last = np.where(is_node, np.where(is_inside, further, 0), last)
        used = np.where(is_node, used + further, used)
    length = np.minimum(held >> _LENGTH_SHIFT & _LENGTH_MASK, last)
    lengths = np.where(last > 0, used - last + length, 0)
    weights = (held & 0xFF).astype(np.uint8).view(np.int8)
    return _Table(bits, weights, lengths.astype(np.int32))


def _pieces(stream: np.ndarray, table: _Table) -> Iterator[np.ndarray]:
    """The weights of one piece of the stream after the other.

    Where a word starts depends on all before it. So `jumps` say for each bit
    where the 1st, 2nd, 4th, ... word after it starts; the long jumps are
    followed one by one, and the shorter ones fill the gaps at once.
    """
    start = 0
    padded = np.concatenate([stream, np.zeros(4, np.uint8)]).astype(np.int32)
    for first in range(0, stream.size, _PIECE_BYTES):
        num_bytes = min(_PIECE_BYTES, stream.size - first)
        size = 8 * num_bytes
        head = padded[first : first + num_bytes + 2]
        three = head[:-2] << 16 | head[1:-1] << 8 | head[2:]
        shifts: np.ndarray = 24 - table.bits - np.arange(8, dtype=np.int32)
        windows = (three[:, None] >> shifts).ravel() & (2**table.bits - 1)
        lengths = table.lengths[windows]
        starts = _starts(lengths, start)
        if not starts.size:
            start -= size
            continue
        ends = starts + lengths[starts]
        is_last = first + num_bytes == stream.size
        is_word = (lengths[starts] > 0) & (~is_last | (ends <= size))
        num_words = int(is_word.argmin()) if not is_word.all() else starts.size
        yield table.weights[windows[starts[:num_words]]]
        if num_words < starts.size:
            return
        start = int(ends[-1]) - size


def _starts(lengths: np.ndarray, start: int) -> np.ndarray:
    """The bits at which words start, from `start` on, in one piece."""
    size = lengths.size
    # After the end, and after what is no word, the jumps lead nowhere.
    jump: np.ndarray = np.full(size + 1, size, np.int32)
    np.minimum(
        np.arange(size) + lengths, size, out=jump[:size], casting="unsafe"
    )
    jump[:size][lengths == 0] = size
    jumps = [jump]
    for _ in range(_NUM_DOUBLINGS):
        jumps.append(jumps[-1][jumps[-1]])
    far, place, places = jumps.pop(), start, []
    while place < size:
        places.append(place)
        place = int(far[place])
    starts: np.ndarray = np.array(places, np.int32)
    for jump in reversed(jumps):
        starts = np.stack([starts, jump[starts]], axis=-1).ravel()
    return starts[starts < size]


def _fault(expected: str, received: object) -> ValueError:
    return ValueError(f"A Huffman code's {expected}. Received: {received}.")
