#include "ort_api.h"

#include <stdlib.h>

enum { API_OLDEST = 5, API_RANKS = 24, SLOT_HAS_SHAPE = 390 };

typedef void (*slot)(void);

struct base {
    const slot *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};

static const char *version_text = "";
struct ort ort;
struct environment *ort_environment;
struct memory_info *ort_memory;
struct allocator *ort_allocator;

static const struct ort_type types[] = {
    [1] = {"tensor(float)", 4, ELEMENT_FLOAT32},       [2] = {"tensor(uint8)", 1, ELEMENT_ZEROS},
    [3] = {"tensor(int8)", 1, ELEMENT_ZEROS},          [4] = {"tensor(uint16)", 2, ELEMENT_ZEROS},
    [5] = {"tensor(int16)", 2, ELEMENT_ZEROS},         [6] = {"tensor(int32)", 4, ELEMENT_ZEROS},
    [7] = {"tensor(int64)", 8, ELEMENT_ZEROS},         [ONNX_STRING] = {"tensor(string)", 0, ELEMENT_ZEROS},
    [9] = {"tensor(bool)", 1, ELEMENT_BOOL},           [10] = {"tensor(float16)", 2, ELEMENT_FLOAT16},
    [11] = {"tensor(double)", 8, ELEMENT_FLOAT64},     [12] = {"tensor(uint32)", 4, ELEMENT_ZEROS},
    [13] = {"tensor(uint64)", 8, ELEMENT_ZEROS},       [14] = {"tensor(complex64)", 0, ELEMENT_ZEROS},
    [15] = {"tensor(complex128)", 0, ELEMENT_ZEROS},   [16] = {"tensor(bfloat16)", 2, ELEMENT_BFLOAT16},
    [17] = {"tensor(float8e4m3fn)", 0, ELEMENT_ZEROS}, [18] = {"tensor(float8e4m3fnuz)", 0, ELEMENT_ZEROS},
    [19] = {"tensor(float8e5m2)", 0, ELEMENT_ZEROS},   [20] = {"tensor(float8e5m2fnuz)", 0, ELEMENT_ZEROS},
    [21] = {"tensor(uint4)", 0, ELEMENT_ZEROS},        [22] = {"tensor(int4)", 0, ELEMENT_ZEROS},
};

const struct ort_type *ort_type(int code) {
    static const struct ort_type unknown = {"a type of its own", 0, ELEMENT_ZEROS};
    size_t count = sizeof types / sizeof types[0];
    return code > 0 && (size_t)code < count && types[code].name != NULL ? &types[code] : &unknown;
}

bool ort_good(struct status *status, struct failure *failure) {
    if (status == NULL) {
        return true;
    }
    refuse_words(failure, ort.get_message(status));
    ort.release_status(status);
    return false;
}

bool ort_open(void *library, struct failure *failure) {
    const struct base *(*get_base)(void) = NULL;
    const struct symbol symbols[] = {{"OrtGetApiBase", &get_base}, {NULL, NULL}};
    if (!find_symbols(library, symbols, "ONNX Runtime", failure)) {
        return false;
    }
    const struct base *base = get_base();
    version_text = base->get_version();
    char *end;
    long major = strtol(version_text, &end, 10);
    long minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
    bool ranks = major > 1 || (major == 1 && minor >= API_RANKS);
    const slot *table = base->get_api(ranks ? API_RANKS : API_OLDEST);
    if (table == NULL) {
        return refuse(failure, "runtime", "ONNX Runtime %s is too old; 1.%d or newer is needed", version_text,
                      API_OLDEST);
    }
#define TAKE_FUNCTION(place, name, parameters) ort.name = (struct status * (*)parameters) table[place];
#define TAKE_RELEASE(place, name, type) ort.name = (void (*)(type *))table[place];
    ORT_FUNCTIONS(TAKE_FUNCTION)
    ORT_RELEASES(TAKE_RELEASE)
    ort.get_message = (const char *(*)(const struct status *))table[2];
    ort.clear_outputs = (void (*)(struct binding *))table[142];
    ort.has_shape = ranks ? (bool (*)(const struct tensor_info *))table[SLOT_HAS_SHAPE] : NULL;
    if (ort_good(ort.create_environment(LOG_FATAL, "deepen", &ort_environment), failure) &&
        ort_good(ort.create_memory_info(DEVICE_ALLOCATOR, DEFAULT_MEMORY, &ort_memory), failure) &&
        ort_good(ort.get_allocator(&ort_allocator), failure)) {
        return true;
    }
    failure->kind = "runtime";
    return false;
}

const char *ort_version(void) { return version_text; }
