# default.profile - what holds where no chip is named: the largest limits seen to
# work on some machine, the behaviour most sources agree on, no quirk that only one
# chip has. Every other profile names only what differs from this one.
#
#   key = value   # source: where the value comes from
#
# "measured" = on a Mac, by the source named; "listing" = read from a listing of the
# framework; "choice" = sources disagree or are silent, and this is what softane does.
# Every key is a setting of the same name (softane.h), and a setting overrides it.

# ---- limits of the compiler ----
max_dim = 65536            # source: measured, sbryngelson/ANEForge docs/developer/op-quirks.md; maderix/ANE #26
max_width = 65536          # source: measured on M4 and M5, ANEForge op-quirks.md
max_conv_in = 31999        # source: measured, maderix/ANE training/ane_classifier.h: 32000 input channels are refused; the number between is not known
max_kernel_width = 15      # source: measured on M4 and M5, ANEForge op-quirks.md
dialect_a = 1              # source: measured, maderix/ANE training kernels
dialect_b = 1              # source: measured, what coremltools writes (program 1.3, ios18)
reduce_zero_fails = 1      # source: measured, ANEForge op-quirks.md: a reduction times an exact 0 does not compile
single_op_fails = 0        # source: choice; jafreck/ironmill (M3 Pro) saw reshape, slice_by_index and tile refused when alone
blobs = refuse             # source: choice; macOS reads what lies there (measured, mechramc/Orion #8: offset 128), M1 refuses some wrong sizes (maderix/ANE benchmarks)

# ---- limits of a process ----
compile_limit = 119        # source: measured, maderix/ANE README and PR #23 (119-132 on M4); others passed 169 (maderix/ANE #26)
compile_limit_mode = refuse # source: choice; AmiraniLabs/libane saw silent failures and then SIGSEGV
loaded_limit = 128         # source: measured, ANEForge; 126 (M5 Max notes) and 121 (jundot/omlx) elsewhere
loaded_bytes = 4294967296  # source: measured, jundot/omlx docs/experimental/qwen35_ane_prefill.md: about 4 GiB per instance
program_bytes = 2147483648 # source: measured, ANEForge docs/roadmap.md: about 2 GB compiled

# ---- requests ----
order = name               # source: measured, mechramc/Orion (all permutations of three inputs, M4 Max) and six more
procedures = correct       # source: measured, thebasedcapital/ane-infer (M5), jundot/omlx (M3 Ultra)
width_rule = stride        # source: measured, vMLX: rows are padded to 64 bytes; some reports say such programs fail instead
thin_channels = 0          # source: choice; jafreck/ironmill (M3 Pro) saw 800 channels of one column fail with 0x1d and 768 work
staging_evals = off        # source: choice; ddalcu/mlx-serve measured one good evaluation after staging was deleted
after_unload = notfound    # source: choice between code 23 and no error object; nobody has published it
async_wait_ms = 10000      # source: listing of _ANEProgramForEvaluation
direct_limit = 2           # source: listing of _ANEClient: two direct evaluations in flight per queue index
direct_wait_ms = 30000     # source: listing of _ANEClient

# ---- the daemon ----
unload_purges = 0          # source: measured, m0at/ANEtransformers, jundot/omlx, ddalcu/mlx-serve: entries survive; libane saw them purged
realtime = allow           # source: measured on M4 and M5, maderix/ANE training/m5result.md; the listing refuses without entitlement
qos_overlap = 1            # source: choice; the client has one serial queue per level (listing), two compiles at once were never measured

# ---- numerics ----
numerics = fast            # source: choice; fp16 storage, fp32 accumulation
conv3x3 = direct           # source: fitted to published error figures of M1, M2 Pro and M4 (ANEForge bench/results)
dot_limit = 32768          # source: measured on six chips, ANEForge docs/developer/numerics.md: larger results of products become inf
slice_clamp = 0            # source: measured, ANEForge: exact on M4 and M5
sdpa_mask = ignore         # source: measured, maderix/ANE test_ane_sdpa5.m; ANEForge finds masks honoured within limits
subnormals = keep          # source: choice; imperatormk/ane-train claims a flush, nobody has published a measurement
tables = exact             # source: choice; errors of the lookup tables are published (ironmill), the tables are not

# ---- timing: used with timing=on or timing=<chip> ----
compile_ms = 22            # source: as m4
op_ms = 0.75               # source: as m4
mib_ms = 3.9               # source: as m4
first_compile = 1.75       # source: measured, a process's first compile takes 1.5 to 2 times as long; the middle
parallel_compile = 1       # source: choice; never measured
load_ms = 1.8              # source: as m4
unload_ms = 0.5            # source: measured on M5, maderix/ANE training/m5result.md
floor_ms = 0.12            # source: as m4
tflops = 6.8               # source: as m4
gbytes_s = 80              # source: as m4
busy = 1.19                # source: as m4
