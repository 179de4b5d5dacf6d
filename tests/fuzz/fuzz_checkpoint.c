// SPDX-License-Identifier: MIT
// Checkpoint files of train_gpt. What is accepted describes a model whose values are all within the file.
//
//   input[0]  bit 0: the checksum is made to fit, as a file of somebody else's program would have it
//             bit 1: the length is, too: zeros are added, or bytes left out
#include "fuzz.h"
#include "gpt_checkpoint.h"

#define LONGEST (1u << 20)

static uint32_t word(const uint8_t *file, size_t at) {
    uint32_t v;
    memcpy(&v, file + at, sizeof v);
    return v;
}

// The length that the header promises, if that is one to try.
static size_t promised(const uint8_t *file, size_t n) {
    if (n < GPT_CHECKPOINT_HEADER) {
        return n;
    }
    struct gpt_shape s = {.layers = (int)(word(file, 12) & 0xffff),
                          .heads = (int)(word(file, 16) & 0xffff),
                          .dim = (int)(word(file, 20) & 0xffff),
                          .context = (int)(word(file, 24) & 0xffff)};
    if (!gpt_shape_valid(&s) || gpt_shape_count(&s) > LONGEST / 12) {
        return n;
    }
    return GPT_CHECKPOINT_HEADER + 3 * gpt_shape_count(&s) * sizeof(float);
}

static void fix_checksum(uint8_t *file, size_t n) {
    if (n >= GPT_CHECKPOINT_HEADER) {
        uint64_t hash = gpt_hash(GPT_HASH_START, file, 48);
        hash = gpt_hash(hash, file + GPT_CHECKPOINT_HEADER, n - GPT_CHECKPOINT_HEADER);
        memcpy(file + 48, &hash, sizeof hash);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    uint8_t how = take_byte(&in);
    size_t n = how & 2 ? promised(in.at, in.left) : in.left;
    uint8_t *file = calloc(n > 0 ? n : 1, 1);
    MUST(file != NULL);
    if (in.left > 0) {
        memcpy(file, in.at, n < in.left ? n : in.left);
    }
    if (how & 1) {
        fix_checksum(file, n);
    }
    struct gpt_checkpoint c = {.count = 0};
    struct gpt_error e = {""};
    if (gpt_checkpoint_parse(file, n, &c, &e)) {
        MUST(gpt_shape_valid(&c.shape) && c.count == gpt_shape_count(&c.shape));
        MUST(c.values == file + GPT_CHECKPOINT_HEADER);
        MUST(n == GPT_CHECKPOINT_HEADER + 3 * c.count * sizeof(float));
        MUST(e.text[0] == '\0');
    } else {
        MUST(e.text[0] != '\0' && c.values == NULL);
    }
    free(file);
    return 0;
}
