// SPDX-License-Identifier: MIT
/* CoreML/CoreML.h - says what is the matter instead of "file not found". */
#error "softane has no CoreML: this program cannot be built here, or only without the parts that use it"
