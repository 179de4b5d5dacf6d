// SPDX-License-Identifier: MIT
// The command line. One table says all of an option: its name, type, range, default and help;
// parsing and --help are loops over it.
#include "gpt_options.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <rondo/dp.h>

#include "gpt_hook.h"

enum kind { FILES, INTEGER, REAL, TEXT, FLAG, CHOICE, HOOK };

struct row {
    const char *name;
    enum kind kind;
    size_t field;
    double min, max;     // of INTEGER and REAL
    const char *initial; // as it would be typed; NULL = unset
    const char *help;
};

static const char *const choices[] = {[GPT_DEVICE_CPU] = "cpu", [GPT_DEVICE_CUDA] = "cuda"};

#define AT(field) offsetof(struct gpt_options, field)

static const struct row table[] = {
    {"data", FILES, AT(data), 0, 0, NULL,
     "text to train on, one or more files (default: Debian's fortunes)"},
    {"layers", INTEGER, AT(layers), 1, GPT_MAX_LAYERS, "3", "transformer blocks"},
    {"heads", INTEGER, AT(heads), 1, GPT_MAX_HEADS, "4", "attention heads; must divide --dim"},
    {"dim", INTEGER, AT(dim), 1, GPT_MAX_DIM, "96", "width of the model"},
    {"context", INTEGER, AT(context), GPT_MIN_CONTEXT, GPT_MAX_CONTEXT, "64",
     "bytes that the model sees at once"},
    {"device", CHOICE, AT(device), 0, 0, "cpu",
     "who computes: cpu, or cuda, a GPU for each rank of a host in turn (cpu)"},
    {"ddp", FLAG, AT(ddp), 0, 0, NULL, "one process for each device, with DDP (default)"},
    {"dp", INTEGER, AT(dp), 1, RONDO_DP_MAX_DEVICES, NULL,
     "N devices in one process, a thread for each, instead"},
    {"batch", INTEGER, AT(batch), 1, 65536, "32", "sequences a step, of all ranks together"},
    {"steps", INTEGER, AT(steps), 0, 1e12, "0", "stop after so many steps (0 = no limit)"},
    {"minutes", REAL, AT(minutes), 0, 1e6, NULL,
     "stop after this time (default: 1, or no limit with --steps)"},
    {"lr", REAL, AT(rate), 0, 10, "0.006", "peak of the learning rate"},
    {"warmup", INTEGER, AT(warmup), 0, 1e9, "20", "steps until the peak"},
    {"weight-decay", REAL, AT(decay), 0, 10, "0.1", "AdamW's decay of the matrices"},
    {"clip", REAL, AT(clip), 0, 1e9, "1", "largest norm of the gradient (0 = do not clip)"},
    {"seed", INTEGER, AT(seed), 0, 1e15, "1", "of first parameters, data order and samples"},
    {"eval-every", INTEGER, AT(eval_every), 0, 1e9, "100",
     "steps between held-out losses (0 = first and last)"},
    {"sample", INTEGER, AT(sample), 0, 1e6, "0", "bytes of text to write at the end"},
    {"temperature", REAL, AT(temperature), 0, 100, "0.8",
     "of the sample; 0 takes the likeliest byte"},
    {"checkpoint", TEXT, AT(checkpoint), 0, 0, NULL,
     "file to save to, at the end and on SIGINT or SIGTERM"},
    {"save-every", INTEGER, AT(save_every), 0, 1e9, "0",
     "also save each so many steps (0 = do not)"},
    {"resume", TEXT, AT(resume), 0, 0, NULL, "checkpoint to go on from"},
    {"plot", TEXT, AT(plot), 0, 0, NULL, "SVG file for a picture of the loss"},
    {"csv", TEXT, AT(csv), 0, 0, NULL, "file for a line of figures a step"},
    {"trace", TEXT, AT(trace), 0, 0, NULL, "file for a timeline; of several ranks, FILE.RANK"},
    {"elastic", FLAG, AT(elastic), 0, 0, NULL,
     "go on when ranks fail, and take them back (default below rondo-run --elastic)"},
    {"log-samples", TEXT, AT(samples), 0, 0, NULL,
     "file, .RANK added, for the windows of each step that counted"},
    {"threads", INTEGER, AT(threads), 1, 1024, "1", "threads of the BLAS in each rank"},
    {"bucket", INTEGER, AT(bucket), 4, 1048576, "512",
     "KiB of gradients that are reduced together; auto tries sizes out"},
    {"zero", FLAG, AT(zero), 0, 0, NULL,
     "each rank keeps the optimizer's state of its share only (ZeRO stage 1)"},
    {"hook", HOOK, AT(hook), 0, 0, NULL,
     "how gradients travel: fp16, bf16, powersgd[:RANK], or several with + (none)"},
    {"live", FLAG, AT(live), 0, 0, NULL, "rewrite one line of progress (default on a terminal)"},
    {"quiet", FLAG, AT(quiet), 0, 0, NULL, "no progress, only the report"},
};
enum { ROWS = sizeof table / sizeof table[0] };

