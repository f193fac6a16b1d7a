// Starts a program on an MPS2 board: memory, FPU, C library, `main`.

#include <cstdint>
#include <cstdlib>

extern "C" {

extern std::uint32_t data_load[], data_start[], data_end[];
extern std::uint32_t bss_start[], bss_end[], stack_top[];

int main();
void __libc_init_array();
void initialise_monitor_handles();

// Of the startup files that this one replaces.
void _init() {}
void _fini() {}

[[noreturn]] void Reset() {
  std::uint32_t* from = data_load;
  for (std::uint32_t* to = data_start; to < data_end;) *to++ = *from++;
  for (std::uint32_t* to = bss_start; to < bss_end;) *to++ = 0;
#if defined(__ARM_FP)
  // CPACR: full access to the FPU.
  *reinterpret_cast<volatile std::uint32_t*>(0xE000ED88) |= 0xFu << 20;
  __asm volatile("dsb\n isb");
#endif
  initialise_monitor_handles();
  __libc_init_array();
  std::exit(main());
}

[[noreturn]] void Fault() {
  // Anything but the end of the program: an emulator stops by its time limit.
  std::abort();
}

}  // extern "C"

namespace {

using Vector = void (*)();

struct Vectors {
  std::uint32_t* stack;
  Vector handlers[15];
};

[[gnu::section(".vectors"), gnu::used]] const Vectors vectors = {
    stack_top,
    {Reset, Fault, Fault, Fault, Fault, Fault, nullptr, nullptr, nullptr,
     nullptr, Fault, Fault, nullptr, Fault, Fault}};

}  // namespace
