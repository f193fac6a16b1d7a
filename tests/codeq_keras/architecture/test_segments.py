"""Joins of channels against a plain count of them, one by one."""

from hypothesis import given
from hypothesis import strategies as st

from codeq_keras.architecture.segments import Segments

SIZES = (1, 2, 2, 3, 4, 4, 6, 8)


def groups(number, pairs):
    """The connected components of single channels, by repeated relabelling."""
    labels = list(range(number))
    for a, b in pairs:
        old, new = labels[a], labels[b]
        labels = [new if label == old else label for label in labels]
    return labels


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=4),
            st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=4),
        ),
        max_size=12,
    )
)
def test_joins_are_those_of_single_channels(joins):
    segments = Segments()
    layouts = [segments.new(size) for size in SIZES]
    starts = [sum(SIZES[:i]) for i in range(len(SIZES))]

    def layout_of(parts):
        return tuple(n for part in parts for n in layouts[part])

    def channels_of(parts):
        return [starts[p] + c for p in parts for c in range(SIZES[p])]

    pairs = []
    for first, second in joins:
        a, b = channels_of(first), channels_of(second)
        if len(a) == len(b):
            segments.join(layout_of(first), layout_of(second))
            pairs += zip(a, b, strict=True)
    expanded = segments.expand(layout_of(range(len(SIZES))))
    names = [(n, c) for n in expanded for c in range(segments.size(n))]
    labels = groups(sum(SIZES), pairs)
    assert len(names) == len(labels)
    # The same channels are one; joining whole segments may tie no others.
    assert len(set(zip(names, labels, strict=True))) == len(set(names))
    assert len(set(names)) == len(set(labels))


def test_long_chains_of_joins_are_one_segment():
    segments = Segments()
    layouts = [segments.new(4) for _ in range(50)]
    for first, second in zip(layouts[::2], layouts[1::2], strict=True):
        segments.join(first, second)
    for first, second in zip(layouts[2:], layouts, strict=False):
        segments.join(first, second)
    assert len(set(map(segments.expand, layouts))) == 1


def test_reasons_and_members_survive_joins_and_splits():
    segments = Segments()
    wide, a, b = segments.new(5), segments.new(2), segments.new(3)
    segments.add_member(wide, "wide")
    segments.add_member(b, "b")
    segments.freeze(a, "why")
    segments.join(wide, a + b)
    first, second = segments.expand(wide)
    assert (segments.reason(first), segments.reason(second)) == ("why", None)
    assert segments.members(second) == ("wide", "b")
