"""What fewer channels save on each device: networks before and after.

    python benchmarks channel_latency

Random weights, plain int8 files: the kernels see only the widths. A53 and A76
are instructions under QEMU (needs `make arm`), Ethos-U cycles are Vela's model
of the hardware, the arena is that of TensorFlow Lite Micro.
"""

SEED = 0
NUM_SAMPLES = 32
TARGETS = ("litert", "tflm", "ethos-u55-128", "ethos-u85-256")
# Title, device, result, divisor and digits of each column.
MEASURES = (
    ("A53, M", "cortex-a53", "instructions", 1e6, 2),
    ("A76, M", "cortex-a76", "instructions", 1e6, 2),
    ("U55-128, k cycles", "ethos-u55-128", "cycles", 1e3, 1),
    ("U85-256, k cycles", "ethos-u85-256", "cycles", 1e3, 1),
    ("arena, kB", "tflm", "arena_bytes", 1e3, 1),
    ("U55 SRAM, kB", "ethos-u55-128", "sram_bytes", 1e3, 1),
)
COLUMNS = ("network", "MACs, M", *(m[0] for m in MEASURES), "bytes")
