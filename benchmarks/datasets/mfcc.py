"""Mel-frequency cepstral coefficients as MLPerf Tiny's keyword spotting."""

import numpy as np

SAMPLE_RATE = 16_000
_WINDOW = 640  # 40 ms
_HOP = 320  # 20 ms
_FFT = 1024
_NUM_BANDS = 40
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 4000.0


def mfcc(audio: np.ndarray, *, num_coefficients: int = 10) -> np.ndarray:
    """Returns the cepstral coefficients of one second of speech.

    Args:
        audio: int16 array of any length at 16 kHz. Cut or padded with zeros
            to one second.
        num_coefficients: Number of coefficients kept, at most 40.

    Returns:
        A float32 array of shape `(49, num_coefficients, 1)`.

    Example:

    >>> mfcc(np.zeros(16_000, "int16")).shape
    (49, 10, 1)

    Reference:

    - [MLPerf Tiny Benchmark, 2021](https://arxiv.org/abs/2106.07597): 40 ms
      windows every 20 ms, 40 mel bands between 20 and 4000 Hz.
    """
    samples = np.zeros(SAMPLE_RATE, "float32")
    length = min(len(audio), SAMPLE_RATE)
    samples[:length] = np.asarray(audio[:length], "float32") / 2**15
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    # The periodic Hann window, as in signal processing libraries.
    window = np.hanning(_WINDOW + 1)[:-1]
    spectrum = np.abs(np.fft.rfft(frames * window, _FFT, axis=-1))
    energies = np.log(spectrum @ _mel_filters() + 1e-6)
    coefficients = energies @ _cosine_transform()[:, :num_coefficients]
    return coefficients[..., np.newaxis].astype("float32")


def _mel_filters() -> np.ndarray:
    """Triangular filters of shape `(frequencies, bands)`."""
    frequencies = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    edges = np.linspace(_mel(_LOWEST_HZ), _mel(_HIGHEST_HZ), _NUM_BANDS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    position = _mel(frequencies)[:, np.newaxis]
    rising = (position - lower) / (center - lower)
    falling = (upper - position) / (upper - center)
    return np.maximum(np.minimum(rising, falling), 0)


def _mel(frequency_hz: np.ndarray | float) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(frequency_hz) / 700)


def _cosine_transform() -> np.ndarray:
    """The orthonormal DCT-II of the bands."""
    index = np.arange(_NUM_BANDS)
    matrix = np.cos(np.pi / _NUM_BANDS * np.outer(index + 0.5, index))
    matrix[:, 0] /= np.sqrt(2)
    return matrix * np.sqrt(2 / _NUM_BANDS)
