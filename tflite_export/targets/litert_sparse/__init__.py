"""ARM CPUs of phones, with XNNPACK's sparse kernels."""
