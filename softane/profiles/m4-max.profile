# m4-max.profile - M4 Max (H16, family A16).

max_width = 65536          # source: measured on M4, sbryngelson/ANEForge docs/developer/op-quirks.md
max_kernel_width = 15      # source: measured on M4, ANEForge op-quirks.md
dialect_a = 1              # source: measured, mechramc/Orion; dev-erik/ANE
slice_clamp = 0            # source: measured exact on M4, ANEForge

compile_ms = 22            # source: fitted to 60 kernels in 3531 ms, maderix/ANE benchmarks/community_results.json, 25 % either way
op_ms = 0.9                # source: same fit
mib_ms = 3.9               # source: same fit
load_ms = 1.8              # source: as m4
floor_ms = 0.15            # source: derived; 0.09-0.23 ms measured, dev-erik/ANE docs/ANE_CHAINING_RESEARCH.md
tflops = 7.0               # source: derived, forward pass of 10.2 ms, community_results.json
gbytes_s = 80              # source: measured, 70-95 GB/s away from 4096 channels, dev-erik/ANE docs/BENCHMARK_RESULTS.md
busy = 1.19                # source: as m4
