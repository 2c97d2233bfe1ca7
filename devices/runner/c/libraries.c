#include "libraries.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LIBRARIES = 8 };

struct runtime runtimes[RUNTIMES] = {
    {.backend = &onnxruntime_backend}, {.backend = &tflite_backend}, {.backend = &litert_backend}};

static struct library {
    const char *path;
    void *handle; /* NULL: not loaded */
    struct failure failure;
} libraries[MAX_LIBRARIES]; /* named on the command line */
static size_t library_count;

bool add_library(const char *path) {
    if (library_count == MAX_LIBRARIES) {
        return false;
    }
    libraries[library_count++].path = path;
    return true;
}

/* Load a library; NULL, with the loader's message, if it cannot be loaded. */
static void *load_library(const char *path, struct failure *failure) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        refuse(failure, "runtime", "%s", dlerror());
    }
    return library;
}

/* Find the library of a runtime: among those named on the command line, else by its usual names. */
static void *find_library(const struct backend *backend, struct failure *failure) {
    refuse(failure, "runtime", "no library named on the command line is one of %s", backend->name);
    for (size_t i = 0; i < library_count; i++) {
        struct library *library = &libraries[i];
        if (library->handle == NULL && library->failure.kind == NULL) {
            library->handle = load_library(library->path, &library->failure);
        }
        if (library->handle == NULL) {
            *failure = library->failure;
        } else if (dlsym(library->handle, backend->marker) != NULL) {
            return library->handle;
        }
    }
    void *found = NULL;
    for (size_t i = 0; library_count == 0 && found == NULL && backend->sonames[i] != NULL; i++) {
        found = load_library(backend->sonames[i], failure);
    }
    return found;
}

/* A library that failed to open stays in place: its threads may have started. */
bool open_runtime(struct runtime *runtime, struct failure *failure) {
    if (!runtime->open && !runtime->failed) {
        void *library = find_library(runtime->backend, &runtime->failure);
        runtime->open = library != NULL && runtime->backend->open(library, &runtime->failure);
        runtime->failed = !runtime->open;
    }
    if (runtime->failed) {
        *failure = runtime->failure;
    }
    return runtime->open;
}

/* Return whether a file begins like a TensorFlow Lite model: the identifier "TFL3" at byte 4. */
static bool is_tflite(const char *path) {
    char start[8] = {0};
    FILE *file = fopen(path, "rb");
    if (file != NULL) {
        size_t got = fread(start, 1, sizeof start, file);
        fclose(file);
        return got == sizeof start && memcmp(start + 4, "TFL3", 4) == 0;
    }
    return false;
}

const struct backend *choose_backend(const char *path, struct failure *failure) {
    bool tflite = is_tflite(path);
    for (size_t i = 0; i < RUNTIMES; i++) {
        struct failure reason;
        if ((runtimes[i].backend != &onnxruntime_backend) == tflite) {
            if (open_runtime(&runtimes[i], &reason)) {
                return runtimes[i].backend;
            }
            *failure = reason;
        }
    }
    return NULL;
}
