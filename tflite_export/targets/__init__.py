"""The devices that a file can be made for, one file each.

`litert`: phones and single-board computers, LiteRT with XNNPACK.
`litert_sparse`: their ARM CPUs, with XNNPACK's sparse float kernels. `tflm`:
microcontrollers, LiteRT for Microcontrollers. `ethos_u`: Arm's microNPU,
compiled by Vela. `edgetpu`: Coral's Edge TPU, by its documented rules.
"""

import difflib

ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
# The most common size of each generation.
DEFAULT_ACCELERATORS = {
    "ethos-u": "ethos-u55-128",
    "ethos-u55": "ethos-u55-128",
    "ethos-u65": "ethos-u65-256",
    "ethos-u85": "ethos-u85-256",
}
_DEVICES = ("litert", "litert-sparse", "tflm", "edgetpu")
TARGETS = (*_DEVICES, *DEFAULT_ACCELERATORS, *ACCELERATORS)


def require_target(target: str) -> None:
    """Raises an error unless `target` is the name of a known target.

    Example:

    >>> require_target("ethos-u65-512")
    >>> require_target("lite-rt")
    Traceback (most recent call last):
    ...
    ValueError: `target` must be one of ['litert', 'litert-sparse', 'tflm', \
'edgetpu', 'ethos-u'] or a size such as 'ethos-u55-128'. Received: \
target='lite-rt'. Did you mean 'litert'?
    """
    if target in TARGETS:
        return
    closest = difflib.get_close_matches(str(target), TARGETS, n=1)
    hint = f" Did you mean {closest[0]!r}?" if closest else ""
    raise ValueError(
        f"`target` must be one of {[*_DEVICES, 'ethos-u']} or a size such as "
        f"'ethos-u55-128'. Received: target={target!r}.{hint}"
    )


def accelerator(target: str) -> str | None:
    """Returns the Ethos-U size of a target, `None` for other devices.

    Example:

    >>> accelerator("ethos-u")
    'ethos-u55-128'
    >>> accelerator("litert") is None
    True
    """
    if target in ACCELERATORS:
        return target
    return DEFAULT_ACCELERATORS.get(target)
