// SPDX-License-Identifier: MIT
// Checkpoints. Only rank 0 reads and writes them: the others get its parameters when DDP is
// created.
#include "gpt_checkpoint.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_file.h"

#if __BYTE_ORDER != __LITTLE_ENDIAN
#error "checkpoints are written as they lie in memory, which must be little endian"
#endif

static const uint8_t magic[8] = {'r', 'o', 'n', 'd', 'o', 'g', 'p', 't'};
enum { VERSION = 1 };
enum {
    AT_VERSION = 8,
    AT_LAYERS = 12,
    AT_HEADS = 16,
    AT_DIM = 20,
    AT_CONTEXT = 24,
    AT_ZERO = 28,
    AT_STEP = 32,
    AT_COUNT = 40,
    AT_CHECKSUM = 48
};

static uint32_t get32(const uint8_t *bytes) {
    uint32_t v;
    memcpy(&v, bytes, sizeof v);
    return v;
}

static uint64_t get64(const uint8_t *bytes) {
    uint64_t v;
    memcpy(&v, bytes, sizeof v);
    return v;
}

static void put32(uint8_t *bytes, uint32_t v) { memcpy(bytes, &v, sizeof v); }

static void put64(uint8_t *bytes, uint64_t v) { memcpy(bytes, &v, sizeof v); }

static uint64_t header_hash(const uint8_t *header) {
    return gpt_hash(GPT_HASH_START, header, AT_CHECKSUM);
}

// ---- Reading ------------------------------------------------------------------------------------

// A number above INT_MAX becomes -1, which no shape may hold.
static int shape_number(const uint8_t *bytes) {
    const uint32_t v = get32(bytes);
    return v > GPT_MAX_DIM ? -1 : (int)v;
}

bool gpt_checkpoint_parse(const uint8_t *bytes, size_t len, struct gpt_checkpoint *out,
                          struct gpt_error *e) {
    if (len < sizeof magic || memcmp(bytes, magic, sizeof magic) != 0) {
        return gpt_fail(e, "it is not a checkpoint of train_gpt");
    }
    if (len < GPT_CHECKPOINT_HEADER) {
        return gpt_fail(e, "it is cut off in its header, after %zu bytes", len);
    }
    if (get32(bytes + AT_VERSION) != VERSION) {
        return gpt_fail(e, "it has version %" PRIu32 "; this program reads version %d",
                        get32(bytes + AT_VERSION), VERSION);
    }
    struct gpt_checkpoint c = {
        .shape = {.layers = shape_number(bytes + AT_LAYERS),
                  .heads = shape_number(bytes + AT_HEADS),
                  .dim = shape_number(bytes + AT_DIM),
                  .context = shape_number(bytes + AT_CONTEXT)},
        .step = get64(bytes + AT_STEP),
        .values = bytes + GPT_CHECKPOINT_HEADER,
    };
    if (!gpt_shape_valid(&c.shape) || get32(bytes + AT_ZERO) != 0 ||
        get64(bytes + AT_COUNT) != gpt_shape_count(&c.shape)) {
        return gpt_fail(e, "it is damaged: its header describes no model");
    }
    c.count = gpt_shape_count(&c.shape);
    const size_t payload = 3 * c.count * sizeof(float);
    if (len - GPT_CHECKPOINT_HEADER != payload) {
        return gpt_fail(e, "it is damaged: it has %zu bytes and should have %zu", len,
                        payload + GPT_CHECKPOINT_HEADER);
    }
    if (gpt_hash(header_hash(bytes), c.values, payload) != get64(bytes + AT_CHECKSUM)) {
        return gpt_fail(e, "it is damaged: its checksum does not match its contents");
    }
    *out = c;
    return true;
}

static bool same_shape(const struct gpt_shape *a, const struct gpt_shape *b) {
    return a->layers == b->layers && a->heads == b->heads && a->dim == b->dim &&
           a->context == b->context;
}

bool gpt_checkpoint_load(const char *path, struct gpt_model *m, struct gpt_adamw *o,
                         struct gpt_error *e) {
    uint8_t *bytes;
    size_t len;
    if (!gpt_file_read(path, "cannot resume from", &bytes, &len, e)) {
        return false;
    }
    struct gpt_checkpoint c;
    struct gpt_error why;
    bool ok = false;
    if (!gpt_checkpoint_parse(bytes, len, &c, &why)) {
        gpt_fail(e, "cannot resume from %s: %s", path, why.text);
    } else if (!same_shape(&c.shape, &m->shape)) {
        gpt_fail(
            e,
            "cannot resume from %s: its model has another shape than this run's; give --layers %d "
            "--heads %d --dim %d --context %d",
            path, c.shape.layers, c.shape.heads, c.shape.dim, c.shape.context);
    } else {
        const size_t size = c.count * sizeof(float);
        memcpy(m->host, c.values, size);
        memcpy(o->host_m, c.values + size, size);
        memcpy(o->host_v, c.values + 2 * size, size);
        o->steps = c.step;
        ok = true;
    }
    free(bytes);
    return ok;
}

// ---- Writing ------------------------------------------------------------------------------------

bool gpt_checkpoint_save(const char *path, const struct gpt_model *m, const struct gpt_adamw *o,
                         struct gpt_error *e) {
    uint8_t header[GPT_CHECKPOINT_HEADER] = {0};
    const size_t size = m->count * sizeof(float);
    memcpy(header, magic, sizeof magic);
    put32(header + AT_VERSION, VERSION);
    put32(header + AT_LAYERS, (uint32_t)m->shape.layers);
    put32(header + AT_HEADS, (uint32_t)m->shape.heads);
    put32(header + AT_DIM, (uint32_t)m->shape.dim);
    put32(header + AT_CONTEXT, (uint32_t)m->shape.context);
    put64(header + AT_STEP, o->steps);
    put64(header + AT_COUNT, m->count);
    const struct iovec parts[] = {
        {header, sizeof header}, {m->host, size}, {o->host_m, size}, {o->host_v, size}};
    uint64_t hash = header_hash(header);
    for (int i = 1; i < 4; i++) {
        hash = gpt_hash(hash, parts[i].iov_base, size);
    }
    put64(header + AT_CHECKSUM, hash);
    return gpt_file_replace(path, parts, 4, e);
}
