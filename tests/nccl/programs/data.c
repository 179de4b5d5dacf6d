// SPDX-License-Identifier: MIT
#include "data.h"

// What the makers of elements know. `common` is the same on all ranks, `mine` this rank's own chance.
struct maker {
    const struct number_format *f;
    rondo_op op;
    uint64_t ranks, rank, index, common, mine;
    uint64_t one, other; // two different ranks, the same for all
};

static uint64_t mix(uint64_t x) { // the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t element_mask(const struct number_format *f) {
    return f->bytes == 8 ? ~(uint64_t)0 : ((uint64_t)1 << 8 * f->bytes) - 1;
}

static uint64_t with_sign(const struct maker *m, uint64_t magnitude, bool negative) {
    return magnitude | (negative ? number_sign_bit(m->f) : 0);
}

static uint64_t random_sign(const struct maker *m, uint64_t magnitude) {
    return with_sign(m, magnitude, (m->mine >> 63) != 0);
}

static uint64_t from_integer(const struct number_format *f, int64_t v) {
    return f->real ? number_round(f, (wide)v) : (uint64_t)v & element_mask(f);
}

static int log2_ceil(uint64_t n) {
    int k = 0;
    while ((uint64_t)1 << k < n) {
        k++;
    }
    return k;
}

// Sums: integers whose sum every type can hold, and a mantissa. Products: powers of two and signs.
static uint64_t make_small(const struct maker *m) {
    const struct number_format *f = m->f;
    if (f->real && m->op == RONDO_PROD) {
        const int exponent = (int)(m->mine % 3) - 1;
        return random_sign(m, number_power_bits(f, exponent));
    }
    const uint64_t most = f->real && f->mantissa < 6 ? (uint64_t)2 << f->mantissa : 127;
    const uint64_t bound = most / m->ranks;
    const int64_t v = (int64_t)(m->mine % (2 * bound + 1)) - (int64_t)bound;
    return from_integer(f, f->has_sign ? v : v < 0 ? -v : v);
}

static uint64_t make_uniform(const struct maker *m) {
    const wide unit = (wide)(m->mine >> 12) * number_power(-52); // [0, 1)
    if (m->op == RONDO_PROD) {
        const wide factor = (wide)0.5 + unit;
        return number_round(m->f, m->common % 2 == m->rank % 2 ? -factor : factor);
    }
    return number_round(m->f, 2 * unit - 1);
}

// Magnitude bits are uniform, and so are exponents: from denormal to where n terms cannot overflow, or where no
// partial product can leave the normal numbers.
static uint64_t make_wide(const struct maker *m) {
    const struct number_format *f = m->f;
    const int n = (int)m->ranks, top = number_top_exponent(f);
    if (m->op == RONDO_PROD) {
        const uint64_t low = number_power_bits(f, f->least / n); // truncates towards 0
        return random_sign(m, low + m->mine % (number_power_bits(f, top / n) - low));
    }
    if (m->op == RONDO_MIN || m->op == RONDO_MAX) {
        return random_sign(m, m->mine % (f->top + 1));
    }
    return random_sign(m, m->mine % number_power_bits(f, top - log2_ceil(m->ranks)));
}

// Two ranks have large values that differ in the last bits, the others anything that is far smaller.
static uint64_t make_cancel(const struct maker *m) {
    const struct number_format *f = m->f;
    const int top = number_top_exponent(f), middle = (f->least + top) / 2;
    const uint64_t low = number_power_bits(f, middle + 1);
    const uint64_t high = number_power_bits(f, top - log2_ceil(m->ranks));
    const uint64_t large = low + m->common % (high - low);
    const bool negative = (m->common >> 62 & 1) != 0;
    if (m->rank == m->one) {
        return with_sign(m, large, negative);
    }
    if (m->rank == m->other) {
        return with_sign(m, large - (m->common >> 40) % 4, !negative);
    }
    return random_sign(m, m->mine % low);
}

static uint64_t make_denormal(const struct maker *m) {
    const struct number_format *f = m->f;
    if (m->op == RONDO_PROD && m->rank != m->one) {
        // Factors up to 1: what one rounding loses is not magnified by the next.
        const uint64_t low = number_power_bits(f, -3);
        return random_sign(m, low + m->mine % (number_power_bits(f, 0) - low + 1));
    }
    return random_sign(m, m->mine % (2 * number_power_bits(f, f->least)));
}

// ---- Special values ------------------------------------------------------------------------------

enum role {
    ROLE_NEGATIVE_ZERO,
    ROLE_ZEROS,
    ROLE_INFINITY,
    ROLE_MINUS_INFINITY,
    ROLE_BOTH_INFINITIES,
    ROLE_ONE_NAN,
    ROLE_ALL_NAN,
    ROLE_OPPOSITE,
    ROLE_INFINITY_AND_ZERO,
    ROLE_OVERFLOW,
    ROLE_MINUS_OVERFLOW,
    ROLE_UNDERFLOW,
    ROLE_COUNT
};

