// Runs the test vectors of the model; replace it by your firmware.

#include "@{name}_test.h"
#include "tensorflow/lite/micro/system_setup.h"

int main() {
  tflite::InitializeTarget();
  return @{name}::RunTest() ? 0 : 1;
}
