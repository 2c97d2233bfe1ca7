/* The random numbers of numpy.random.default_rng(seed), bit by bit, so that inputs equal those of runner.py.
 *
 * Sources: NumPy's SeedSequence after M. E. O'Neill, "Developing a seed_seq alternative" (2015); PCG64 (XSL-RR 128/64),
 * M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
 * Generation", HMC-CS-2014-0905 (2014).
 */
#ifndef DEEPEN_RANDOM_H
#define DEEPEN_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct wide {
    uint64_t high;
    uint64_t low;
};

struct random {
    struct wide state;
    struct wide increment;
};

/* Storage type of the elements of an input. */
enum element {
    ELEMENT_ZEROS, /* integers: all zero */
    ELEMENT_BOOL,  /* one byte each, all true */
    ELEMENT_FLOAT16,
    ELEMENT_BFLOAT16,
    ELEMENT_FLOAT32,
    ELEMENT_FLOAT64,
};

struct random random_seed(uint64_t seed);

/* Uniform in [-1, 1). */
double random_uniform(struct random *random);

/* Fill one input: seeded uniform floats in [-1, 1), zero integers, true booleans. Zero is the one index that is valid
 * for every gather and embedding; floats are never denormal. `size` is the size of an integer in bytes. */
void random_fill(struct random *random, enum element element, size_t size, void *data, size_t count);

#endif
