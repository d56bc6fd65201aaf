// SPDX-License-Identifier: MIT
/* run.c - softane-run: compile a MIL file, evaluate it, show what came out.
 *
 * Uses the compiler and the executor directly: no limits on compiles, no
 * timing model, no staging directory. The arithmetic is the engine's. */
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_GIVEN 256

static const char usage[] =
    "usage: softane-run prog.mil [options]\n"
    "  --weights DIR            directory that stands for @model_path  [that of prog.mil]\n"
    "  --weights zeros|random   make up every weight file\n"
    "  --weights NAME=VALUE     one weight file: x.npy, zeros or random\n"
    "  --input NAME=VALUE       x.npy, random, zeros, ones or range  [random]\n"
    "  --output-dir DIR         write each output as DIR/NAME.npy\n"
    "  --function NAME          which function  [the first]\n"
    "  --numerics fast|ieee     rounding, see docs/NUMERICS.md  [fast]\n"
    "  --threads N              0 = all processors  [0]\n"
    "  --repeat N               evaluate N times, show the times  [1]\n"
    "  --seed N                 of what is random  [0]\n"
    "Exit status: 0, 1 = the program does not compile or a file is bad, 2 = wrong usage.\n";

typedef struct {
    const char *file, *output_dir, *function;
    Weights weights;
    Given weight[MAX_GIVEN], input[MAX_GIVEN];
    int n_inputs;
    SaRunOptions run;
    long repeat;
} Options;

/* ============================== Options =================================== */

/* "NAME=VALUE" -> list. The text is cut in place. */
static bool add_given(const char *option_name, const char *text, Given *list, int *n) {
    char *copy = strdup(text), *eq = copy ? strchr(copy, '=') : NULL;
    if (!eq || eq == copy || !eq[1] || *n == MAX_GIVEN) {
        complain("%s wants NAME=VALUE, not '%s'", option_name, text);
        free(copy);
        return false;
    }
    *eq = 0;
    for (int i = 0; i < *n; i++)
        if (strcmp(list[i].name, copy) == 0) {
            complain("%s %s is given twice", option_name, copy);
            free(copy);
            return false;
        }
    list[(*n)++] = (Given){copy, eq + 1}; /* lives as long as the program */
    return true;
}

static bool add_weights(Options *o, const char *text) {
    struct stat st;
    if (strcmp(text, "zeros") == 0 || strcmp(text, "random") == 0) {
        o->weights.all = text;
        return true;
    }
    if (stat(text, &st) == 0 && S_ISDIR(st.st_mode)) {
        o->weights.directory = text;
        return true;
    }
    if (!strchr(text, '=')) {
        complain("--weights %s: there is no such directory", text);
        return false;
    }
    return add_given("--weights", text, o->weight, &o->weights.n_given);
}

static bool numerics(const char *text, SaNumerics *out) {
    if (strcmp(text, "fast") != 0 && strcmp(text, "ieee") != 0) {
        complain("--numerics wants fast or ieee, not '%s'", text);
        return false;
    }
    *out = text[0] == 'f' ? SA_NUMERICS_FAST : SA_NUMERICS_IEEE;
    return true;
}

