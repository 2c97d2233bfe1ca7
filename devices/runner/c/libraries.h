/* Runtime libraries: found, loaded and opened when they are first needed. */
#ifndef DEEPEN_LIBRARIES_H
#define DEEPEN_LIBRARIES_H

#include "model.h"

enum { RUNTIMES = 3 };

struct runtime {
    const struct backend *backend;
    bool open;
    bool failed;
    struct failure failure;
};

extern struct runtime runtimes[RUNTIMES];

/* Look for runtimes in this library only, and in others added; the path must stay. False when there are too many. */
bool add_library(const char *path);

/* Open a runtime, once. */
bool open_runtime(struct runtime *runtime, struct failure *failure);

/* The runtime for a model file, opened; NULL after a failure. */
const struct backend *choose_backend(const char *path, struct failure *failure);

#endif