static const struct row *find(const char *name, size_t len) {
    for (size_t i = 0; i < ROWS; i++) {
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

// ---- Values -------------------------------------------------------------------------------------

static bool set_number(const struct row *r, const char *text, void *field, struct gpt_error *e) {
    char *end = NULL;
    errno = 0;
    // An integer is not read as a real: 2^53 + 1 would become another number, and "1e3" is one too
    // many ways to write it.
    const long long whole = r->kind == INTEGER ? strtoll(text, &end, 10) : 0;
    const double value = r->kind == INTEGER ? (double)whole : strtod(text, &end);
    // Written so that a NaN is out of range.
    if (end == text || *end || errno || !(value >= r->min && value <= r->max)) {
        return gpt_fail(e, "--%s %s: allowed is %s from %.15g to %.15g", r->name, text,
                        r->kind == INTEGER ? "an integer" : "a number", r->min, r->max);
    }
    if (r->kind == INTEGER) {
        *(int64_t *)field = whole;
    } else {
        *(double *)field = value;
    }
    return true;
}

static bool set_choice(const struct row *r, const char *text, int64_t *field, struct gpt_error *e) {
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *field = (int64_t)i;
            return true;
        }
    }
    return gpt_fail(e, "--%s %s: allowed is cpu or cuda", r->name, text);
}

// Made once to see whether it can be; the run makes its own.
static bool check_hook(const char *text, struct gpt_error *e) {
    rondo_ddp_hook hook;
    bool any = false, ok = gpt_hook_make(text, &hook, &any, e);
    if (ok && any) {
        rondo_ddp_hook_destroy(&hook);
    }
    return ok;
}

static bool set(const struct row *r, struct gpt_options *o, const char *text, struct gpt_error *e) {
    void *field = (char *)o + r->field;
    switch (r->kind) {
    case INTEGER:
        if (r->field == AT(bucket) && strcmp(text, "auto") == 0) {
            *(int64_t *)field = GPT_BUCKET_AUTO;
            return true;
        }
        return set_number(r, text, field, e);
    case REAL:
        return set_number(r, text, field, e);
    case TEXT:
        if (!*text) {
            return gpt_fail(e, "--%s: the name of a file is missing", r->name);
        }
        *(const char **)field = text;
        return true;
    case FLAG:
        *(bool *)field = true;
        return true;
    case CHOICE:
        return set_choice(r, text, (int64_t *)field, e);
    case HOOK:
        *(const char **)field = strcmp(text, "none") == 0 ? NULL : text;
        return check_hook(text, e);
    case FILES:
        o->data[o->files++] = text;
        return true;
    }
    return false;
}

// ---- Words --------------------------------------------------------------------------------------

static bool is_option(const char *word) { return strncmp(word, "--", 2) == 0; }

// The option at argv[*i] with its value or values; moves *i to the last word that it took.
static bool take_option(int argc, char **argv, int *i, struct gpt_options *o, struct gpt_error *e) {
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    const struct row *r = find(name, equals ? (size_t)(equals - name) : strlen(name));
    if (!r) {
        return gpt_fail(e, "%s: there is no such option; --help lists them", argv[*i]);
    }
    if (r->kind == FLAG) {
        return equals ? gpt_fail(e, "--%s takes no value", r->name) : set(r, o, NULL, e);
    }
    if (equals) {
        return set(r, o, equals + 1, e);
    }
    if (*i + 1 >= argc || is_option(argv[*i + 1])) {
        return gpt_fail(e, "--%s: its value is missing", r->name);
    }
    bool ok = set(r, o, argv[++*i], e);
    while (ok && r->kind == FILES && *i + 1 < argc && !is_option(argv[*i + 1])) {
        ok = set(r, o, argv[++*i], e);
    }
    return ok;
}