static enum role role_of(const struct maker *m) {
    const enum role role = (enum role)(m->index % ROLE_COUNT);
    const bool infinities = role >= ROLE_INFINITY && role <= ROLE_BOTH_INFINITIES;
    if (!m->f->infinity && (infinities || role == ROLE_INFINITY_AND_ZERO)) {
        return ROLE_ZEROS;
    }
    // A type that saturates forgets an infinity at the first addition. With a second special operand the result
    // would depend on the order, and there would be nothing to compare with.
    if (m->f->saturates && role == ROLE_BOTH_INFINITIES) {
        return ROLE_INFINITY;
    }
    return m->f->saturates && role == ROLE_INFINITY_AND_ZERO ? ROLE_MINUS_INFINITY : role;
}

// An operand that does not decide: +-1 in products, else a small integer.
static uint64_t ordinary(const struct maker *m) {
    const uint64_t v = m->op == RONDO_PROD ? 1 : m->mine % 3;
    return random_sign(m, from_integer(m->f, (int64_t)v));
}

static uint64_t nothing(const struct maker *m) { // the operand that changes nothing
    return m->op == RONDO_PROD ? number_power_bits(m->f, 0) : number_sign_bit(m->f);
}

static uint64_t make_pair(const struct maker *m, uint64_t one, uint64_t other, uint64_t rest) {
    return m->rank == m->one ? one : m->rank == m->other ? other : rest;
}

static uint64_t make_special(const struct maker *m) {
    const struct number_format *f = m->f;
    const uint64_t sign = number_sign_bit(f), infinity = f->top + 1;
    const uint64_t nan = random_sign(m, f->nan), value = number_power_bits(f, 1);
    switch (role_of(m)) {
    case ROLE_NEGATIVE_ZERO:
        return sign;
    case ROLE_ZEROS:
        return random_sign(m, 0);
    case ROLE_INFINITY:
        return make_pair(m, infinity, ordinary(m), ordinary(m));
    case ROLE_MINUS_INFINITY:
        return make_pair(m, infinity | sign, ordinary(m), ordinary(m));
    case ROLE_BOTH_INFINITIES:
        return make_pair(m, infinity, infinity | sign, ordinary(m));
    case ROLE_ONE_NAN:
        return make_pair(m, nan, ordinary(m), ordinary(m));
    case ROLE_ALL_NAN:
        return nan;
    case ROLE_OPPOSITE:
        return make_pair(m, value, value | sign, nothing(m));
    case ROLE_INFINITY_AND_ZERO:
        return make_pair(m, infinity, sign, ordinary(m));
    case ROLE_OVERFLOW:
        return make_pair(m, f->top, m->op == RONDO_PROD ? value : f->top, nothing(m));
    case ROLE_MINUS_OVERFLOW:
        return make_pair(m, f->top | sign, m->op == RONDO_PROD ? value : f->top | sign, nothing(m));
    default: // ROLE_UNDERFLOW
        return make_pair(m, 1, 1 | sign, nothing(m));
    }
}

// ---- Elements ------------------------------------------------------------------------------------

uint64_t data_element(const struct test_case *c, int ranks, int rank, uint64_t index) {
    struct maker m = {.f = number_format(c->type),
                      .op = c->op,
                      .ranks = (uint64_t)ranks,
                      .rank = (uint64_t)rank,
                      .index = index,
                      .common = mix(mix(c->seed) ^ index)};
    m.mine = mix(m.common + (uint64_t)rank + 1);
    m.one = (m.common >> 20) % m.ranks;
    m.other = (m.one + 1 + (m.common >> 30) % (m.ranks - 1)) % m.ranks;
    if (!m.f->real && c->data != DATA_SMALL) {
        return m.mine & element_mask(m.f);
    }
    switch (c->data) {
    case DATA_SMALL:
        return make_small(&m);
    case DATA_UNIFORM:
        return make_uniform(&m);
    case DATA_WIDE:
        return make_wide(&m);
    case DATA_CANCEL:
        return make_cancel(&m);
    case DATA_DENORMAL:
        return make_denormal(&m);
    case DATA_SPECIAL:
        return make_special(&m);
    default:
        return m.mine & element_mask(m.f);
    }
}

void data_fill(const struct test_case *c, int ranks, int rank, size_t count, void *out) {
    const struct number_format *f = number_format(c->type);
    for (size_t i = 0; i < count; i++) {
        number_store(f, out, i, data_element(c, ranks, rank, i));
    }
}

bool data_is_exact(const struct test_case *c, int ranks) {
    if (!number_format(c->type)->real || c->op == RONDO_MIN || c->op == RONDO_MAX) {
        return true;
    }
    // A quotient of small integers is exact when it only moves the exponent.
    return c->data == DATA_SMALL && (c->op != RONDO_AVG || (ranks & (ranks - 1)) == 0);
}
