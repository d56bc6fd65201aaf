# m5.profile - M5 (H17s, family A16).

max_width = 65536          # source: measured, sbryngelson/ANEForge docs/developer/op-quirks.md
max_kernel_width = 15      # source: measured, ANEForge op-quirks.md
dialect_a = 1              # source: measured, maderix/ANE training/m5result.md
slice_clamp = 0            # source: measured exact on M5, ANEForge
conv3x3 = winograd         # source: fitted to a published error figure of M5 (ANEForge bench/results), see docs/NUMERICS.md

compile_ms = 11            # source: fitted to 60 kernels in 3200-3633 ms (maderix/ANE PR #48) and single convolutions of 11-14 ms (m5result.md), 25 % either way
op_ms = 0.9                # source: same fit
mib_ms = 5.5               # source: same fit
load_ms = 1.7              # source: measured, maderix/ANE training/m5result.md
floor_ms = 0.08            # source: measured, 0.06-0.11 ms, m5result.md
tflops = 6.1               # source: derived, forward pass of 9.1-9.8 ms, maderix/ANE benchmarks/community_results.json
gbytes_s = 57              # source: measured, ANEForge's cost anchor
busy = 1.15                # source: derived, between the figures of M1 Pro and M4
