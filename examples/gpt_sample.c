// SPDX-License-Identifier: MIT
// Text from a trained model. Each byte takes a forward pass over the whole window: slower than
// keeping keys and values of earlier bytes, but nothing to get wrong, and a page of text takes
// seconds.
#include "gpt_sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One byte from softmax(logits / temperature); u is uniform in [0, 1).
static uint8_t draw(const float *logits, double temperature, double u) {
    int best = 0;
    for (int i = 1; i < GPT_VOCAB; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    if (temperature <= 0.0) {
        return (uint8_t)best;
    }
    double p[GPT_VOCAB], sum = 0.0;
    for (int i = 0; i < GPT_VOCAB; i++) {
        p[i] = exp((double)(logits[i] - logits[best]) / temperature);
        sum += p[i];
    }
    double rest = u * sum;
    for (int i = 0; i < GPT_VOCAB; i++) {
        rest -= p[i];
        if (rest < 0.0) {
            return (uint8_t)i;
        }
    }
    return (uint8_t)best; // rounding ate the tail
}

// Length of the valid UTF-8 sequence of printable text that begins at p, or 0.
static size_t printable(const uint8_t *p, size_t len) {
    if (*p < 0x80) {
        return *p == '\n' || *p == '\t' || (*p >= 0x20 && *p != 0x7f);
    }
    const size_t need = *p >= 0xc2 && *p < 0xe0 ? 2 : *p >= 0xe0 && *p < 0xf0 ? 3 : 0;
    if (need == 0 || need > len || (*p == 0xc2 && p[1] < 0xa0) || (*p == 0xe0 && p[1] < 0xa0) ||
        (*p == 0xed && p[1] >= 0xa0)) {
        return 0;
    }
    for (size_t i = 1; i < need; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return need;
}

static void print_text(const uint8_t *text, size_t len) {
    for (size_t i = 0; i < len;) {
        const size_t n = printable(text + i, len - i);
        if (n) {
            fwrite(text + i, 1, n, stdout);
        } else {
            fputs("\xef\xbf\xbd", stdout); // the replacement character
        }
        i += n ? n : 1;
    }
}

bool gpt_sample(const struct gpt_model *m, struct gpt_activations *a, uint64_t seed,
                double temperature, size_t length, struct gpt_error *e) {
    const size_t context = (size_t)m->shape.context;
    uint8_t window[GPT_MAX_CONTEXT], *text = malloc(length);
    size_t seen = 1;
    window[0] = '\n';
    bool ok = text || gpt_fail(e, "no memory for a sample of %zu bytes", length);
    for (size_t i = 0; ok && i < length; i++) {
        float logits[GPT_VOCAB];
        gpt_forward(m, a, window, 1, (int)seen);
        ok = gpt_logits(a, (int)seen - 1, logits, e);
        if (ok) {
            text[i] = draw(logits, temperature, (double)(gpt_random(seed, i) >> 11) * 0x1p-53);
            if (seen == context) {
                memmove(window, window + 1, --seen);
            }
            window[seen++] = text[i];
        }
    }
    if (ok) {
        printf("sample of %zu bytes:\n", length);
        print_text(text, length);
        putchar('\n');
    }
    free(text);
    return ok;
}
