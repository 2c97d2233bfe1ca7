/* Models in ONNX Runtime. Options, binding and the first run follow runner.py. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ort_declared.h"

struct model {
    struct session *session;
    struct binding *binding;
    size_t input_count;
    size_t output_count;
    struct declared *inputs;
    struct declared *outputs;
    struct value **input_values;
    void **input_data;
    struct value **output_values;
    void **output_data;
};

/* Session options: the requested threads, no spinning for a single thread, denormals as zero. */
static bool set_options(const struct load *load, struct options *options, struct failure *failure) {
    static const struct {
        const char *name;
        int value; /* enum GraphOptimizationLevel */
    } levels[] = {{"disable", 0}, {"basic", 1}, {"extended", 2}, {"all", 99}};
    int level = 0;
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (strcmp(levels[i].name, load->level) == 0) {
            level = levels[i].value;
        }
    }
    return ort_good(ort.set_intra_threads(options, load->threads), failure) &&
           ort_good(ort.set_inter_threads(options, 1), failure) &&
           ort_good(ort.set_execution_mode(options, SEQUENTIAL), failure) &&
           ort_good(ort.set_level(options, level), failure) &&
           ort_good(ort.set_log_severity(options, LOG_FATAL), failure) &&
           ort_good(ort.add_entry(options, "session.set_denormal_as_zero", "1"), failure) &&
           ort_good(ort.add_entry(options, "session.inter_op.allow_spinning", "0"), failure) &&
           (load->threads > 1 || ort_good(ort.add_entry(options, "session.intra_op.allow_spinning", "0"), failure)) &&
           (load->shapes == NULL || fix_dimensions(load, options, failure));
}

static struct session *make_session(const struct load *load, struct failure *failure) {
    struct options *options = NULL;
    struct session *session = NULL;
    if (ort_good(ort.create_options(&options), failure) && set_options(load, options, failure) &&
        !ort_good(ort.create_session(ort_environment, load->path, options, &session), failure)) {
        session = NULL;
    }
    ort.release_options(options);
    return session;
}

static struct value *make_strings(const struct shape *shape, size_t count, struct failure *failure) {
    struct value *value = NULL;
    const char **strings = malloc((count == 0 ? 1 : count) * sizeof *strings);
    if (strings == NULL) {
        refuse(failure, "memory", "no memory for %zu strings", count);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        strings[i] = "a";
    }
    if (!ort_good(ort.create_tensor(ort_allocator, shape->dims, shape->rank, ONNX_STRING, &value), failure) ||
        !ort_good(ort.fill_strings(value, strings, count), failure)) {
        ort.release_value(value);
        value = NULL;
    }
    free(strings);
    return value;
}

/* A tensor over memory owned by the runner; NULL after a failure. */
static struct value *make_tensor(const struct shape *shape, int code, void **data, size_t *count,
                                 struct failure *failure) {
    struct value *value = NULL;
    size_t bytes;
    if (!byte_count(shape, code == ONNX_STRING ? sizeof(char *) : ort_type(code)->size, count, &bytes)) {
        refuse(failure, "memory", "a tensor is larger than any memory");
        return NULL;
    }
    if (code == ONNX_STRING) {
        return make_strings(shape, *count, failure);
    }
    *data = buffer(bytes, failure);
    if (*data == NULL ||
        !ort_good(ort.wrap_tensor(ort_memory, *data, bytes, shape->dims, shape->rank, code, &value), failure)) {
        return NULL;
    }
    return value;
}

