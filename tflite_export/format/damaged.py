"""The one error for a file that contradicts itself."""


class DamagedFileError(ValueError):
    """A file is no sound `.tflite` file; its argument says where.

    Example:

    >>> str(DamagedFileError("a buffer up to byte 9 of 8"))
    'Expected an undamaged .tflite file. Received: a buffer up to byte 9 of 8.'
    """

    def __str__(self) -> str:
        """Returns the whole message."""
        return f"Expected an undamaged .tflite file. Received: {self.args[0]}."
