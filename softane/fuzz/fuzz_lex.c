// SPDX-License-Identifier: MIT
/* fuzz_lex.c - tokens lie inside the text, one behind the other, and end. */
#include "fuzz_common.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data, *last = text;
    SaError err = {0};
    SaLexer lx = {.p = text, .end = text + size, .line_start = text, .line = 1, .err = &err};
    for (size_t n = 0;; n++) {
        SaStatus st = sa_lex_next(&lx);
        if (st != SA_OK) {
            PROMISE(err.code == st && err.text[0] && err.pos.line > 0 && err.pos.col > 0);
            return 0;
        }
        char name[64];
        sa_token_format(&lx.tok, name, sizeof name);
        PROMISE(lx.tok.pos.line > 0 && lx.tok.pos.col > 0 && strlen(name) < sizeof name);
        if (lx.tok.kind == SA_TOK_EOF)
            return 0;
        PROMISE(lx.tok.at >= last && lx.tok.at + lx.tok.length <= text + size);
        PROMISE(n <= size); /* every token takes something */
        last = lx.tok.at + lx.tok.length;
    }
}
