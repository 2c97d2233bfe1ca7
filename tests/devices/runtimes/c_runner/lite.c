/* A stand-in for libtensorflowlite_c: the functions of its C API that the runner uses, over a model of one input and
 * one output of two float32 each, out = 2 * in. The first byte after the identifier of a model file chooses a fault:
 * 'c' cannot be created, 'a' cannot be allocated, 'i' cannot be invoked, 's' has a string input, 'n' has no memory.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct file {
    char fault;
};
struct options {
    void (*report)(void *, const char *, va_list);
    void *state;
    int32_t threads;
};
struct tensor {
    const char *name;
    int type;
    int dims[4];
    int32_t rank;
    float *data;
};
struct interpreter {
    char fault;
    struct options options;
    struct tensor input;
    struct tensor output;
};

static int complain(const struct interpreter *interpreter, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    interpreter->options.report(interpreter->options.state, format, arguments);
    va_end(arguments);
    return 1;
}

const char *TfLiteVersion(void) { return "2.99.0"; }

struct file *TfLiteModelCreateFromFile(const char *path) {
    char start[9] = {0};
    FILE *stream = fopen(path, "rb");
    size_t got = stream == NULL ? 0 : fread(start, 1, sizeof start, stream);
    if (stream != NULL) {
        fclose(stream);
    }
    struct file *file = got == sizeof start ? calloc(1, sizeof *file) : NULL;
    if (file != NULL) {
        file->fault = start[8];
    }
    return file;
}

void TfLiteModelDelete(struct file *file) { free(file); }
struct options *TfLiteInterpreterOptionsCreate(void) { return calloc(1, sizeof(struct options)); }
void TfLiteInterpreterOptionsDelete(struct options *options) { free(options); }
void TfLiteInterpreterOptionsSetNumThreads(struct options *options, int32_t threads) { options->threads = threads; }

void TfLiteInterpreterOptionsSetErrorReporter(struct options *options, void (*report)(void *, const char *, va_list),
                                              void *state) {
    options->report = report;
    options->state = state;
}

struct interpreter *TfLiteInterpreterCreate(const struct file *file, const struct options *options) {
    struct interpreter *interpreter = file->fault == 'c' ? NULL : calloc(1, sizeof *interpreter);
    if (interpreter != NULL) {
        interpreter->fault = file->fault;
        interpreter->options = *options;
        interpreter->input = (struct tensor){"in", file->fault == 's' ? 5 : 1, {1, 2}, 2, NULL};
        interpreter->output = (struct tensor){"out", 1, {1, 2}, 2, NULL};
    }
    return interpreter;
}

void TfLiteInterpreterDelete(struct interpreter *interpreter) {
    free(interpreter->input.data);
    free(interpreter->output.data);
    free(interpreter);
}

int32_t TfLiteInterpreterGetInputTensorCount(const struct interpreter *interpreter) { return interpreter != NULL; }
int32_t TfLiteInterpreterGetOutputTensorCount(const struct interpreter *interpreter) { return interpreter != NULL; }

struct tensor *TfLiteInterpreterGetInputTensor(struct interpreter *interpreter, int32_t index) {
    return index == 0 ? &interpreter->input : NULL;
}

const struct tensor *TfLiteInterpreterGetOutputTensor(const struct interpreter *interpreter, int32_t index) {
    return index == 0 ? &interpreter->output : NULL;
}

static size_t elements(const struct tensor *tensor) {
    size_t count = 1;
    for (int32_t i = 0; i < tensor->rank; i++) {
        count *= (size_t)tensor->dims[i];
    }
    return count;
}

int TfLiteInterpreterResizeInputTensor(struct interpreter *interpreter, int32_t index, const int *dims, int32_t rank) {
    if (index != 0 || rank != 2 || dims[1] != 2) {
        return complain(interpreter, "Cannot resize input %d", (int)index);
    }
    interpreter->input.dims[0] = dims[0];
    interpreter->output.dims[0] = dims[0];
    return 0;
}

int TfLiteInterpreterAllocateTensors(struct interpreter *interpreter) {
    if (interpreter->fault == 'a') {
        return complain(interpreter, "failed to allocate %d bytes", 7);
    }
    if (interpreter->fault != 'n') {
        interpreter->input.data = malloc(elements(&interpreter->input) * sizeof(float));
    }
    interpreter->output.data = malloc(elements(&interpreter->output) * sizeof(float));
    return 0;
}

int TfLiteInterpreterInvoke(struct interpreter *interpreter) {
    if (interpreter->fault == 'i') {
        return complain(interpreter, "Node number %d (CONV_2D) failed to invoke", 3);
    }
    for (size_t i = 0; i < elements(&interpreter->input); i++) {
        interpreter->output.data[i] = 2 * interpreter->input.data[i];
    }
    fprintf(stderr, "in[0]=%.9g threads=%d\n", (double)interpreter->input.data[0], (int)interpreter->options.threads);
    return 0;
}

int TfLiteTensorType(const struct tensor *tensor) { return tensor->type; }
int32_t TfLiteTensorNumDims(const struct tensor *tensor) { return tensor->rank; }
int32_t TfLiteTensorDim(const struct tensor *tensor, int32_t index) { return tensor->dims[index]; }
size_t TfLiteTensorByteSize(const struct tensor *tensor) { return elements(tensor) * sizeof(float); }
void *TfLiteTensorData(const struct tensor *tensor) { return tensor->data; }
const char *TfLiteTensorName(const struct tensor *tensor) { return tensor->name; }
