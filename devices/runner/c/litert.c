/* LiteRT through its compiled-model C API (libLiteRt; litert/c in google-ai-edge/LiteRT), releases 2.2 and newer.
 *
 * Before 2.2 functions of the same names took other parameters; the library is known by a function that came with them.
 * It tells no version. The first signature of a model is run, on the CPU.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"
#include "random.h"
#include "tflite_types.h"

struct buffer;
struct compiled;
struct environment;
struct file;
struct opaque;
struct options;
struct requirements;
struct signature;
struct tensor;

enum { LITE_MAX_RANK = 8, ACCELERATOR_CPU = 1, LOCK_WRITE = 1, STATUS_MEMORY = 2 };

/* litert_layout.h and litert_model_types.h: 68 and 72 bytes since 2.1. */
struct layout {
    uint32_t rank_and_flag; /* the rank in the lower seven bits, whether there are strides in the next one */
    int32_t dims[LITE_MAX_RANK];
    uint32_t strides[LITE_MAX_RANK];
};

struct ranked {
    int32_t type;
    struct layout layout;
};

_Static_assert(sizeof(struct ranked) == 72, "must be laid out as the library lays it out");

static struct {
    int (*create_environment)(int count, const void *options, struct environment **out);
    int (*open_file)(struct environment *, const char *path, struct file **out);
    void (*close_file)(struct file *);
    int (*create_options)(struct options **out);
    void (*destroy_options)(struct options *);
    int (*set_accelerators)(struct options *, int accelerators);
    int (*create_opaque)(const char *name, void *payload, void (*release)(void *), struct opaque **out);
    void (*destroy_opaque)(struct opaque *);
    int (*add_opaque)(struct options *, struct opaque *);
    int (*compile)(struct environment *, struct file *, struct options *, struct compiled **out);
    void (*destroy_compiled)(struct compiled *);
    int (*get_signature)(struct file *, size_t index, struct signature **out);
    int (*count_inputs)(struct signature *, size_t *out);
    int (*count_outputs)(struct signature *, size_t *out);
    int (*input_name)(struct signature *, size_t index, const char **out);
    int (*output_name)(struct signature *, size_t index, const char **out);
    int (*input_tensor)(struct signature *, size_t index, struct tensor **out);
    int (*output_tensor)(struct signature *, size_t index, struct tensor **out);
    int (*ranked_type)(struct tensor *, struct ranked *out);
    int (*resize)(struct compiled *, size_t signature, size_t input, const int *dims, size_t rank);
    int (*input_needs)(struct compiled *, size_t signature, size_t input, struct requirements **out);
    int (*output_needs)(struct compiled *, size_t signature, size_t output, struct requirements **out);
    int (*output_layouts)(struct compiled *, size_t signature, size_t count, struct layout *out, bool allocate);
    int (*create_buffer)(struct environment *, const struct ranked *, struct requirements *, struct buffer **out);
    void (*destroy_buffer)(struct buffer *);
    int (*buffer_size)(struct buffer *, size_t *out);
    int (*lock)(struct buffer *, void **out, int mode);
    int (*unlock)(struct buffer *);
    int (*run)(struct compiled *, size_t signature, size_t input_count, struct buffer **inputs, size_t output_count,
               struct buffer **outputs);
} rt;

static struct environment *environment;

struct model {
    struct file *file;
    struct compiled *compiled;
    struct signature *signature; /* belongs to file */
    size_t input_count;
    size_t output_count;
    struct buffer **inputs;
    struct buffer **outputs;
};

static bool good(int status, const char *what, struct failure *failure) {
    return status == 0 || refuse(failure, status == STATUS_MEMORY ? "memory" : "model",
                                 "%s failed with LiteRT's status %d (see the log)", what, status);
}

