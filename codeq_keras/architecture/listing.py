"""first_few: a long list in a message."""

from collections.abc import Sequence

_NUM_NAMED = 3


def first_few(names: Sequence[str]) -> str:
    """Returns the first three, and how many more there are.

    Example:

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    >>> first_few(["a", "b"])
    'a, b'
    """
    listed = ", ".join(names[:_NUM_NAMED])
    more = len(names) - _NUM_NAMED
    return f"{listed} and {more} more" if more > 0 else listed
