// SPDX-License-Identifier: MIT
/* test_opdoc.c - generated files are what the table of operations says now, and
 * the table says something about every operation. */
#define main generator_main
#include "../tools/gen_ops.c"
#undef main

#include <stdlib.h>

static int passed, failed;

static void check(bool good, const char *name, const char *property) {
    if (good) {
        passed++;
        return;
    }
    failed++;
    fprintf(stderr, "test_opdoc.c: %s: %s\n", name, property);
}

/* ============================== Drift ===================================== */

/* The file beside this one's directory holds exactly what `put` prints. */
static void check_file(const char *relative, void (*put)(FILE *)) {
    char path[1024], *made = NULL, *kept = NULL;
    size_t n = 0, m = 0;
    const char *slash = strrchr(__FILE__, '/');
    snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - __FILE__) + 1 : 0, __FILE__, relative);
    FILE *memory = open_memstream(&made, &n), *f = fopen(path, "rb");
    if (memory) {
        put(memory);
        fclose(memory);
    }
    kept = malloc(n + 2);
    if (f && kept)
        m = fread(kept, 1, n + 2, f);
    if (f)
        fclose(f);
    check(made && kept && n == m && memcmp(made, kept, n) == 0, relative, "has drifted; run softane/tools/gen_ops.py");
    free(made);
    free(kept);
}

/* ============================== Table ===================================== */

static void check_row(SaOpId id) {
    const SaOpSpec *s = sa_op_spec(id);
    const char *name = sa_op_name(id);
    check(s != NULL, name, "has no row");
    if (!s)
        return;
    check(s->group && s->doc && s->shape && s->source, name, "is not documented");
    check(s->doc && s->doc[0] && s->doc[strlen(s->doc) - 1] != '.', name, "documentation ends in a full stop of its own");
    check(s->source && s->source[0] == '[', name, "evidence has no grade");
    check(!sa_op_refused(name), name, "is in both tables");
    for (int i = 0; i < SA_MAX_OPERANDS && s->operands[i].key; i++) {
        const SaOperandSpec *o = &s->operands[i];
        bool tensor = o->kind == SA_ARG_TENSOR || o->kind == SA_ARG_CONST || o->kind == SA_ARG_TUPLE || o->kind == SA_ARG_NUMBER;
        check(o->kind != SA_ARG_NONE && tensor == (o->dtypes != 0), o->key, "dtypes belong to tensors and numbers");
        check(o->kind != SA_ARG_REFUSED || o->hint, o->key, "is refused without a reason");
        check(!o->required || !o->absent, o->key, "is needed and has a default");
        for (int k = 0; k < i; k++)
            check(strcmp(s->operands[k].key, o->key) != 0, o->key, "is listed twice");
    }
    SaOpId found;
    check(sa_op_lookup(name, &found) && found == id, name, "is not found by its name");
}

int main(void) {
    check_file("../../docs/OPS.md", put_reference);
    check_file("../fuzz/mil.dict", put_dictionary);
    for (int i = 1; i < SA_OP_COUNT; i++)
        check_row((SaOpId)i);
    for (int i = 0; sa_op_refused_at(i); i++)
        check(sa_op_refused_at(i)->source[0] == '[', sa_op_refused_at(i)->name, "evidence has no grade");
    printf("test_opdoc: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
