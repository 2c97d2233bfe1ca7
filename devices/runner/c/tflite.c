/* TensorFlow Lite through its C API (libtensorflowlite_c; tensorflow/lite/c/c_api.h, stable since 2.3).
 *
 * The library applies its default delegate (XNNPACK) by itself. The API tells no open dimensions: they read as 1 unless
 * a shape is given.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"
#include "random.h"
#include "tflite_types.h"

struct tensor;
struct interpreter;
struct options;
struct file;

static struct {
    const char *(*version)(void);
    struct file *(*open_file)(const char *path);
    void (*close_file)(struct file *);
    struct options *(*create_options)(void);
    void (*delete_options)(struct options *);
    void (*set_threads)(struct options *, int32_t threads);
    void (*set_reporter)(struct options *, void (*report)(void *, const char *, va_list), void *);
    struct interpreter *(*create)(const struct file *, const struct options *);
    void (*delete)(struct interpreter *);
    int32_t (*count_inputs)(const struct interpreter *);
    int32_t (*count_outputs)(const struct interpreter *);
    struct tensor *(*get_input)(const struct interpreter *, int32_t index);
    const struct tensor *(*get_output)(const struct interpreter *, int32_t index);
    int (*resize)(struct interpreter *, int32_t index, const int *dims, int32_t rank);
    int (*allocate)(struct interpreter *);
    int (*invoke)(struct interpreter *);
    int (*get_type)(const struct tensor *);
    int32_t (*get_rank)(const struct tensor *);
    int32_t (*get_dim)(const struct tensor *, int32_t index);
    size_t (*get_bytes)(const struct tensor *);
    void *(*get_data)(const struct tensor *);
    const char *(*get_name)(const struct tensor *);
} lite;

struct model {
    struct file *file;
    struct interpreter *interpreter;
    char words[512]; /* the library's last error message */
};

static bool lite_open(void *library, struct failure *failure) {
    const struct symbol symbols[] = {
        {"TfLiteVersion", &lite.version},
        {"TfLiteModelCreateFromFile", &lite.open_file},
        {"TfLiteModelDelete", &lite.close_file},
        {"TfLiteInterpreterOptionsCreate", &lite.create_options},
        {"TfLiteInterpreterOptionsDelete", &lite.delete_options},
        {"TfLiteInterpreterOptionsSetNumThreads", &lite.set_threads},
        {"TfLiteInterpreterOptionsSetErrorReporter", &lite.set_reporter},
        {"TfLiteInterpreterCreate", &lite.create},
        {"TfLiteInterpreterDelete", &lite.delete},
        {"TfLiteInterpreterGetInputTensorCount", &lite.count_inputs},
        {"TfLiteInterpreterGetOutputTensorCount", &lite.count_outputs},
        {"TfLiteInterpreterGetInputTensor", &lite.get_input},
        {"TfLiteInterpreterGetOutputTensor", &lite.get_output},
        {"TfLiteInterpreterResizeInputTensor", &lite.resize},
        {"TfLiteInterpreterAllocateTensors", &lite.allocate},
        {"TfLiteInterpreterInvoke", &lite.invoke},
        {"TfLiteTensorType", &lite.get_type},
        {"TfLiteTensorNumDims", &lite.get_rank},
        {"TfLiteTensorDim", &lite.get_dim},
        {"TfLiteTensorByteSize", &lite.get_bytes},
        {"TfLiteTensorData", &lite.get_data},
        {"TfLiteTensorName", &lite.get_name},
        {NULL, NULL},
    };
    return find_symbols(library, symbols, "the TensorFlow Lite library", failure);
}

static const char *lite_version(void) { return lite.version(); }

__attribute__((format(printf, 2, 0))) static void report(void *state, const char *format, va_list arguments) {
    struct model *model = state;
    vsnprintf(model->words, sizeof model->words, format, arguments);
}

/* Success (status 0), or a failure with the library's own message. */
static bool good(const struct model *model, int status, const char *what, struct failure *failure) {
    if (status == 0) {
        return true;
    }
    return model->words[0] == '\0' ? refuse(failure, "model", "%s failed with status %d", what, status)
                                   : refuse_words(failure, model->words);
}

static const char *name_of(const struct tensor *tensor) {
    const char *name = lite.get_name(tensor);
    return name == NULL ? "" : name;
}

static bool shape_of(const struct tensor *tensor, struct shape *shape, struct failure *failure) {
    int32_t rank = lite.get_rank(tensor);
    if (rank < 0 || rank > MAX_RANK) {
        return refuse(failure, "model", "tensor '%s' has rank %d", name_of(tensor), (int)rank);
    }
    shape->rank = (size_t)rank;
    for (int32_t i = 0; i < rank; i++) {
        shape->dims[i] = lite.get_dim(tensor, i);
    }
    return true;
}

static bool resize_input(struct model *model, const struct load *load, int32_t index, struct failure *failure) {
    const struct tensor *tensor = lite.get_input(model->interpreter, index);
    struct shape wanted;
    int dims[MAX_RANK];
    failure->kind = NULL;
    if (!wanted_shape(load, name_of(tensor), &wanted, failure)) {
        return failure->kind == NULL;
    }
    if ((int32_t)wanted.rank != lite.get_rank(tensor)) {
        return refuse(failure, "shape", "input '%s' has rank %d, not %zu", name_of(tensor), (int)lite.get_rank(tensor),
                      wanted.rank);
    }
    for (size_t i = 0; i < wanted.rank; i++) {
        if (wanted.dims[i] > INT32_MAX) {
            return refuse(failure, "shape", "input '%s' can not be that large", name_of(tensor));
        }
        dims[i] = (int)wanted.dims[i];
    }
    int status = lite.resize(model->interpreter, index, dims, (int32_t)wanted.rank);
    return good(model, status, "giving an input its shape", failure);
}

