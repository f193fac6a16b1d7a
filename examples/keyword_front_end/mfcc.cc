#include "mfcc.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

namespace keyword_front_end {
namespace {

constexpr float kPi = 3.14159265358979f;
constexpr float kLowestHz = 20.0f;
constexpr float kHighestHz = 4000.0f;
// Silence has a logarithm as well.
constexpr float kFloor = 1e-6f;

float MelOf(float hertz) { return 1127.0f * std::log1p(hertz / 700.0f); }

}  // namespace

Mfcc::Mfcc() {
  for (int i = 0; i <= kWindow / 2; ++i) {
    window_[i] = 0.5f - 0.5f * std::cos(2.0f * kPi * i / kWindow);
  }
  for (int i = 0; i < kFft / 2; ++i) {
    cosine_[i] = std::cos(2.0f * kPi * i / kFft);
  }
  for (int bin = 0; bin < kNumBins; ++bin) {
    mel_[bin] = MelOf(static_cast<float>(bin) * kSampleRate / kFft);
  }
  for (int index = 0; index < kNumCoefficients; ++index) {
    const float norm = std::sqrt((index == 0 ? 1.0f : 2.0f) / kNumBands);
    for (int band = 0; band < kNumBands; ++band) {
      transform_[index][band] =
          norm * std::cos(kPi / kNumBands * (band + 0.5f) * index);
    }
  }
}

// A radix-2 transform in place, with decimation in time.
void Mfcc::Transform() {
  for (int i = 1, reversed = 0; i < kFft; ++i) {
    int bit = kFft / 2;
    for (; reversed & bit; bit /= 2) reversed ^= bit;
    reversed ^= bit;
    // The imaginary parts are zero still.
    if (i < reversed) std::swap(real_[i], real_[reversed]);
  }
  for (int half = 1; half < kFft; half *= 2) {
    const int step = kFft / (2 * half);
    for (int k = 0; k < half; ++k) {
      const int angle = k * step;
      const float cosine = cosine_[angle];
      // sin(x) = -cos(x + 90 degrees), and the table ends at 180 degrees.
      const float sine = angle < kFft / 4 ? -cosine_[angle + kFft / 4]
                                          : cosine_[angle - kFft / 4];
      for (int i = k; i < kFft; i += 2 * half) {
        const int j = i + half;
        const float real = real_[j] * cosine + imaginary_[j] * sine;
        const float imaginary = imaginary_[j] * cosine - real_[j] * sine;
        real_[j] = real_[i] - real;
        imaginary_[j] = imaginary_[i] - imaginary;
        real_[i] += real;
        imaginary_[i] += imaginary;
      }
    }
  }
}

void Mfcc::Compute(const std::int16_t (&samples)[kWindow],
                   float (&coefficients)[kNumCoefficients]) {
  for (int i = 0; i < kFft; ++i) {
    const float weight =
        i < kWindow ? window_[std::min(i, kWindow - i)] : 0.0f;
    real_[i] = i < kWindow ? samples[i] / 32768.0f * weight : 0.0f;
    imaginary_[i] = 0.0f;
  }
  Transform();

  // Triangles with edges at equal distances on the mel scale.
  float energies[kNumBands] = {};
  const float lowest = MelOf(kLowestHz);
  const float distance = (MelOf(kHighestHz) - lowest) / (kNumBands + 1);
  for (int bin = 0; bin < kNumBins; ++bin) {
    const float magnitude = std::sqrt(real_[bin] * real_[bin] +
                                      imaginary_[bin] * imaginary_[bin]);
    const float position = (mel_[bin] - lowest) / distance;
    const int below = static_cast<int>(std::floor(position));
    const float rising = position - static_cast<float>(below);
    if (below >= 0 && below < kNumBands) {
      energies[below] += rising * magnitude;
    }
    if (below >= 1 && below <= kNumBands) {
      energies[below - 1] += (1.0f - rising) * magnitude;
    }
  }
  for (float& energy : energies) energy = std::log(energy + kFloor);

  for (int index = 0; index < kNumCoefficients; ++index) {
    float sum = 0.0f;
    for (int band = 0; band < kNumBands; ++band) {
      sum += energies[band] * transform_[index][band];
    }
    coefficients[index] = sum;
  }
}

std::int8_t Quantize(float coefficient, float scale, int zero_point) {
  const float code = std::nearbyint(coefficient / scale) + zero_point;
  return static_cast<std::int8_t>(std::clamp(code, -128.0f, 127.0f));
}

}  // namespace keyword_front_end
