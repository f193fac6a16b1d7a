"""Runs of channels that shrink together: union-find, with runs that split."""

import itertools
from collections.abc import Iterable, Iterator

# Numbers of segments, in the order in which their channels lie along an axis.
Layout = tuple[int, ...]


class Segments:
    """Segments of channels: joined, split, frozen with a reason.

    Two axes that are joined may be cut at different places, as where the sum of
    two concatenations is taken. A segment is split at the other's cut then.

    Example:

    >>> segments = Segments()
    >>> wide, a, b = segments.new(8), segments.new(3), segments.new(5)
    >>> segments.join(wide, a + b)
    >>> segments.expand(wide) == segments.expand(a + b)
    True
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._sizes: list[int] = []
        self._parts: dict[int, tuple[int, int]] = {}
        self._reasons: dict[int, str] = {}
        self._members: dict[int, dict[str, None]] = {}

    def new(self, size: int) -> Layout:
        """Returns the layout of an axis of new channels."""
        number = len(self._parents)
        self._parents.append(number)
        self._sizes.append(size)
        return (number,)

    def size(self, number: int) -> int:
        """Returns the number of channels of a segment."""
        return self._sizes[number]

    def reason(self, number: int) -> str | None:
        """Returns why a segment of `expand` is frozen."""
        return self._reasons.get(number)

    def members(self, number: int) -> tuple[str, ...]:
        """Returns who writes a segment of `expand`."""
        return tuple(self._members.get(number, ()))

    def length(self, layout: Layout) -> int:
        """Returns the number of channels along an axis."""
        return sum(self._sizes[number] for number in layout)

    def expand(self, layout: Layout) -> Layout:
        """Returns a layout in the segments that stand for all joined ones."""
        leaves: dict[int, Layout] = {}
        for number in set(layout):
            leaves[number] = tuple(self._leaves(number))
        return tuple(
            itertools.chain.from_iterable(leaves[number] for number in layout)
        )

    def join(self, first: Layout, second: Layout) -> None:
        """Joins the channels of two axes of one length, one by one."""
        if first == second:
            return
        left, right = [*reversed(first)], [*reversed(second)]
        while left:
            a, b = self._pop(left), self._pop(right)
            difference = self._sizes[a] - self._sizes[b]
            if difference == 0:
                self._unite(a, b)
            else:
                long, short = (a, b) if difference > 0 else (b, a)
                self._split(long, self._sizes[short])
                left.append(a)
                right.append(b)

    def freeze(self, layout: Layout, reason: str) -> None:
        """Keeps the channels of an axis; the first reason stays."""
        for number in set(self.expand(layout)):
            self._reasons.setdefault(number, reason)

    def add_member(self, layout: Layout, name: str) -> None:
        """Adds to the names of those that write the channels of an axis."""
        for number in set(self.expand(layout)):
            self._members.setdefault(number, {})[name] = None

    def _find(self, number: int) -> int:
        while self._parents[number] != number:
            parent = self._parents[number]
            self._parents[number] = self._parents[parent]
            number = parent
        return number

    def _leaves(self, number: int) -> Iterator[int]:
        pending = [number]
        while pending:
            yield self._pop(pending)

    def _pop(self, pending: list[int]) -> int:
        """Takes the first segment that is not split; the last is the first."""
        root = self._find(pending.pop())
        while root in self._parts:
            first, second = self._parts[root]
            pending.append(second)
            root = self._find(first)
        return root

    def _unite(self, a: int, b: int) -> None:
        if a == b:
            return
        self._parents[b] = a
        if b in self._reasons:
            self._reasons.setdefault(a, self._reasons.pop(b))
        members: Iterable[str] = self._members.pop(b, {})
        self._members.setdefault(a, {}).update(dict.fromkeys(members))

    def _split(self, number: int, size: int) -> None:
        parts = self.new(size) + self.new(self._sizes[number] - size)
        for part in parts:
            if number in self._reasons:
                self._reasons[part] = self._reasons[number]
            self._members[part] = dict(self._members.get(number, {}))
        self._parts[number] = (parts[0], parts[1])