static bool bind_inputs(struct model *model, const struct load *load, struct text *list, struct failure *failure) {
    struct random random = random_seed(load->seed);
    if (!declared_check_names(load, model->inputs, model->input_count, failure)) {
        return false;
    }
    for (size_t i = 0; i < model->input_count; i++) {
        const struct declared *input = &model->inputs[i];
        const struct ort_type *type = ort_type(input->type);
        struct shape shape;
        failure->kind = NULL;
        bool asked = wanted_shape(load, input->name, &shape, failure);
        if (failure->kind != NULL) {
            return false;
        }
        if (input->type == 0 || (type->size == 0 && input->type != ONNX_STRING)) {
            return refuse(failure, "model", "input '%s' has type %s, which this runner can not make", input->name,
                          input->type == 0 ? "sequence, map or optional" : type->name);
        }
        if (!asked) {
            shape = input->shape;
        }
        if (!asked && (!input->known || !is_static(&shape))) {
            return declared_refuse_open(input, failure);
        }
        size_t count;
        model->input_values[i] = make_tensor(&shape, input->type, &model->input_data[i], &count, failure);
        if (model->input_values[i] == NULL) {
            return false;
        }
        if (model->input_data[i] != NULL) {
            random_fill(&random, type->element, type->size, model->input_data[i], count);
        }
        if (!read_given(load, input->name, model->input_data[i], count * type->size, failure)) {
            return false;
        }
        if (!ort_good(ort.bind_input(model->binding, input->name, model->input_values[i]), failure)) {
            return false;
        }
        describe(list, input->name, &shape, type->name);
    }
    return true;
}

static void drop_outputs(struct model *model) {
    if (model->binding != NULL) {
        ort.clear_outputs(model->binding);
    }
    for (size_t i = 0; i < model->output_count; i++) {
        ort.release_value(model->output_values[i]);
        free(model->output_data[i]);
        model->output_values[i] = NULL;
        model->output_data[i] = NULL;
    }
}

/* Bind outputs to memory of these shapes; where `known` is false the runtime allocates. */
static bool bind_outputs(struct model *model, const struct declared *outputs, bool in_place, struct failure *failure) {
    drop_outputs(model);
    for (size_t i = 0; i < model->output_count; i++) {
        const struct declared *output = &outputs[i];
        const char *name = model->outputs[i].name;
        bool ours = in_place && output->known && is_static(&output->shape) && ort_type(output->type)->size > 0;
        if (!ours) {
            if (!ort_good(ort.bind_output_anywhere(model->binding, name, ort_memory), failure)) {
                return false;
            }
            continue;
        }
        size_t count;
        model->output_values[i] = make_tensor(&output->shape, output->type, &model->output_data[i], &count, failure);
        if (model->output_values[i] == NULL ||
            !ort_good(ort.bind_output(model->binding, name, model->output_values[i]), failure)) {
            return false;
        }
    }
    return true;
}

static bool run_once(struct model *model, struct failure *failure) {
    return ort_good(ort.run(model->session, NULL, model->binding), failure);
}

/* Read one output of the last run; type 0 means that it is not a tensor. */
static bool read_output(const struct value *value, struct declared *actual, struct failure *failure) {
    struct tensor_info *info = NULL;
    int tensor = 0;
    if (!ort_good(ort.is_tensor(value, &tensor), failure)) {
        return false;
    }
    if (!tensor) {
        return true;
    }
    bool success = ort_good(ort.get_value_info(value, &info), failure) && declared_actual(info, actual, failure);
    ort.release_tensor_info(info);
    return success;
}

/* Read the outputs of the last run. */
static bool read_outputs(struct model *model, struct declared *actual, struct failure *failure) {
    struct value **values = NULL;
    size_t count = 0;
    if (!ort_good(ort.get_outputs(model->binding, ort_allocator, &values, &count), failure)) {
        return false;
    }
    bool success = count == model->output_count ||
                   refuse(failure, "model", "%zu outputs came instead of %zu", count, model->output_count);
    for (size_t i = 0; i < count; i++) {
        success = success && read_output(values[i], &actual[i], failure);
        ort.release_value(values[i]);
    }
    return (values == NULL || ort_good(ort.free_memory(ort_allocator, values), failure)) && success;
}

/* Run once and bind the output buffers.
 *
 * Buffers in place save an allocation per run. Inputs are fixed, so an output whose declared shape is open has one
 * shape all the same: the first run tells it. Where a buffer is refused the runtime allocates. */
