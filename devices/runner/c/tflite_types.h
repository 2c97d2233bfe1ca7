/* Element types of TensorFlow Lite (c_api_types.h, TfLiteType) and of LiteRT, which numbers them alike. */
#ifndef DEEPEN_TFLITE_TYPES_H
#define DEEPEN_TFLITE_TYPES_H

#include <stddef.h>

#include "random.h"

struct tflite_type {
    const char *name; /* its name in numpy */
    size_t size;      /* 0 if an input of it cannot be made */
    enum element element;
};

const struct tflite_type *tflite_type(int code);

#endif
