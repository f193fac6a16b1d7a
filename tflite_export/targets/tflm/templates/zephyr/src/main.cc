// Runs the test vectors of the model; replace it by your firmware.

#include "@{name}_test.h"

int main() {
  @{name}::RunTest();
  return 0;
}