static bool check_names(const struct model *model, const struct load *load, struct failure *failure) {
    int32_t count = lite.count_inputs(model->interpreter);
    const char **names = calloc((size_t)count + 1, sizeof *names);
    if (names == NULL) {
        return refuse(failure, "memory", "no memory for the names of inputs");
    }
    for (int32_t i = 0; i < count; i++) {
        names[i] = name_of(lite.get_input(model->interpreter, i));
    }
    bool success = only_inputs(load, names, (size_t)count, failure);
    free(names);
    return success;
}

static bool fill_inputs(struct model *model, const struct load *load, struct text *list, struct failure *failure) {
    struct random random = random_seed(load->seed);
    for (int32_t i = 0; i < lite.count_inputs(model->interpreter); i++) {
        struct tensor *tensor = lite.get_input(model->interpreter, i);
        const struct tflite_type *type = tflite_type(lite.get_type(tensor));
        struct shape shape;
        size_t count;
        size_t bytes;
        if (type->size == 0) {
            return refuse(failure, "model", "input '%s' has type %s, which this runner can not make", name_of(tensor),
                          type->name);
        }
        if (!shape_of(tensor, &shape, failure)) {
            return false;
        }
        if (!byte_count(&shape, type->size, &count, &bytes) || bytes != lite.get_bytes(tensor) ||
            (bytes > 0 && lite.get_data(tensor) == NULL)) {
            return refuse(failure, "model", "input '%s' has no memory of its size", name_of(tensor));
        }
        if (bytes > 0) {
            random_fill(&random, type->element, type->size, lite.get_data(tensor), count);
        }
        if (!read_given(load, name_of(tensor), lite.get_data(tensor), bytes, failure)) {
            return false;
        }
        describe(list, name_of(tensor), &shape, type->name);
    }
    return true;
}

static bool list_outputs(const struct model *model, struct text *list, struct failure *failure) {
    for (int32_t i = 0; i < lite.count_outputs(model->interpreter); i++) {
        const struct tensor *tensor = lite.get_output(model->interpreter, i);
        struct shape shape;
        if (!shape_of(tensor, &shape, failure)) {
            return false;
        }
        describe(list, name_of(tensor), &shape, tflite_type(lite.get_type(tensor))->name);
    }
    return true;
}

static bool lite_run(void *state, struct failure *failure) {
    struct model *model = state;
    return good(model, lite.invoke(model->interpreter), "a run", failure);
}

static void lite_unload(void *state) {
    struct model *model = state;
    if (model->interpreter != NULL) {
        lite.delete(model->interpreter);
    }
    if (model->file != NULL) {
        lite.close_file(model->file);
    }
    free(model);
}

static bool fill_model(struct model *model, const struct load *load, struct loaded *loaded, struct failure *failure) {
    if (strcmp(load->level, "disable") == 0) {
        return refuse(failure, "runtime", "this library's C API can not leave XNNPACK out; use libLiteRt");
    }
    model->file = lite.open_file(load->path);
    if (model->file == NULL) {
        return refuse(failure, "model", "%s is no TensorFlow Lite model that this library reads", load->path);
    }
    struct options *options = lite.create_options();
    if (options == NULL) {
        return refuse(failure, "memory", "no memory for the options of an interpreter");
    }
    lite.set_threads(options, load->threads);
    lite.set_reporter(options, report, model);
    model->interpreter = lite.create(model->file, options);
    lite.delete_options(options);
    if (model->interpreter == NULL) {
        return good(model, 1, "making an interpreter", failure);
    }
    if (!check_names(model, load, failure)) {
        return false;
    }
    for (int32_t i = 0; i < lite.count_inputs(model->interpreter); i++) {
        if (!resize_input(model, load, i, failure)) {
            return false;
        }
    }
    if (!good(model, lite.allocate(model->interpreter), "allocating tensors", failure)) {
        return false;
    }
    pool_pin(load->pool);
    if (!fill_inputs(model, load, &loaded->inputs, failure)) {
        return false;
    }
    int64_t started = clock_ns(CLOCK_MONOTONIC);
    if (!lite_run(model, failure)) {
        return false;
    }
    loaded->first_run_ns = clock_ns(CLOCK_MONOTONIC) - started;
    return list_outputs(model, &loaded->outputs, failure);
}

static void *lite_load(const struct load *load, struct loaded *loaded, struct failure *failure) {
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        refuse(failure, "memory", "no memory for a model");
        return NULL;
    }
    if (!fill_model(model, load, loaded, failure)) {
        lite_unload(model);
        return NULL;
    }
    text_add(&loaded->build, "tflite ");
    text_add(&loaded->build, lite.version());
    text_add(&loaded->build, " CPU level=");
    text_add(&loaded->build, load->level);
    text_add(&loaded->build, " threads=");
    text_integer(&loaded->build, load->threads);
    return model;
}

static const char *const sonames[] = {"libtensorflowlite_c.so", NULL};

const struct backend tflite_backend = {
    .name = "tflite",
    .marker = "TfLiteInterpreterCreate",
    .sonames = sonames,
    .open = lite_open,
    .version = lite_version,
    .load = lite_load,
    .run = lite_run,
    .unload = lite_unload,
};
