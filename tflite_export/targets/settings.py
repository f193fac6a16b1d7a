"""TargetName: a target and its settings, as `"tflm,max_arena_bytes=32000"`."""

import dataclasses
import re
from collections.abc import Mapping

_SIZE = re.compile(r"[1-9]\d*")


@dataclasses.dataclass(frozen=True)
class TargetName:
    """What a user writes for a target.

    Example:

    >>> name = TargetName("tflm, max_arena_bytes=32000")
    >>> name.plain, name.settings
    ('tflm', {'max_arena_bytes': '32000'})
    """

    text: str

    @property
    def plain(self) -> str:
        """The name of the target alone."""
        return self.text.partition(",")[0].strip()

    @property
    def settings(self) -> dict[str, str]:
        """The settings, as texts by name."""
        pairs = [text.partition("=") for text in self.text.split(",")[1:]]
        return {key.strip(): value.strip() for key, _, value in pairs}

    def require_known(self, known: Mapping[str, str]) -> None:
        """Raises a ValueError for a setting without a value, or an unknown one.

        `known` has what each setting of the target is, by name.
        """
        settings = self.settings
        if settings.keys() <= known.keys() and all(settings.values()):
            return
        allowed = "can have no settings"
        if known:
            texts = ", ".join(
                f"{key!r} ({what})" for key, what in known.items()
            )
            allowed = f"can have these settings, each as ',name=value': {texts}"
        raise ValueError(
            f"The target {self.plain!r} {allowed}. Received: {self.text!r}."
        )


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
