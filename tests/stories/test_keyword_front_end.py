"""The features of the device are those of the training, on the same sound."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from datasets.mfcc import mfcc

FOLDER = Path(__file__).parents[2] / "examples" / "keyword_front_end"
MAIN = """
#include <cstdio>
#include "mfcc.h"
using namespace keyword_front_end;
static Mfcc mfcc;
int main() {
  static std::int16_t samples[kSampleRate];
  if (std::fread(samples, 2, kSampleRate, stdin) != kSampleRate) return 1;
  for (int frame = 0; frame < kNumFrames; ++frame) {
    std::int16_t window[kWindow];
    for (int i = 0; i < kWindow; ++i) window[i] = samples[frame * kHop + i];
    float coefficients[kNumCoefficients];
    mfcc.Compute(window, coefficients);
    std::fwrite(coefficients, sizeof(coefficients), 1, stdout);
  }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("No C++ compiler.")
    folder = tmp_path_factory.mktemp("mfcc")
    (folder / "main.cc").write_text(MAIN)
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER}"]
    sources = [FOLDER / "mfcc.cc", folder / "main.cc"]
    subprocess.run(
        [compiler, *flags, *sources, "-o", folder / "mfcc"], check=True
    )
    return folder / "mfcc"


def sounds():
    time = np.arange(16_000) / 16_000
    rng = np.random.default_rng(0)
    return {
        "silence": np.zeros(16_000),
        "tone": 8_000 * np.sin(2 * np.pi * 440 * time),
        "sweep": 20_000 * np.sin(2 * np.pi * (100 + 2_000 * time) * time),
        "noise": rng.normal(0, 3_000, 16_000),
        "loud": rng.choice([-32_768, 32_767], 16_000),
    }


@pytest.mark.parametrize("name", sounds())
def test_features_of_the_device_equal_those_of_the_training(program, name):
    audio = sounds()[name].astype("int16")

    ended = subprocess.run(
        [program], input=audio.tobytes(), capture_output=True, check=True
    )

    features = np.frombuffer(ended.stdout, np.float32).reshape(49, 10)
    # Single precision there, double here. Rounding is 1e-7 of the loudest bin,
    # which shows where a band is near the floor of the logarithm: 0.007 for
    # the sweep, 3e-5 without such bands. The range is 60, a code 0.2 and more.
    np.testing.assert_allclose(features, mfcc(audio)[..., 0], atol=0.01)
