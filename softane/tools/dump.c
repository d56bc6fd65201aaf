// SPDX-License-Identifier: MIT
/* dump.c - softane-dump: what the compiler makes of a MIL file.
 *
 *   program   operations with the types that were inferred
 *   plan      ports, then one line per step: what, from where, to where
 *   memory    which slot lies where in the workspace, and for how long
 *
 * Reads the inside of a plan (plan/steps.h); prints, changes nothing. */
#include "tool.h"

#include "../plan/steps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: softane-dump prog.mil [options]\n"
    "  --program --plan --memory   only these parts  [all]\n"
    "  --text                      the program as MIL text, normalised, and nothing else\n"
    "  --consts                    constants in the program part too\n"
    "  --function NAME             which function  [all]\n"
    "  --weights DIR|zeros         where weight files are; their values are not shown  [zeros]\n"
    "Exit status: 0, 1 = the program does not compile, 2 = wrong usage.\n";

typedef struct {
    const char *file, *function;
    Weights weights;
    bool program, plan, memory, text, consts;
} Options;

/* ============================== Program =================================== */

static void show_value(const SaValue *v) {
    const SaConst *c = v->constant;
    if (!c || !c->data || v->type.rank > 1 || sa_type_count(&v->type) > 4 || c->blob_path) {
        printf("%s", v->name ? v->name : "?");
        return;
    }
    if (v->type.dtype == SA_STRING) {
        printf("\"%s\"", c->string ? c->string : "");
        return;
    }
    printf(v->type.rank ? "[" : "");
    for (int64_t i = 0; i < sa_type_count(&v->type); i++)
        printf("%s%g", i ? "," : "", element_get(v->type.dtype, c->data, (size_t)i));
    printf(v->type.rank ? "]" : "");
}

static void show_const(const SaValue *v) {
    const SaConst *c = v->constant;
    if (c->string)
        printf("\"%s\"", c->string);
    else if (c->blob_path)
        printf("%s @ %llu, %zu bytes", c->blob_path, (unsigned long long)c->blob_offset, c->bytes);
    else if (sa_type_count(&v->type) <= 8 && c->data)
        for (int64_t i = 0; i < sa_type_count(&v->type); i++)
            printf("%s%g", i ? ", " : "", element_get(v->type.dtype, c->data, (size_t)i));
    else
        printf("%zu bytes in the text", c->bytes);
}

static void show_op(const SaOp *op, bool consts) {
    char type[200];
    bool is_const = op->id == SA_OP_CONST;
    if (is_const && !consts)
        return;
    for (int r = 0; r < op->n_results; r++) {
        sa_type_format(&op->results[r]->type, type, sizeof type);
        printf("%5d  %-16s %-32s ", r ? 0 : op->pos.line, op->results[r]->name, type);
        if (r)
            printf("(with the one above)\n");
    }
    printf("%s(", sa_op_name(op->id));
    if (is_const && op->results[0]->constant)
        show_const(op->results[0]);
    for (int a = 0; a < op->n_args && !is_const; a++) {
        const SaArg *arg = &op->args[a];
        printf("%s%s=%s", a ? ", " : "", arg->key, arg->is_tuple ? "(" : "");
        for (int v = 0; v < arg->count; v++) {
            printf(v ? ", " : "");
            show_value(arg->values[v]);
        }
        printf(arg->is_tuple ? ")" : "");
    }
    printf(")\n");
}

static void show_function(const SaFunction *f, bool consts) {
    char type[200];
    printf("function %s<%s>: %d operations\n", f->name, f->target ? f->target : "", f->n_ops);
    printf(" line  name             type                             operation\n");
    for (int i = 0; i < f->n_params; i++) {
        sa_type_format(&f->params[i]->type, type, sizeof type);
        printf("%5d  %-16s %-32s parameter\n", f->params[i]->pos.line, f->params[i]->name, type);
    }
    for (int i = 0; i < f->n_ops; i++)
        show_op(&f->ops[i], consts);
    printf("    -> ");
    for (int i = 0; i < f->n_outputs; i++)
        printf("%s%s", i ? ", " : "", f->outputs[i]->name);
    printf("\n\n");
}

/* ============================== Plan ====================================== */

