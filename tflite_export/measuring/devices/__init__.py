"""What `benchmark` measures, one file for each kind of device.

`host`: the time of an inference on this machine. `emulated_arm`: instructions
on an AArch64 CPU under QEMU. `compiled`: what Vela and the runtime for
microcontrollers say. `android`: an attached phone. `coral`: an Edge TPU.
`records`: what all of them return.
"""
