# m4-pro.profile - M4 Pro (H16, family A16).

max_width = 65536          # source: measured on M4, sbryngelson/ANEForge docs/developer/op-quirks.md
max_kernel_width = 15      # source: measured on M4, ANEForge op-quirks.md
dialect_a = 1              # source: measured, maderix/ANE #26
slice_clamp = 0            # source: measured exact on M4, ANEForge

compile_ms = 22            # source: fitted to 60 kernels in 3465 ms, maderix/ANE benchmarks/community_results.json, 25 % either way
op_ms = 0.75               # source: same fit
mib_ms = 4.3               # source: same fit
load_ms = 1.8              # source: as m4
floor_ms = 0.12            # source: as m4
tflops = 7.6               # source: derived, forward pass of 8.9 ms, community_results.json
gbytes_s = 80              # source: as m4
busy = 1.19                # source: as m4
