"""The names of the devices that a file can be made for."""

import difflib

# Phones and single-board computers: the LiteRT runtime with XNNPACK.
TARGETS = ("litert",)


def require_target(target: str) -> None:
    """Raises an error unless `target` is the name of a known target.

    Example:

    >>> require_target("litert")
    >>> require_target("lite-rt")
    Traceback (most recent call last):
    ...
    ValueError: `target` must be one of ['litert']. Received: \
target='lite-rt'. Did you mean 'litert'?
    """
    if target in TARGETS:
        return
    closest = difflib.get_close_matches(str(target), TARGETS, n=1)
    hint = f" Did you mean {closest[0]!r}?" if closest else ""
    raise ValueError(
        f"`target` must be one of {sorted(TARGETS)}. "
        f"Received: target={target!r}.{hint}"
    )
