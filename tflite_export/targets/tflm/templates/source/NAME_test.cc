// Test vectors: inputs, and the outputs that TFLM's reference kernels gave.

#include "@{name}_test.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "@{name}.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace @{name} {
namespace {

constexpr int kNumSamples = @{num_samples};
constexpr unsigned kBlockSize = @{block_size};

@{sums}

@{arrays}

alignas(16) std::uint8_t arena[kTensorArenaSize];

// The CRC-32 of zlib, without a table.
std::uint32_t Crc32(const unsigned char* data, unsigned size) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (unsigned i = 0; i < size; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xEDB88320u : 0u);
    }
  }
  return ~crc;
}

// Samples may not see a changed byte; a damaged model must not be run.
bool IsModelWhole() {
  for (unsigned start = 0; start < kModelSize; start += kBlockSize) {
    const unsigned left = kModelSize - start;
    const unsigned size = left < kBlockSize ? left : kBlockSize;
    if (Crc32(kModel + start, size) != kBlockSums[start / kBlockSize]) {
      std::printf(
          "@{name}: FAIL: bytes %u to %u of the model are not the exported "
          "ones\n",
          start, start + size - 1);
      return false;
    }
  }
  return true;
}

bool HasSize(const char* kind, int number, const TfLiteTensor* tensor,
             std::size_t bytes) {
  if (tensor != nullptr && tensor->bytes == bytes) return true;
  std::printf("@{name}: FAIL: %s %d does not have %u bytes\n", kind, number,
              static_cast<unsigned>(bytes));
  return false;
}

// Writes one sample; `values` are those of all samples.
template <typename T, std::size_t N>
bool Write(tflite::MicroInterpreter& interpreter, int sample, int input,
           const T (&values)[N]) {
  constexpr std::size_t kSize = N / kNumSamples;
  TfLiteTensor* tensor = interpreter.input(input);
  if (!HasSize("input", input, tensor, sizeof(values) / kNumSamples)) {
    return false;
  }
  std::memcpy(tensor->data.raw, values + sample * kSize, kSize * sizeof(T));
  return true;
}

template <typename T, std::size_t N>
bool IsEqual(tflite::MicroInterpreter& interpreter, int sample, int output,
             const T (&values)[N]) {
  constexpr std::size_t kSize = N / kNumSamples;
  const TfLiteTensor* tensor = interpreter.output(output);
  if (!HasSize("output", output, tensor, sizeof(values) / kNumSamples)) {
    return false;
  }
  for (std::size_t i = 0; i < kSize; ++i) {
    T received;
    std::memcpy(&received, tensor->data.raw + i * sizeof(T), sizeof(T));
    const T expected = values[sample * kSize + i];
    if (received != expected) {
      std::printf(
          "@{name}: FAIL: sample %d, output %d, value %u: expected %ld, "
          "received %ld\n",
          sample, output, static_cast<unsigned>(i),
          static_cast<long>(expected), static_cast<long>(received));
      return false;
    }
  }
  return true;
}

bool RunSample(tflite::MicroInterpreter& interpreter, int sample) {
  if (@{writes}) {
    return false;
  }
  if (interpreter.Invoke() != kTfLiteOk) {
    std::printf("@{name}: FAIL: sample %d does not run\n", sample);
    return false;
  }
  return @{compares};
}

}  // namespace

bool RunTest() {
  if (!IsModelWhole()) return false;
  tflite::MicroMutableOpResolver<kNumOperators> resolver;
  if (!RegisterOperators(resolver)) {
    std::printf("@{name}: FAIL: TFLM lacks an operator\n");
    return false;
  }
  tflite::MicroInterpreter interpreter(tflite::GetModel(kModel), resolver,
                                       arena, kTensorArenaSize);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    std::printf("@{name}: FAIL: the arena of %u bytes is not enough\n",
                kTensorArenaSize);
    return false;
  }
  std::printf("@{name}: %u of %u bytes of the arena used\n",
              static_cast<unsigned>(interpreter.arena_used_bytes()),
              kTensorArenaSize);
  for (int sample = 0; sample < kNumSamples; ++sample) {
    if (!RunSample(interpreter, sample)) return false;
  }
  std::printf("@{name}: PASS, %d samples equal\n", kNumSamples);
  return true;
}

}  // namespace @{name}