static bool first_run(struct model *model, struct loaded *loaded, struct failure *failure) {
    bool settled = true;
    for (size_t i = 0; i < model->output_count; i++) {
        settled = settled && model->outputs[i].known && is_static(&model->outputs[i].shape);
    }
    int64_t started = clock_ns(CLOCK_MONOTONIC);
    bool in_place = bind_outputs(model, model->outputs, true, failure) && run_once(model, failure);
    if (!in_place) {
        started = clock_ns(CLOCK_MONOTONIC);
        if (!bind_outputs(model, model->outputs, false, failure) || !run_once(model, failure)) {
            return false;
        }
    }
    loaded->first_run_ns = clock_ns(CLOCK_MONOTONIC) - started;
    struct declared *actual = calloc(model->output_count == 0 ? 1 : model->output_count, sizeof *actual);
    if (actual == NULL) {
        return refuse(failure, "memory", "no memory for %zu outputs", model->output_count);
    }
    bool success = read_outputs(model, actual, failure);
    if (success && !(settled && in_place) &&
        !(bind_outputs(model, actual, true, failure) && run_once(model, failure))) {
        success = bind_outputs(model, model->outputs, in_place, failure) && run_once(model, failure);
    }
    for (size_t i = 0; success && i < model->output_count; i++) {
        describe(&loaded->outputs, model->outputs[i].name, actual[i].known ? &actual[i].shape : NULL,
                 actual[i].type == 0 ? "no tensor" : ort_type(actual[i].type)->name);
    }
    free(actual);
    return success;
}

static void ort_unload(void *state) {
    struct model *model = state;
    if (model->output_values != NULL && model->output_data != NULL) {
        drop_outputs(model);
    }
    ort.release_binding(model->binding);
    for (size_t i = 0; i < model->input_count; i++) {
        if (model->input_values != NULL) {
            ort.release_value(model->input_values[i]);
        }
        if (model->input_data != NULL) {
            free(model->input_data[i]);
        }
    }
    ort.release_session(model->session);
    declared_free(model->inputs, model->input_count);
    declared_free(model->outputs, model->output_count);
    free(model->input_values);
    free(model->input_data);
    free(model->output_values);
    free(model->output_data);
    free(model);
}

static bool fill_model(struct model *model, const struct load *load, struct loaded *loaded, struct failure *failure) {
    model->session = make_session(load, failure);
    if (model->session == NULL || !ort_good(ort.create_binding(model->session, &model->binding), failure)) {
        return false;
    }
    pool_pin(load->pool);
    model->inputs = declared_read(model->session, true, &model->input_count, failure);
    model->outputs = model->inputs == NULL ? NULL : declared_read(model->session, false, &model->output_count, failure);
    if (model->outputs == NULL) {
        return false;
    }
    model->input_values = calloc(model->input_count + 1, sizeof *model->input_values);
    model->input_data = calloc(model->input_count + 1, sizeof *model->input_data);
    model->output_values = calloc(model->output_count + 1, sizeof *model->output_values);
    model->output_data = calloc(model->output_count + 1, sizeof *model->output_data);
    if (model->input_values == NULL || model->input_data == NULL || model->output_values == NULL ||
        model->output_data == NULL) {
        return refuse(failure, "memory", "no memory for the tensors of a model");
    }
    return bind_inputs(model, load, &loaded->inputs, failure) && first_run(model, loaded, failure);
}

static void *ort_load(const struct load *load, struct loaded *loaded, struct failure *failure) {
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        refuse(failure, "memory", "no memory for a model");
        return NULL;
    }
    if (!fill_model(model, load, loaded, failure)) {
        ort_unload(model);
        return NULL;
    }
    text_add(&loaded->build, "onnxruntime ");
    text_add(&loaded->build, ort_version());
    text_add(&loaded->build, " CPUExecutionProvider level=");
    text_add(&loaded->build, load->level);
    text_add(&loaded->build, " threads=");
    text_integer(&loaded->build, load->threads);
    return model;
}

static bool ort_run(void *state, struct failure *failure) { return run_once(state, failure); }

static const char *const sonames[] = {"libonnxruntime.so", "libonnxruntime.so.1", NULL};

const struct backend onnxruntime_backend = {
    .name = "onnxruntime",
    .marker = "OrtGetApiBase",
    .sonames = sonames,
    .open = ort_open,
    .version = ort_version,
    .load = ort_load,
    .run = ort_run,
    .unload = ort_unload,
};
