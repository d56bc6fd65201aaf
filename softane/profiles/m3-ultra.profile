# m3-ultra.profile - M3 Ultra, one of its two engines (H15, family A15).

max_width = 16384          # source: measured through family A15, sbryngelson/ANEForge docs/developer/op-quirks.md
dialect_a = 1              # source: measured, maderix/ANE kernels on M3 Ultra (dev-erik/ANE benchmarks)
slice_clamp = 4094         # source: expected for family A15, not measured there; ANEForge measured A13 and A14

compile_ms = 20            # source: fitted to 60 kernels in 3684-3861 ms, dev-erik/ANE benchmarks, 25 % either way
op_ms = 0.7                # source: same fit
mib_ms = 5.6               # source: same fit
load_ms = 2                # source: measured on M3 Pro 1.3-1.7 ms, AmiraniLabs/libane docs/warmpath-tiers.md, rounded up
floor_ms = 0.15            # source: derived from the forward pass, dev-erik/ANE benchmarks
tflops = 5.8               # source: derived, forward pass of 10-15.9 ms gives 4.5-7.2; the middle
gbytes_s = 40              # source: derived, as m1
busy = 1.13                # source: as m1, no data
