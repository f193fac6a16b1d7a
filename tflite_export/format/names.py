"""Names of tensors: the converter joins those of all that it fused."""

from collections.abc import Collection, Sequence


def short_names(names: Sequence[bytes], kept: Collection[int]) -> list[bytes]:
    """Returns of each name the part that names a layer, all different.

    Args:
        names: The names, empty where there is none.
        kept: Positions of names that stay as they are.

    Example:

    >>> names = [b"x", b"bn/batchnorm/mul;conv/Conv2D", b"conv/Conv2D"]
    >>> short_names(names, {0})
    [b'x', b'conv/Conv2D', b'conv/Conv2D_2']
    """
    shortened = list(names)
    taken = {names[index] for index in kept}
    for index, name in enumerate(names):
        if index not in kept and name:
            shortened[index] = _unique(_layer_part(name), taken)
            taken.add(shortened[index])
    return shortened


def _layer_part(name: bytes) -> bytes:
    parts = name.split(b";")
    # A fused normalization comes first, though the layer is the other's.
    named = [
        p for p in parts if b"/batchnorm/" not in p and b"Squeeze" not in p
    ]
    return (named or parts)[0]


def _unique(name: bytes, taken: set[bytes]) -> bytes:
    candidates = (
        name,
        *(b"%s_%d" % (name, i) for i in range(2, len(taken) + 3)),
    )
    return next(c for c in candidates if c not in taken)
