// Runs the test vectors of the model; replace it by your firmware.

#include "@{name}_test.h"

extern "C" void app_main() { @{name}::RunTest(); }
