// Mel-frequency cepstral coefficients of keyword spotting, on the device.
//
// The features of MLPerf Tiny's DS-CNN, as benchmarks/datasets/mfcc.py: windows
// of 40 ms every 20 ms at 16 kHz, 40 mel bands from 20 to 4000 Hz, logarithm,
// orthonormal DCT-II. The file needs the C++ library only, in single precision.

#ifndef KEYWORD_FRONT_END_MFCC_H_
#define KEYWORD_FRONT_END_MFCC_H_

#include <cstdint>

namespace keyword_front_end {

constexpr int kSampleRate = 16000;
constexpr int kWindow = 640;
constexpr int kHop = 320;
constexpr int kNumCoefficients = 10;
constexpr int kNumFrames = (kSampleRate - kWindow) / kHop + 1;

// 14 KiB of tables and buffers: make it static, once.
class Mfcc {
 public:
  Mfcc();

  // Writes the coefficients of one window. For a stream, call it every `kHop`
  // samples with the last `kWindow` of them.
  void Compute(const std::int16_t (&samples)[kWindow],
               float (&coefficients)[kNumCoefficients]);

 private:
  static constexpr int kFft = 1024;
  static constexpr int kNumBands = 40;
  // Above the highest band.
  static constexpr int kNumBins = 257;

  void Transform();

  float real_[kFft];
  float imaginary_[kFft];
  float window_[kWindow / 2 + 1];
  float cosine_[kFft / 2];
  float mel_[kNumBins];
  float transform_[kNumCoefficients][kNumBands];
};

// The code of a coefficient, with the scale and the zero point of the input:
// `kInput0Scale` and `kInput0ZeroPoint` of an exported model.
std::int8_t Quantize(float coefficient, float scale, int zero_point);

}  // namespace keyword_front_end

#endif  // KEYWORD_FRONT_END_MFCC_H_
