"""Settings in the name of a target, as `"tflm,max_arena_bytes=32000"`."""

import re
from collections.abc import Mapping

_SIZE = re.compile(r"[1-9]\d*")


def split_target(name: str) -> tuple[str, dict[str, str]]:
    """Returns the plain name of a target, and its settings as texts.

    Example:

    >>> split_target("tflm, max_arena_bytes=32000")
    ('tflm', {'max_arena_bytes': '32000'})
    """
    plain, *texts = name.split(",")
    pairs = [text.partition("=") for text in texts]
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    return plain.strip(), settings


def require_settings(
    name: str, settings: Mapping[str, str], known: Mapping[str, str]
) -> None:
    """Raises a ValueError for a setting that a target does not know."""
    if settings.keys() <= known.keys() and all(settings.values()):
        return
    plain, _ = split_target(name)
    allowed = "can have no settings"
    if known:
        texts = [f"{key!r} ({text})" for key, text in known.items()]
        allowed = (
            f"can have these settings, each as ',name=value': {', '.join(texts)}"
        )
    raise ValueError(f"The target {plain!r} {allowed}. Received: {name!r}.")


def positive_size(key: str, text: str) -> int:
    """Returns the value of a setting in bytes; a wrong one is a ValueError.

    Example:

    >>> positive_size("max_arena_bytes", "32k")
    Traceback (most recent call last):
    ...
    ValueError: The setting 'max_arena_bytes' must be a whole number of bytes \
above 0. Received: 'max_arena_bytes=32k'.
    """
    if _SIZE.fullmatch(text):
        return int(text)
    raise ValueError(
        f"The setting {key!r} must be a whole number of bytes above 0. "
        f"Received: '{key}={text}'."
    )
