// SPDX-License-Identifier: MIT
/* Metal/Metal.h - says what is the matter instead of "file not found". */
#error "softane has no Metal: this program cannot be built here, or only without the parts that use it"
