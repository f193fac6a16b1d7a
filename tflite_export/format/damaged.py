"""The one error for a file that contradicts itself."""


def damaged(received: str) -> ValueError:
    """Returns the error that says what is wrong with a file.

    Example:

    >>> damaged("a buffer up to byte 9 of 8")
    ValueError('Expected an undamaged .tflite file. Received: a buffer up to \
byte 9 of 8.')
    """
    return ValueError(
        f"Expected an undamaged .tflite file. Received: {received}."
    )
