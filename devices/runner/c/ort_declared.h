/* Declared inputs and outputs of a model, and their match with requested shapes. */
#ifndef DEEPEN_ORT_DECLARED_H
#define DEEPEN_ORT_DECLARED_H

#include "ort_api.h"

/* An input or output as the model declares it. */
struct declared {
    char *name;
    int type;                /* ONNX TensorProto.DataType; 0: no tensor */
    bool known;              /* true if the rank is known */
    struct shape shape;      /* -1: open */
    char *symbols[MAX_RANK]; /* names of open dimensions; NULL: none */
};

/* Return whether every dimension is a known size. */
bool is_static(const struct shape *shape);

/* Every input or output of a session; NULL after a failure. */
struct declared *declared_read(const struct session *session, bool input, size_t *count, struct failure *failure);
void declared_free(struct declared *all, size_t count);

/* Element type and shape of an output value of a run. */
bool declared_actual(const struct tensor_info *info, struct declared *actual, struct failure *failure);

/* Refuse an input that leaves dimensions open. */
bool declared_refuse_open(const struct declared *input, struct failure *failure);

/* Fix the sizes of named open dimensions, found by matching the wanted shapes with the declared ones; costs a second,
 * unoptimised load of the model. */
bool fix_dimensions(const struct load *load, struct options *options, struct failure *failure);

/* Refuse shapes or values for inputs the model does not have. */
bool declared_check_names(const struct load *load, const struct declared *inputs, size_t count,
                          struct failure *failure);

#endif