static const char *const kinds[] = {
    [SA_STEP_ELEM] = "elementwise", [SA_STEP_GEMM] = "product", [SA_STEP_PATCHES] = "patches",
    [SA_STEP_DIRECT] = "direct conv", [SA_STEP_REDUCE] = "reduce", [SA_STEP_SOFTMAX] = "softmax",
    [SA_STEP_NORM] = "norm", [SA_STEP_COPY] = "copy", [SA_STEP_FILL] = "fill", [SA_STEP_GATHER] = "gather",
};

#define NAME(id) #id,
static const char *const unary_names[] = {SA_UNARY(NAME)};
static const char *const binary_names[] = {SA_BINARY(NAME)};

static const char *kind_name(SaStepKind k) {
    size_t n = sizeof kinds / sizeof kinds[0];
    return (size_t)k < n && kinds[k] ? kinds[k] : "step";
}

/* "s3+1024": byte 1024 of slot 3, or "const". */
static void show_ref(SaRef r) {
    if (r.fixed)
        printf("const");
    else
        printf("s%d+%zu", r.slot, r.offset);
}

static void show_dims(const size_t *dim, int rank) {
    for (int i = 0; i < rank; i++)
        printf("%s%zu", i ? "x" : "", dim[i]);
    if (rank == 0)
        printf("1");
}

static void show_detail(const SaStep *s) {
    switch (s->kind) {
    case SA_STEP_ELEM: {
        const SaElem *e = &s->u.elem;
        const char *name = e->form == SA_ELEM_UNARY ? unary_names[e->op] : e->form == SA_ELEM_BINARY ? binary_names[e->op] : "SELECT";
        printf("%s ", name);
        show_dims(e->dim, e->rank);
        break;
    }
    case SA_STEP_GEMM:
        printf("%zux%zux%zu%s%s", s->u.gemm.g.m, s->u.gemm.g.n, s->u.gemm.g.k, s->u.gemm.g.ta ? " ta" : "",
               s->u.gemm.g.tb ? " tb" : "");
        if (s->u.gemm.half != SA_HALF_NONE)
            printf(", %c kept as fp16", s->u.gemm.half == SA_HALF_A ? 'A' : 'B');
        if (s->u.gemm.batches > 1)
            printf(" x %zu", s->u.gemm.batches);
        if (s->u.gemm.bias != SA_BIAS_NONE)
            printf(" + bias");
        break;
    case SA_STEP_PATCHES:
    case SA_STEP_DIRECT:
        printf("%zu -> %zu channels, kernel ", s->u.conv.c_in, s->u.conv.c_out);
        show_dims(s->u.conv.kernel, 3);
        if (s->u.conv.groups > 1)
            printf(", %zu groups", s->u.conv.groups);
        break;
    case SA_STEP_REDUCE:
    case SA_STEP_SOFTMAX:
    case SA_STEP_NORM:
        printf("%zu x [%zu] x %zu", s->u.reduce.outer, s->u.reduce.len, s->u.reduce.inner);
        break;
    case SA_STEP_COPY:
        show_dims(s->u.copy.dim, s->u.copy.rank);
        break;
    case SA_STEP_FILL:
        printf("with %g", (double)s->u.fill);
        break;
    case SA_STEP_GATHER:
        printf("%zu of %zu", s->u.gather.count, s->u.gather.axis);
        break;
    default:
        break;
    }
}

/* What a pass keeps in a register is no memory. */
static void show_place(SaRef r, int reg) {
    if (reg)
        printf("r%d", reg);
    else
        show_ref(r);
}

/* `|` joins the steps of one pass over memory. */
static void show_step(const SaStep *s, int i) {
    printf("%5d %c%-12s ", i, s->pass == 1 ? ' ' : '|', kind_name(s->kind));
    show_place(s->out, s->out_reg);
    printf(" [%zu] <- ", s->count);
    for (int k = 0; k < s->n_in; k++) {
        printf(k ? ", " : "");
        show_place(s->in[k], s->in_reg[k]);
    }
    if (s->scratch.slot >= 0 && !s->scratch.fixed) {
        printf(" with ");
        show_ref(s->scratch);
    }
    printf("   ");
    show_detail(s);
    printf(s->store == SA_STORE_EXACT ? "\n" : s->store == SA_STORE_HALF ? "  -> fp16\n" : "  -> fp16, product\n");
}

