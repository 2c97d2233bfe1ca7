/* The interface between the runner and its backends (one per runtime library). */
#ifndef DEEPEN_MODEL_H
#define DEEPEN_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "json.h"
#include "text.h"
#include "threads.h"

enum { MAX_RANK = 32, MAX_THREADS = 1024 };

/* Reason a request cannot be carried out. Kinds: model, shape, missing, memory, runtime, fallback, protocol
(runner.py). */
struct failure {
    const char *kind;
    char message[1024];
};

/* Fill in a failure; always false, so that `return refuse(...)` reads well. A long message is cut short. */
bool refuse(struct failure *failure, const char *kind, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same for a library's message: kind `memory` if it reports a failed allocation, else `model`. */
bool refuse_words(struct failure *failure, const char *words);

struct shape {
    size_t rank;
    int64_t dims[MAX_RANK];
};

/* A load request, checked. */
struct load {
    const char *path;
    int threads;
    const char *level; /* one of disable, basic, extended, all */
    int cpus[MAX_THREADS];
    size_t cpu_count;
    uint64_t seed;
    const struct json *json;
    const struct json_value *shapes; /* object of arrays of integers; NULL for none */
    const struct json_value *inputs; /* object of paths of files with the values of inputs; NULL for none */
    struct pool *pool;               /* pin the pool's threads with pool_pin() once they exist */
};

/* The answer to a load request. */
struct loaded {
    struct text build;
    struct text inputs;  /* JSON objects with commas between them */
    struct text outputs; /* the same */
    int64_t first_run_ns;
};

/* A runtime library. `open` is called once, with the handle dlopen() gave; `load` returns NULL after a failure. */
struct backend {
    const char *name;           /* its key in the answer to hello */
    const char *marker;         /* a symbol by which its library is known */
    const char *const *sonames; /* where it is looked for, up to a NULL */
    bool (*open)(void *library, struct failure *failure);
    const char *(*version)(void);
    void *(*load)(const struct load *load, struct loaded *loaded, struct failure *failure);
    bool (*run)(void *model, struct failure *failure);
    void (*unload)(void *model);
};

extern const struct backend onnxruntime_backend;
extern const struct backend tflite_backend;
extern const struct backend litert_backend;

int64_t clock_ns(int clock);

/* The requested shape of an input: false if none is requested, or (with a failure) if it cannot be used. */
bool wanted_shape(const struct load *load, const char *name, struct shape *shape, struct failure *failure);

/* Fill an input with the values a request gives for it, from a file of plain little-endian numbers whose size must be
that of the input; where the request gives none the input stays as it is. `data` is NULL for text, which cannot be
given. */
bool read_given(const struct load *load, const char *name, void *data, size_t bytes, struct failure *failure);

/* Refuse shapes or values for inputs the model does not have, naming those it has; sorts `names`. */
bool only_inputs(const struct load *load, const char **names, size_t count, struct failure *failure);

/* Number of elements times the size of one; false when memory could never hold it. */
bool byte_count(const struct shape *shape, size_t size, size_t *count, size_t *bytes);

/* Memory aligned for vectors and cache lines, its content undefined; NULL after a failure; release with free(). */
void *buffer(size_t bytes, struct failure *failure);

/* Add {"name": ..., "shape": [...] or null, "type": ...} to a list. */
void describe(struct text *list, const char *name, const struct shape *shape, const char *type);

/* "[1, 3, 'batch']"-like text of a shape, cut to fit. */
void shape_words(const struct shape *shape, char *words, size_t size);

/* Find every symbol of a NULL-ended table of {name, address of a function pointer}; false and the first one absent. */
struct symbol {
    const char *name;
    void *function; /* address of the function pointer to set */
};
bool find_symbols(void *library, const struct symbol *symbols, const char *title, struct failure *failure);

#endif