// What the ranges of the single options cannot say.
static bool check(struct gpt_options *o, struct gpt_error *e) {
    if (o->dim % o->heads) {
        return gpt_fail(e, "--heads %lld does not divide --dim %lld", (long long)o->heads,
                        (long long)o->dim);
    }
    if (o->save_every && !o->checkpoint) {
        return gpt_fail(e, "--save-every needs --checkpoint FILE to save to");
    }
    if (o->dp && (o->ddp || o->elastic)) {
        return gpt_fail(e, "--dp %lld is one process, and does not go with --%s", (long long)o->dp,
                        o->ddp ? "ddp" : "elastic");
    }
    if (o->zero && (o->dp || o->elastic || o->device == GPT_DEVICE_CUDA)) {
        return gpt_fail(e, "--zero does not go with %s",
                        o->dp        ? "--dp, which has one optimizer"
                        : o->elastic ? "--elastic: the share of a rank that is lost would be lost. "
                                       "Save with --checkpoint and --save-every, and --resume"
                                     : "--device cuda");
    }
    if (o->bucket == GPT_BUCKET_AUTO && (o->zero || o->device == GPT_DEVICE_CUDA)) {
        return gpt_fail(e, "--bucket auto does not go with %s: give a size in KiB",
                        o->zero ? "--zero" : "--device cuda");
    }
    if (o->hook && (o->dp || o->device == GPT_DEVICE_CUDA)) {
        return gpt_fail(e, "--hook %s does not go with %s", o->hook,
                        o->dp ? "--dp, where no gradient travels"
                              : "--device cuda: hooks work on gradients in host memory");
    }
    if (isnan(o->minutes)) {
        o->minutes = o->steps ? 0.0 : 1.0;
    }
    if (!o->steps && o->minutes == 0.0) {
        return gpt_fail(e, "--steps 0 and --minutes 0 would never end: give one of them");
    }
    return true;
}

enum gpt_options_result gpt_options_parse(int argc, char **argv, struct gpt_options *o,
                                          struct gpt_error *e) {
    *o = (struct gpt_options){.minutes = NAN};
    o->data = calloc((size_t)argc + 1, sizeof *o->data);
    bool ok = o->data || gpt_fail(e, "no memory for the command line");
    for (size_t i = 0; ok && i < ROWS; i++) {
        ok = !table[i].initial || set(&table[i], o, table[i].initial, e);
    }
    for (int i = 1; ok && i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            gpt_options_free(o);
            return GPT_OPTIONS_HELP;
        }
        ok = is_option(argv[i])
                 ? take_option(argc, argv, &i, o, e)
                 : gpt_fail(e, "%s: not an option; files to train on come after --data", argv[i]);
    }
    if (ok && check(o, e)) {
        return GPT_OPTIONS_RUN;
    }
    gpt_options_free(o);
    return GPT_OPTIONS_WRONG;
}

void gpt_options_free(struct gpt_options *o) {
    free(o->data);
    *o = (struct gpt_options){0};
}

void gpt_options_help(FILE *out) {
    static const char *const value[] = {" FILE...", " N", " X", " FILE", "", " NAME", " NAME"};
    fprintf(out, "usage: train_gpt [OPTION]...\n"
                 "       rondo-run -n RANKS train_gpt [OPTION]...\n\n"
                 "Trains a small GPT on the bytes of text files, data-parallel over the ranks of "
                 "the job.\n\n");
    for (size_t i = 0; i < ROWS; i++) {
        char name[40];
        snprintf(name, sizeof name, "--%s%s", table[i].name, value[table[i].kind]);
        fprintf(out, "  %-18s  %s", name, table[i].help);
        if (table[i].kind == INTEGER || table[i].kind == REAL) {
            // Defaults that are no constants are told in the text.
            fprintf(out, "%s%s%s", table[i].initial ? " (" : "",
                    table[i].initial ? table[i].initial : "", table[i].initial ? ")" : "");
        }
        fputc('\n', out);
    }
    fprintf(out, "  %-18s  this text\n", "--help");
}

uint64_t gpt_options_hash(const struct gpt_options *o) {
    uint64_t hash = GPT_HASH_START;
    for (size_t i = 0; i < ROWS; i++) {
        if (table[i].kind == INTEGER || table[i].kind == REAL) {
            hash = gpt_hash(hash, (const char *)o + table[i].field, sizeof(int64_t));
        }
    }
    hash = gpt_hash(hash, &o->zero, sizeof o->zero);
    if (o->hook) {
        hash = gpt_hash(hash, o->hook, strlen(o->hook));
    }
    return gpt_hash(hash, &o->device, sizeof o->device);
}

_Static_assert(sizeof(int64_t) == sizeof(double),
               "gpt_options_hash() takes numbers for 8 bytes wide");

struct gpt_shape gpt_options_shape(const struct gpt_options *o) {
    return (struct gpt_shape){.layers = (int)o->layers,
                              .heads = (int)o->heads,
                              .dim = (int)o->dim,
                              .context = (int)o->context};
}