static void show_port(const char *role, int i, const SaPort *p, SaRef at) {
    char type[200];
    sa_type_format(&p->type, type, sizeof type);
    printf("%-6s %d  %-16s %-32s row %zu plane %zu, surface >= %zu bytes, at ", role, i, p->name, type, p->row_stride,
           p->plane_stride, p->bytes);
    show_ref(at);
    printf("\n");
}

static void show_plan(const SaPlan *plan, const SaProc *p) {
    int passes = 0;
    for (int i = 0; i < p->n_steps; i++)
        passes += p->steps[i].pass != 0;
    printf("plan of %s: %d steps in %d passes, %.6g MFLOP in products\n", p->name, p->n_steps, passes, p->flops / 1e6);
    for (int i = 0; i < p->n_inputs; i++)
        show_port("input", i, &p->inputs[i], p->in_ref[i]);
    for (int i = 0; i < p->n_outputs; i++)
        show_port("output", i, &p->outputs[i], p->out_ref[i]);
    printf(" step  what         to [elements] <- from (slot+byte in the workspace)\n");
    for (int i = 0; i < p->n_steps; i++)
        show_step(&p->steps[i], i);
    printf("workspace %zu bytes, weights and tables %zu bytes\n\n", plan->workspace, plan->bytes);
}

/* ============================== Memory ==================================== */

/* What is seen of a slot: the bytes its users name, the steps they are. */
typedef struct {
    size_t from, to;
    int first, last; /* steps; -1 = loaded before, n_steps = stored after */
    bool used;
    const char *port;
} Span;

typedef struct {
    Span *span;
    int n;
} Spans;

static void see(Spans *all, SaRef r, size_t count, int step, const char *port) {
    if (r.fixed || r.slot < 0 || r.slot >= all->n)
        return;
    Span *s = &all->span[r.slot];
    size_t end = r.offset + count * sizeof(float);
    if (!s->used)
        *s = (Span){.from = r.offset, .to = end, .first = step, .last = step, .used = true};
    s->from = r.offset < s->from ? r.offset : s->from;
    s->to = end > s->to ? end : s->to;
    s->first = step < s->first ? step : s->first;
    s->last = step > s->last ? step : s->last;
    s->port = port ? port : s->port;
}

static int slots_of(const SaProc *p) {
    int most = -1;
    for (int i = 0; i < p->n_steps; i++) {
        const SaStep *s = &p->steps[i];
        int own[] = {s->out.slot, s->scratch.slot, s->in[0].slot, s->in[1].slot, s->in[2].slot};
        for (int k = 0; k < 5; k++)
            most = own[k] > most ? own[k] : most;
    }
    for (int i = 0; i < p->n_inputs; i++)
        most = p->in_ref[i].slot > most ? p->in_ref[i].slot : most;
    for (int i = 0; i < p->n_outputs; i++)
        most = p->out_ref[i].slot > most ? p->out_ref[i].slot : most;
    return most + 1;
}

static void find_spans(const SaProc *p, Spans *all) {
    for (int i = 0; i < p->n_inputs; i++)
        see(all, p->in_ref[i], (size_t)sa_type_count(&p->inputs[i].type), -1, p->inputs[i].name);
    for (int i = 0; i < p->n_steps; i++) {
        const SaStep *s = &p->steps[i];
        if (!s->out_reg)
            see(all, s->out, s->count, i, NULL);
        see(all, s->scratch, 0, i, NULL);
        for (int k = 0; k < s->n_in; k++)
            if (!s->in_reg[k])
                see(all, s->in[k], 0, i, NULL);
    }
    for (int i = 0; i < p->n_outputs; i++)
        see(all, p->out_ref[i], (size_t)sa_type_count(&p->outputs[i].type), p->n_steps, p->outputs[i].name);
}

enum { BAR = 40 };