static bool rt_open(void *library, struct failure *failure) {
    void *since_2_2 = NULL;
    const struct symbol age[] = {{"LiteRtCreateModelFromAllocation", &since_2_2}, {NULL, NULL}};
    const struct symbol symbols[] = {
        {"LiteRtCreateEnvironment", &rt.create_environment},
        {"LiteRtCreateModelFromFile", &rt.open_file},
        {"LiteRtDestroyModel", &rt.close_file},
        {"LiteRtCreateOptions", &rt.create_options},
        {"LiteRtDestroyOptions", &rt.destroy_options},
        {"LiteRtSetOptionsHardwareAccelerators", &rt.set_accelerators},
        {"LiteRtCreateOpaqueOptions", &rt.create_opaque},
        {"LiteRtDestroyOpaqueOptions", &rt.destroy_opaque},
        {"LiteRtAddOpaqueOptions", &rt.add_opaque},
        {"LiteRtCreateCompiledModel", &rt.compile},
        {"LiteRtDestroyCompiledModel", &rt.destroy_compiled},
        {"LiteRtGetModelSignature", &rt.get_signature},
        {"LiteRtGetNumSignatureInputs", &rt.count_inputs},
        {"LiteRtGetNumSignatureOutputs", &rt.count_outputs},
        {"LiteRtGetSignatureInputName", &rt.input_name},
        {"LiteRtGetSignatureOutputName", &rt.output_name},
        {"LiteRtGetSignatureInputTensorByIndex", &rt.input_tensor},
        {"LiteRtGetSignatureOutputTensorByIndex", &rt.output_tensor},
        {"LiteRtGetRankedTensorType", &rt.ranked_type},
        {"LiteRtCompiledModelResizeInputTensorNonStrict", &rt.resize},
        {"LiteRtGetCompiledModelInputBufferRequirements", &rt.input_needs},
        {"LiteRtGetCompiledModelOutputBufferRequirements", &rt.output_needs},
        {"LiteRtGetCompiledModelOutputTensorLayouts", &rt.output_layouts},
        {"LiteRtCreateManagedTensorBufferFromRequirements", &rt.create_buffer},
        {"LiteRtDestroyTensorBuffer", &rt.destroy_buffer},
        {"LiteRtGetTensorBufferPackedSize", &rt.buffer_size},
        {"LiteRtLockTensorBuffer", &rt.lock},
        {"LiteRtUnlockTensorBuffer", &rt.unlock},
        {"LiteRtRunCompiledModel", &rt.run},
        {NULL, NULL},
    };
    if (!find_symbols(library, age, "libLiteRt before 2.2", failure) ||
        !find_symbols(library, symbols, "libLiteRt", failure)) {
        return false;
    }
    if (!good(rt.create_environment(0, NULL, &environment), "making an environment", failure)) {
        failure->kind = "runtime";
        return false;
    }
    return true;
}

static const char *rt_version(void) { return "2.2 or newer"; }

static bool make_compiled(struct model *model, const struct load *load, struct failure *failure) {
    struct options *options = NULL;
    struct opaque *opaque = NULL;
    char words[64];
    const char *mode = strcmp(load->level, "disable") == 0 ? "builtin" : "xnnpack";
    snprintf(words, sizeof words, "kernel_mode = \"%s\"\nnum_threads = %d\n", mode, load->threads);
    char *payload = strdup(words); /* TOML, read by the CPU accelerator, released by the library */
    if (payload == NULL) {
        return refuse(failure, "memory", "no memory for options");
    }
    if (!good(rt.create_opaque("xnnpack", payload, free, &opaque), "making CPU options", failure)) {
        free(payload);
        return false;
    }
    bool success = good(rt.create_options(&options), "making options", failure);
    if (!success || !good(rt.add_opaque(options, opaque), "adding CPU options", failure)) {
        rt.destroy_opaque(opaque);
        success = false;
    }
    success = success && good(rt.set_accelerators(options, ACCELERATOR_CPU), "choosing the CPU", failure) &&
              good(rt.compile(environment, model->file, options, &model->compiled), "compiling the model", failure);
    if (options != NULL) {
        rt.destroy_options(options);
    }
    return success;
}

static struct shape shape_of(const struct layout *layout) {
    struct shape shape = {.rank = layout->rank_and_flag & 0x7F};
    shape.rank = shape.rank > LITE_MAX_RANK ? LITE_MAX_RANK : shape.rank;
    for (size_t i = 0; i < shape.rank; i++) {
        shape.dims[i] = layout->dims[i];
    }
    return shape;
}

