#include "random.h"

#include <string.h>

enum { POOL = 4 };

static uint32_t hashed(uint32_t value, uint32_t *constant, uint32_t multiplier) {
    value ^= *constant;
    *constant *= multiplier;
    value *= *constant;
    return value ^ (value >> 16);
}

static uint32_t mixed(uint32_t x, uint32_t y) {
    uint32_t result = UINT32_C(0xca01f9dd) * x - UINT32_C(0x4973f715) * y;
    return result ^ (result >> 16);
}

static struct wide add(struct wide a, struct wide b) {
    struct wide sum = {.high = a.high + b.high, .low = a.low + b.low};
    sum.high += sum.low < a.low;
    return sum;
}

/* Product of two 64-bit numbers in halves of 32 bits: C11 has no 128-bit integer. */
static struct wide product(uint64_t a, uint64_t b) {
    uint64_t a0 = a & UINT32_MAX;
    uint64_t a1 = a >> 32;
    uint64_t b0 = b & UINT32_MAX;
    uint64_t b1 = b >> 32;
    uint64_t middle = a1 * b0 + ((a0 * b0) >> 32);
    uint64_t rest = a0 * b1 + (middle & UINT32_MAX);
    return (struct wide){.high = a1 * b1 + (middle >> 32) + (rest >> 32), .low = a * b};
}

static void step(struct random *random) {
    const struct wide multiplier = {.high = UINT64_C(2549297995355413924), .low = UINT64_C(4865540595714422341)};
    struct wide next = product(random->state.low, multiplier.low);
    next.high += random->state.high * multiplier.low + random->state.low * multiplier.high;
    random->state = add(next, random->increment);
}

struct random random_seed(uint64_t seed) {
    uint32_t pool[POOL];
    uint32_t constant = UINT32_C(0x43b0d7e5);
    for (int i = 0; i < POOL; i++) {
        uint32_t entropy = i == 0 ? (uint32_t)seed : i == 1 ? (uint32_t)(seed >> 32) : 0;
        pool[i] = hashed(entropy, &constant, UINT32_C(0x931e8875));
    }
    for (int from = 0; from < POOL; from++) {
        for (int to = 0; to < POOL; to++) {
            if (from != to) {
                pool[to] = mixed(pool[to], hashed(pool[from], &constant, UINT32_C(0x931e8875)));
            }
        }
    }
    uint64_t words[4];
    constant = UINT32_C(0x8b51f9dd);
    for (int i = 0; i < 4; i++) {
        uint64_t low = hashed(pool[2 * i % POOL], &constant, UINT32_C(0x58f38ded));
        uint64_t high = hashed(pool[(2 * i + 1) % POOL], &constant, UINT32_C(0x58f38ded));
        words[i] = high << 32 | low;
    }
    struct random random = {.state = {0, 0}, .increment = {words[2] << 1 | words[3] >> 63, words[3] << 1 | 1}};
    step(&random);
    random.state = add(random.state, (struct wide){words[0], words[1]});
    step(&random);
    return random;
}

static uint64_t next(struct random *random) {
    step(random);
    uint64_t folded = random->state.high ^ random->state.low;
    unsigned turn = (unsigned)(random->state.high >> 58);
    return folded >> turn | folded << ((64 - turn) & 63);
}

double random_uniform(struct random *random) { return -1.0 + 2.0 * ((double)(next(random) >> 11) * 0x1p-53); }

/* IEEE 754 half precision, rounded to nearest, ties to even; only for magnitudes up to 1. */
static uint16_t half(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    unsigned sign = (unsigned)(bits >> 63) << 15;
    int exponent = (int)(bits >> 52 & 0x7FF) - 1023;
    if (exponent < -25) {
        return (uint16_t)sign;
    }
    uint64_t significand = (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1) << 52;
    int shift = exponent >= -14 ? 42 : 42 + (-14 - exponent);
    uint64_t kept = significand >> shift;
    uint64_t rest = significand & ((UINT64_C(1) << shift) - 1);
    uint64_t middle = UINT64_C(1) << (shift - 1);
    kept += rest > middle || (rest == middle && (kept & 1) == 1);
    /* A significand of 2^10 or more carries into the exponent by itself. */
    return (uint16_t)(sign | (exponent >= -14 ? ((unsigned)(exponent + 14) << 10) + (unsigned)kept : (unsigned)kept));
}

void random_fill(struct random *random, enum element element, size_t size, void *data, size_t count) {
    unsigned char *at = data;
    if (element == ELEMENT_ZEROS || element == ELEMENT_BOOL) {
        memset(data, element == ELEMENT_BOOL, count * size);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        double value = random_uniform(random);
        float single = (float)value;
        uint32_t bits;
        uint16_t narrow;
        switch (element) {
        case ELEMENT_FLOAT64:
            memcpy(at + i * sizeof value, &value, sizeof value);
            break;
        case ELEMENT_FLOAT16:
            narrow = half(value);
            memcpy(at + i * sizeof narrow, &narrow, sizeof narrow);
            break;
        case ELEMENT_BFLOAT16: /* the upper half of a float32 */
            memcpy(&bits, &single, sizeof bits);
            narrow = (uint16_t)(bits >> 16);
            memcpy(at + i * sizeof narrow, &narrow, sizeof narrow);
            break;
        default:
            memcpy(at + i * sizeof single, &single, sizeof single);
            break;
        }
    }
}