static void show_memory(const SaProc *p) {
    Spans all = {.n = slots_of(p)};
    all.span = calloc((size_t)all.n + 1, sizeof *all.span);
    if (!all.span)
        return;
    find_spans(p, &all);
    printf("memory of %s: slots of the workspace, over the steps\n", p->name);
    printf(" slot      from        to     steps  %-*s\n", BAR, "life");
    for (int i = 0; i < all.n; i++) {
        const Span *s = &all.span[i];
        char bar[BAR + 1];
        if (!s->used)
            continue;
        for (int k = 0; k < BAR; k++) {
            double step = (double)k / BAR * (p->n_steps + 1) - 0.5; /* -1 … n_steps */
            bar[k] = step >= s->first - 0.5 && step <= s->last + 0.5 ? '#' : '.';
        }
        bar[BAR] = 0;
        char first[16] = "in", last[16] = "out";
        if (s->first >= 0)
            snprintf(first, sizeof first, "%d", s->first);
        if (s->last < p->n_steps)
            snprintf(last, sizeof last, s->last < 0 ? "in" : "%d", s->last);
        printf("%5d %9zu %9zu %5s-%-4s %s%s%s\n", i, s->from, s->to, first, last, bar, s->port ? "  " : "",
               s->port ? s->port : "");
    }
    printf("\n");
    free(all.span);
}

/* ============================== Main ====================================== */

static bool read_options(int argc, char **argv, Options *o) {
    for (int i = 1; i < argc; i++) {
        const char *v = NULL;
        struct stat st;
        bool ok = true;
        if (option(argc, argv, &i, "--weights", &v)) {
            ok = v != NULL;
            if (ok && strcmp(v, "zeros") != 0) {
                o->weights.all = NULL;
                o->weights.directory = v;
                ok = stat(v, &st) == 0 && S_ISDIR(st.st_mode);
                if (!ok)
                    complain("--weights %s: there is no such directory", v);
            }
        } else if (option(argc, argv, &i, "--function", &v)) {
            ok = (o->function = v) != NULL;
        } else if (strcmp(argv[i], "--program") == 0) {
            o->program = true;
        } else if (strcmp(argv[i], "--plan") == 0) {
            o->plan = true;
        } else if (strcmp(argv[i], "--memory") == 0) {
            o->memory = true;
        } else if (strcmp(argv[i], "--text") == 0) {
            o->text = true;
        } else if (strcmp(argv[i], "--consts") == 0) {
            o->consts = true;
        } else if (argv[i][0] == '-' && argv[i][1]) {
            complain("unknown option '%s'", argv[i]);
            ok = false;
        } else if (o->file) {
            complain("one program at a time: '%s' or '%s'?", o->file, argv[i]);
            ok = false;
        } else {
            o->file = argv[i];
        }
        if (!ok)
            return false;
    }
    if (!o->file)
        complain("which program?");
    if (!o->program && !o->plan && !o->memory)
        o->program = o->plan = o->memory = true;
    return o->file != NULL;
}

static bool show_text(const Source *s) {
    char *text;
    if (sa_program_print(s->program, &text) != SA_OK) {
        complain("out of memory");
        return false;
    }
    fputs(text, stdout);
    sa_free(text);
    return true;
}

/* Program first: what does not become a plan can still be looked at. */
static bool show_all(const Options *o, Source *s) {
    int only = o->function ? source_function(s, o->function) : -1;
    SaPlan *plan = NULL;
    SaError err = {.code = SA_OK};
    if (o->function && only < 0)
        return false;
    if (o->text)
        return show_text(s);
    for (int i = 0; o->program && i < s->program->n_functions; i++)
        if (only < 0 || only == i)
            show_function(&s->program->functions[i], o->consts);
    if (!o->plan && !o->memory)
        return true;
    fflush(stdout);
    if (!weights_bind(s, &o->weights, NULL))
        return false;
    err.code = sa_plan_build(s->program, &plan, &err);
    if (err.code != SA_OK) {
        source_complain(s, &err);
        return false;
    }
    for (int i = 0; i < plan->n_procs; i++) {
        if (only >= 0 && only != i)
            continue;
        if (o->plan)
            show_plan(plan, &plan->procs[i]);
        if (o->memory)
            show_memory(&plan->procs[i]);
    }
    sa_plan_free(plan);
    return true;
}

int main(int argc, char **argv) {
    Options o = {.weights = {.all = "zeros"}};
    tool = "softane-dump";
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return EXIT_GOOD;
        }
    if (!read_options(argc, argv, &o)) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    Source s;
    bool ok = source_open(&s, o.file) && show_all(&o, &s);
    source_free(&s);
    return ok ? EXIT_GOOD : EXIT_BAD;
}