/* True when the command line is good. */
static bool read_options(int argc, char **argv, Options *o) {
    for (int i = 1; i < argc; i++) {
        const char *v = NULL;
        long n;
        bool ok = true;
        if (option(argc, argv, &i, "--weights", &v))
            ok = v && add_weights(o, v);
        else if (option(argc, argv, &i, "--input", &v))
            ok = v && add_given("--input", v, o->input, &o->n_inputs);
        else if (option(argc, argv, &i, "--output-dir", &v))
            ok = (o->output_dir = v) != NULL;
        else if (option(argc, argv, &i, "--function", &v))
            ok = (o->function = v) != NULL;
        else if (option(argc, argv, &i, "--numerics", &v))
            ok = v && numerics(v, &o->run.numerics);
        else if (option(argc, argv, &i, "--threads", &v)) {
            ok = v && number("--threads", v, 0, 1024, &n);
            o->run.threads = ok ? (int)n : 0;
        } else if (option(argc, argv, &i, "--repeat", &v)) {
            ok = v && number("--repeat", v, 1, 1000000000, &o->repeat);
        } else if (option(argc, argv, &i, "--seed", &v)) {
            ok = v && number("--seed", v, 0, 0x7fffffffffffffff, &n);
            o->weights.seed = ok ? (uint64_t)n : 0;
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
    o->weights.given = o->weight;
    return o->file != NULL;
}

/* ============================== Ports ===================================== */

/* A port and its surface, and the same numbers without gaps. */
typedef struct {
    const SaPort *port;
    void *surface, *dense;
    size_t count;
} Buffer;

static bool buffer_make(Buffer *b, const SaPort *port) {
    b->port = port;
    b->count = (size_t)sa_type_count(&port->type);
    b->surface = sa_malloc(port->bytes);
    b->dense = sa_malloc(b->count * sa_dtype_bytes(port->type.dtype));
    if (b->surface && b->dense)
        return true;
    complain("%s: out of memory", port->name);
    return false;
}

static void buffer_free(Buffer *b) {
    sa_free(b->surface);
    sa_free(b->dense);
}

/* Between the dense array and the rows of the surface. */
static void buffer_copy(Buffer *b, bool to_surface) {
    const SaPort *p = b->port;
    size_t size = sa_dtype_bytes(p->type.dtype), row = (size_t)p->w * size;
    char *d = b->dense, *s = b->surface;
    for (int64_t n = 0; n < p->n; n++)
        for (int64_t c = 0; c < p->c; c++)
            for (int64_t h = 0; h < p->h; h++, d += row) {
                char *at = s + (size_t)n * p->batch_stride + (size_t)c * p->plane_stride + (size_t)h * p->row_stride;
                memcpy(to_surface ? at : d, to_surface ? d : at, row);
            }
}

static bool fill_input(Buffer *b, const char *kind, uint64_t seed) {
    const SaPort *p = b->port;
    SaDtype t = p->type.dtype;
    if (strcmp(kind, "random") == 0) {
        Random r = random_start(seed, p->name);
        for (size_t i = 0; i < b->count; i++)
            element_put(t, b->dense, i, random_normal(&r));
    } else if (strcmp(kind, "zeros") == 0 || strcmp(kind, "ones") == 0) {
        for (size_t i = 0; i < b->count; i++)
            element_put(t, b->dense, i, kind[0] == 'o');
    } else if (strcmp(kind, "range") == 0) {
        for (size_t i = 0; i < b->count; i++)
            element_put(t, b->dense, i, (double)i);
    } else {
        Array a;
        char have[200], want[200];
        if (!npy_read(kind, &a))
            return false;
        bool fits = array_fits(&a, &p->type);
        if (!fits) {
            array_shape(&a, have, sizeof have);
            sa_type_format(&p->type, want, sizeof want);
            complain("%s has the shape %s, but input %s is %s", kind, have, p->name, want);
        }
        for (size_t i = 0; fits && i < b->count; i++)
            element_put(t, b->dense, i, a.value[i]);
        array_free(&a);
        if (!fits)
            return false;
    }
    buffer_copy(b, true);
    return true;
}

/* ============================== Showing =================================== */

static void show(const char *role, const Buffer *b) {
    char type[200];
    SaDtype t = b->port->type.dtype;
    double low = INFINITY, high = -INFINITY, sum = 0;
    size_t bad = 0;
    for (size_t i = 0; i < b->count; i++) {
        double v = element_get(t, b->dense, i);
        if (!isfinite(v)) {
            bad++;
            continue;
        }
        low = v < low ? v : low;
        high = v > high ? v : high;
        sum += v;
    }
    sa_type_format(&b->port->type, type, sizeof type);
    printf("%-6s %-20s %-32s ", role, b->port->name, type);
    if (bad < b->count)
        printf("min %-10.5g max %-10.5g mean %-10.4g", low, high, sum / (double)(b->count - bad));
    if (bad)
        printf(" %zu not finite", bad);
    printf(" |");
    for (size_t i = 0; i < b->count && i < 4; i++)
        printf(" %.5g", element_get(t, b->dense, i));
    printf(b->count > 4 ? " …\n" : "\n");
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ============================== Running =================================== */

static const char *kind_of_input(const Options *o, const char *name) {
    for (int i = 0; i < o->n_inputs; i++)
        if (strcmp(o->input[i].name, name) == 0)
            return o->input[i].value;
    return "random";
}

static bool inputs_known(const Options *o, const SaPlan *plan, int proc) {
    for (int k = 0; k < o->n_inputs; k++) {
        bool known = false;
        for (int i = 0; i < sa_plan_inputs(plan, proc); i++)
            known |= strcmp(sa_plan_input(plan, proc, i)->name, o->input[k].name) == 0;
        if (!known) {
            complain("%s has no input '%s'", sa_plan_procedure_name(plan, proc), o->input[k].name);
            return false;
        }
    }
    return true;
}

static bool evaluate(const Options *o, const SaPlan *plan, int proc, Buffer *in, Buffer *out) {
    const void *inputs[MAX_GIVEN];
    void *outputs[MAX_GIVEN];
    int n_in = sa_plan_inputs(plan, proc), n_out = sa_plan_outputs(plan, proc);
    for (int i = 0; i < n_in; i++) {
        if (!buffer_make(&in[i], sa_plan_input(plan, proc, i)) ||
            !fill_input(&in[i], kind_of_input(o, in[i].port->name), o->weights.seed))
            return false;
        inputs[i] = in[i].surface;
        show("input", &in[i]);
    }
    for (int i = 0; i < n_out; i++) {
        if (!buffer_make(&out[i], sa_plan_output(plan, proc, i)))
            return false;
        outputs[i] = out[i].surface;
    }
    double best = INFINITY, total = 0;
    for (long r = 0; r < o->repeat; r++) {
        double start = now_ms();
        SaStatus st = sa_plan_run(plan, proc, inputs, outputs, &o->run);
        double ms = now_ms() - start;
        if (st != SA_OK) {
            complain("the evaluation failed: %s", sa_status_name(st));
            return false;
        }
        best = ms < best ? ms : best;
        total += ms;
    }
    for (int i = 0; i < n_out; i++) {
        buffer_copy(&out[i], false);
        show("output", &out[i]);
    }
    double gflops = sa_plan_flops(plan, proc) / (best * 1e6);
    if (o->repeat == 1)
        printf("time   %.3f ms, %.1f GFLOPS (%s)\n", best, gflops, sa_exec_isa());
    else
        printf("time   best %.3f ms, mean %.3f ms of %ld, %.1f GFLOPS (%s)\n", best, total / (double)o->repeat, o->repeat,
               gflops, sa_exec_isa());
    return true;
}

static bool store(const Options *o, const SaPlan *plan, int proc, Buffer *out) {
    char path[4096];
    if (!o->output_dir)
        return true;
    if (mkdir(o->output_dir, 0777) != 0) {
        struct stat st;
        if (stat(o->output_dir, &st) != 0 || !S_ISDIR(st.st_mode)) {
            complain("%s: cannot be made a directory", o->output_dir);
            return false;
        }
    }
    for (int i = 0; i < sa_plan_outputs(plan, proc); i++) {
        snprintf(path, sizeof path, "%s/%s.npy", o->output_dir, out[i].port->name);
        if (!npy_write(path, &out[i].port->type, out[i].dense))
            return false;
    }
    return true;
}

static bool run(const Options *o, const SaPlan *plan, int proc) {
    static Buffer in[MAX_GIVEN], out[MAX_GIVEN]; /* the validator allows 255 ports */
    bool ok = inputs_known(o, plan, proc) && evaluate(o, plan, proc, in, out) && store(o, plan, proc, out);
    for (int i = 0; i < MAX_GIVEN; i++) {
        buffer_free(&in[i]);
        buffer_free(&out[i]);
    }
    return ok;
}

int main(int argc, char **argv) {
    static Options o = {.repeat = 1};
    tool = "softane-run";
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
    SaPlan *plan = NULL;
    SaError err = {.code = SA_OK};
    bool ok = source_open(&s, o.file);
    int proc = ok ? source_function(&s, o.function) : -1;
    ok = ok && proc >= 0 && weights_bind(&s, &o.weights, NULL);
    if (ok && (err.code = sa_plan_build(s.program, &plan, &err)) != SA_OK) {
        source_complain(&s, &err);
        ok = false;
    }
    ok = ok && run(&o, plan, proc);
    sa_plan_free(plan);
    source_free(&s);
    return ok ? EXIT_GOOD : EXIT_BAD;
}
