# m4.profile - M4 (H16, family A16).

max_width = 65536          # source: measured, sbryngelson/ANEForge docs/developer/op-quirks.md
max_kernel_width = 15      # source: measured, ANEForge op-quirks.md
dialect_a = 1              # source: measured, maderix/ANE training kernels
slice_clamp = 0            # source: measured exact on M4, ANEForge

compile_ms = 22            # source: fitted to 60 kernels in 3248-3385 ms (maderix/ANE #3) and single convolutions of 23-29 ms (PR #23), 25 % either way
op_ms = 0.75               # source: same fit
mib_ms = 3.9               # source: same fit
load_ms = 1.8              # source: derived, loads of 1.7 ms on M5, maderix/ANE training/m5result.md
floor_ms = 0.12            # source: derived; 0.189 ms measured with a convolution, maderix/ANE PR #23
tflops = 6.8               # source: derived, forward pass of 9.6 ms, maderix/ANE #3
gbytes_s = 80              # source: measured, streaming of weights at 70-95 GB/s, dev-erik/ANE docs/BENCHMARK_RESULTS.md
busy = 1.19                # source: measured, maderix/ANE PR #23: 0.189 -> 0.225 ms while compiling