static bool resize_input(struct model *model, size_t index, const char *name, const struct shape *wanted,
                         struct ranked *ranked, struct failure *failure) {
    int dims[LITE_MAX_RANK];
    size_t rank = ranked->layout.rank_and_flag & 0x7F;
    if (wanted->rank != rank || rank > LITE_MAX_RANK) {
        return refuse(failure, "shape", "input '%s' has rank %zu, not %zu", name, rank, wanted->rank);
    }
    for (size_t i = 0; i < rank; i++) {
        if (wanted->dims[i] > INT32_MAX) {
            return refuse(failure, "shape", "input '%s' can not be that large", name);
        }
        dims[i] = (int)wanted->dims[i];
        ranked->layout.dims[i] = dims[i];
    }
    return good(rt.resize(model->compiled, 0, index, dims, rank), "giving an input its shape", failure);
}

static bool fill_input(struct model *model, const struct load *load, const char *name, size_t index,
                       const struct tflite_type *type, size_t count, struct random *random, struct failure *failure) {
    size_t bytes = count * type->size;
    void *data = NULL;
    size_t size = 0;
    if (!good(rt.buffer_size(model->inputs[index], &size), "asking for a buffer's size", failure)) {
        return false;
    }
    if (size < bytes) {
        return refuse(failure, "model", "an input of %zu bytes got %zu", bytes, size);
    }
    if (!good(rt.lock(model->inputs[index], &data, LOCK_WRITE), "locking an input", failure)) {
        return false;
    }
    random_fill(random, type->element, type->size, data, count);
    bool fits = read_given(load, name, data, bytes, failure);
    return good(rt.unlock(model->inputs[index]), "unlocking an input", failure) && fits;
}

static bool make_input(struct model *model, const struct load *load, size_t index, struct random *random,
                       struct text *list, struct failure *failure) {
    const char *name = NULL;
    struct tensor *tensor = NULL;
    struct ranked ranked = {0};
    struct requirements *needs = NULL;
    struct shape wanted;
    if (!good(rt.input_name(model->signature, index, &name), "naming an input", failure) ||
        !good(rt.input_tensor(model->signature, index, &tensor), "finding an input", failure) ||
        !good(rt.ranked_type(tensor, &ranked), "asking for an input's type", failure)) {
        return false;
    }
    const struct tflite_type *type = tflite_type(ranked.type);
    if (type->size == 0) {
        return refuse(failure, "model", "input '%s' has type %s, which this runner can not make", name, type->name);
    }
    failure->kind = NULL;
    if (wanted_shape(load, name, &wanted, failure)) {
        if (!resize_input(model, index, name, &wanted, &ranked, failure)) {
            return false;
        }
    } else if (failure->kind != NULL) {
        return false;
    }
    struct shape shape = shape_of(&ranked.layout);
    for (size_t i = 0; i < shape.rank; i++) {
        if (shape.dims[i] < 0) {
            return refuse(failure, "shape", "input '%s' leaves dimension %zu open; give its shape", name, i);
        }
    }
    size_t count;
    size_t bytes;
    if (!byte_count(&shape, type->size, &count, &bytes)) {
        return refuse(failure, "memory", "input '%s' is larger than any memory", name);
    }
    if (!good(rt.input_needs(model->compiled, 0, index, &needs), "asking what an input needs", failure) ||
        !good(rt.create_buffer(environment, &ranked, needs, &model->inputs[index]), "making an input", failure) ||
        !fill_input(model, load, name, index, type, count, random, failure)) {
        return false;
    }
    describe(list, name, &shape, type->name);
    return true;
}

static bool check_names(const struct model *model, const struct load *load, struct failure *failure) {
    const char **names = calloc(model->input_count + 1, sizeof *names);
    bool success = names != NULL || refuse(failure, "memory", "no memory for the names of inputs");
    for (size_t i = 0; success && i < model->input_count; i++) {
        success = good(rt.input_name(model->signature, i, &names[i]), "naming an input", failure);
    }
    success = success && only_inputs(load, names, model->input_count, failure);
    free(names);
    return success;
}

