#include "tflite_types.h"

const struct tflite_type *tflite_type(int code) {
    static const struct tflite_type unknown = {"a type of its own", 0, ELEMENT_ZEROS};
    static const struct tflite_type types[] = {
        [1] = {"float32", 4, ELEMENT_FLOAT32},    [2] = {"int32", 4, ELEMENT_ZEROS},
        [3] = {"uint8", 1, ELEMENT_ZEROS},        [4] = {"int64", 8, ELEMENT_ZEROS},
        [5] = {"string", 0, ELEMENT_ZEROS},       [6] = {"bool", 1, ELEMENT_BOOL},
        [7] = {"int16", 2, ELEMENT_ZEROS},        [8] = {"complex64", 0, ELEMENT_ZEROS},
        [9] = {"int8", 1, ELEMENT_ZEROS},         [10] = {"float16", 2, ELEMENT_FLOAT16},
        [11] = {"float64", 8, ELEMENT_FLOAT64},   [13] = {"uint64", 8, ELEMENT_ZEROS},
        [16] = {"uint32", 4, ELEMENT_ZEROS},      [17] = {"uint16", 2, ELEMENT_ZEROS},
        [19] = {"bfloat16", 2, ELEMENT_BFLOAT16},
    };
    size_t count = sizeof types / sizeof types[0];
    return code > 0 && (size_t)code < count && types[code].name != NULL ? &types[code] : &unknown;
}
