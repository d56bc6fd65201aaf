# m2.profile - M2 family (H14, family A14). Nobody has published compile times: they
# are interpolated between M1 and M3.

max_width = 16384          # source: measured through family A15, sbryngelson/ANEForge docs/developer/op-quirks.md
dialect_a = 0              # source: measured, fails for several users (rustane #11 and others)
slice_clamp = 4094         # source: measured on M2 Pro, ANEForge

compile_ms = 10            # source: interpolated, no data
op_ms = 2.0                # source: interpolated, no data
mib_ms = 9                 # source: interpolated, no data
load_ms = 3                # source: interpolated, no data
floor_ms = 0.15            # source: interpolated; ANEForge's cost anchor for M2 Pro is 0.10
tflops = 3                 # source: interpolated; ANEForge measured 3.4-7.3 at its best
gbytes_s = 40              # source: derived, as m1; ANEForge's anchor for M2 Pro is 48
busy = 1.13                # source: as m1