static bool make_outputs(struct model *model, struct text *list, struct failure *failure) {
    struct layout *layouts = calloc(model->output_count + 1, sizeof *layouts);
    if (layouts == NULL) {
        return refuse(failure, "memory", "no memory for %zu outputs", model->output_count);
    }
    bool success = good(rt.output_layouts(model->compiled, 0, model->output_count, layouts, true),
                        "asking for the outputs' shapes", failure);
    for (size_t i = 0; success && i < model->output_count; i++) {
        const char *name = NULL;
        struct tensor *tensor = NULL;
        struct ranked ranked = {0};
        struct requirements *needs = NULL;
        success = good(rt.output_name(model->signature, i, &name), "naming an output", failure) &&
                  good(rt.output_tensor(model->signature, i, &tensor), "finding an output", failure) &&
                  good(rt.ranked_type(tensor, &ranked), "asking for an output's type", failure);
        if (success) {
            ranked.layout = layouts[i];
            struct shape shape = shape_of(&layouts[i]);
            success =
                good(rt.output_needs(model->compiled, 0, i, &needs), "asking what an output needs", failure) &&
                good(rt.create_buffer(environment, &ranked, needs, &model->outputs[i]), "making an output", failure);
            describe(list, name, &shape, tflite_type(ranked.type)->name);
        }
    }
    free(layouts);
    return success;
}

static bool rt_run(void *state, struct failure *failure) {
    struct model *model = state;
    return good(rt.run(model->compiled, 0, model->input_count, model->inputs, model->output_count, model->outputs),
                "a run", failure);
}

static void destroy_buffers(struct buffer **buffers, size_t count) {
    for (size_t i = 0; buffers != NULL && i < count; i++) {
        if (buffers[i] != NULL) {
            rt.destroy_buffer(buffers[i]);
        }
    }
    free(buffers);
}

static void rt_unload(void *state) {
    struct model *model = state;
    destroy_buffers(model->inputs, model->input_count);
    destroy_buffers(model->outputs, model->output_count);
    if (model->compiled != NULL) {
        rt.destroy_compiled(model->compiled);
    }
    if (model->file != NULL) {
        rt.close_file(model->file);
    }
    free(model);
}

static bool fill_model(struct model *model, const struct load *load, struct loaded *loaded, struct failure *failure) {
    if (!good(rt.open_file(environment, load->path, &model->file), "reading the model", failure) ||
        !make_compiled(model, load, failure) ||
        !good(rt.get_signature(model->file, 0, &model->signature), "finding the first signature", failure) ||
        !good(rt.count_inputs(model->signature, &model->input_count), "counting inputs", failure) ||
        !good(rt.count_outputs(model->signature, &model->output_count), "counting outputs", failure) ||
        !check_names(model, load, failure)) {
        return false;
    }
    pool_pin(load->pool);
    model->inputs = calloc(model->input_count + 1, sizeof(struct buffer *));
    model->outputs = calloc(model->output_count + 1, sizeof(struct buffer *));
    if (model->inputs == NULL || model->outputs == NULL) {
        return refuse(failure, "memory", "no memory for the tensors of a model");
    }
    struct random random = random_seed(load->seed);
    for (size_t i = 0; i < model->input_count; i++) {
        if (!make_input(model, load, i, &random, &loaded->inputs, failure)) {
            return false;
        }
    }
    if (!make_outputs(model, &loaded->outputs, failure)) {
        return false;
    }
    int64_t started = clock_ns(CLOCK_MONOTONIC);
    bool success = rt_run(model, failure);
    loaded->first_run_ns = clock_ns(CLOCK_MONOTONIC) - started;
    return success;
}

static void *rt_load(const struct load *load, struct loaded *loaded, struct failure *failure) {
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        refuse(failure, "memory", "no memory for a model");
        return NULL;
    }
    if (!fill_model(model, load, loaded, failure)) {
        rt_unload(model);
        return NULL;
    }
    text_add(&loaded->build, "litert CPU level=");
    text_add(&loaded->build, load->level);
    text_add(&loaded->build, " threads=");
    text_integer(&loaded->build, load->threads);
    return model;
}

static const char *const sonames[] = {"libLiteRt.so", NULL};

const struct backend litert_backend = {
    .name = "litert",
    .marker = "LiteRtCreateCompiledModel",
    .sonames = sonames,
    .open = rt_open,
    .version = rt_version,
    .load = rt_load,
    .run = rt_run,
    .unload = rt_unload,
};
