# m1.profile - M1, M1 Pro and M1 Max (H13, family A13). Times are those of Pro and Max.

max_width = 16384          # source: measured through family A15, sbryngelson/ANEForge docs/developer/op-quirks.md; ncdrone/rustane #13
max_kernel_width = 13      # source: measured on M1, ANEForge op-quirks.md
dialect_a = 1              # source: measured, training kernels run on M1 Pro and Max, maderix/ANE PR #6; others needed dialect B
slice_clamp = 4094         # source: measured on M1, M1 Max and M2 Pro, ANEForge: beyond it a last-axis slice gives inf

compile_ms = 0             # source: fitted to 60 kernels (7.1-8.5 s, maderix/ANE benchmarks/community_results.json) and two fused forwards (#24), 25 % either way
op_ms = 3.4                # source: same fit
mib_ms = 15                # source: same fit
load_ms = 4                # source: measured reloads of 3.8-4 ms, the upper end taken for the oldest chip
floor_ms = 0.2             # source: measured 0.18-0.22 ms, ANEForge bench
tflops = 1.6               # source: derived, forward pass of 32-35 ms, maderix/ANE benchmarks/community_results.json
gbytes_s = 40              # source: derived, a 4096 x 4096 product in 0.8 ms
busy = 1.13                # source: measured on M1 Pro, maderix/ANE #24: 0.337 -> 0.381 ms during compiles
