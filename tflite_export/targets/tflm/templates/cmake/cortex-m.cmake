# Builds for a Cortex-M with the compiler of Arm or Debian, arm-none-eabi-g++:
#   cmake -B build-arm -DCMAKE_TOOLCHAIN_FILE=cortex-m.cmake -DCPU=cortex-m4
# -DMPS2=ON makes a program for Arm's MPS2 boards, which QEMU emulates.

set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CPU cortex-m4 CACHE STRING "As in -mcpu")
option(MPS2 "Start on an MPS2 board, and print by semihosting" ON)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CPU MPS2)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_CXX_COMPILER arm-none-eabi-g++)

if(CPU MATCHES "^cortex-m(0|0plus|1|3|23)$")
  set(float soft)
else()
  set(float hard)
endif()
set(flags "-mcpu=${CPU} -mthumb -mfloat-abi=${float}")
set(CMAKE_C_FLAGS_INIT "${flags}")
set(CMAKE_CXX_FLAGS_INIT
  "${flags} -fno-rtti -fno-exceptions -fno-threadsafe-statics")
set(CMAKE_EXE_LINKER_FLAGS_INIT
  "--specs=rdimon.specs -Wl,--gc-sections -Wl,--print-memory-usage")
