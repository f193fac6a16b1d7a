#ifndef @{name}_test_H_
#define @{name}_test_H_

namespace @{name} {

// Runs the test vectors. Prints the used bytes of the arena, and PASS or the
// first value that differs.
bool RunTest();

}  // namespace @{name}

#endif  // @{name}_test_H_
