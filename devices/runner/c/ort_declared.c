#include "ort_declared.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool is_static(const struct shape *shape) {
    for (size_t i = 0; i < shape->rank; i++) {
        if (shape->dims[i] < 0) {
            return false;
        }
    }
    return true;
}

/* Element type and shape; symbols may be NULL. A tensor of rank above MAX_RANK counts as one of unknown rank. */
static bool read_info(const struct tensor_info *info, struct declared *declared, bool symbols,
                      struct failure *failure) {
    const char *names[MAX_RANK] = {NULL};
    size_t rank;
    if (!ort_good(ort.get_element_type(info, &declared->type), failure) ||
        !ort_good(ort.get_rank(info, &rank), failure)) {
        return false;
    }
    declared->known = rank <= MAX_RANK && (!symbols || ort.has_shape == NULL || ort.has_shape(info));
    if (!declared->known) {
        return true;
    }
    declared->shape.rank = rank;
    if (rank == 0) {
        return true;
    }
    if (!ort_good(ort.get_dims(info, declared->shape.dims, rank), failure) ||
        (symbols && !ort_good(ort.get_symbols(info, names, rank), failure))) {
        return false;
    }
    for (size_t i = 0; i < rank; i++) {
        if (names[i] != NULL && names[i][0] != '\0') {
            declared->symbols[i] = strdup(names[i]);
            if (declared->symbols[i] == NULL) {
                return refuse(failure, "memory", "no memory for a name");
            }
        }
    }
    return true;
}

bool declared_actual(const struct tensor_info *info, struct declared *actual, struct failure *failure) {
    return read_info(info, actual, false, failure);
}

static bool read_declared(const struct session *session, size_t index, bool input, struct declared *declared,
                          struct failure *failure) {
    struct type_info *type = NULL;
    const struct tensor_info *info = NULL; /* belongs to type */
    char *name = NULL;
    if (!ort_good((input ? ort.get_input_name : ort.get_output_name)(session, index, ort_allocator, &name), failure)) {
        return false;
    }
    declared->name = strdup(name);
    bool success = ort_good(ort.free_memory(ort_allocator, name), failure);
    if (declared->name == NULL) {
        return refuse(failure, "memory", "no memory for a name");
    }
    success = success && ort_good((input ? ort.get_input_type : ort.get_output_type)(session, index, &type), failure) &&
              ort_good(ort.get_tensor_info(type, &info), failure);
    if (success && info != NULL) {
        success = read_info(info, declared, true, failure);
    }
    ort.release_type_info(type);
    return success;
}

void declared_free(struct declared *all, size_t count) {
    for (size_t i = 0; all != NULL && i < count; i++) {
        for (size_t k = 0; k < MAX_RANK; k++) {
            free(all[i].symbols[k]);
        }
        free(all[i].name);
    }
    free(all);
}

struct declared *declared_read(const struct session *session, bool input, size_t *count, struct failure *failure) {
    *count = 0;
    size_t total;
    if (!ort_good((input ? ort.count_inputs : ort.count_outputs)(session, &total), failure)) {
        return NULL;
    }
    struct declared *all = calloc(total == 0 ? 1 : total, sizeof *all);
    if (all == NULL) {
        refuse(failure, "memory", "no memory for %zu inputs or outputs", total);
        return NULL;
    }
    for (size_t i = 0; i < total; i++) {
        if (!read_declared(session, i, input, &all[i], failure)) {
            declared_free(all, total);
            return NULL;
        }
    }
    *count = total;
    return all;
}

/* A declared shape as Python shows a list: [1, 'batch', None]. */
static void declared_words(const struct declared *declared, char *words, size_t size) {
    size_t used = (size_t)snprintf(words, size, "[");
    for (size_t i = 0; i < declared->shape.rank && used < size; i++) {
        const char *comma = i == 0 ? "" : ", ";
        if (declared->shape.dims[i] >= 0) {
            used += (size_t)snprintf(words + used, size - used, "%s%lld", comma, (long long)declared->shape.dims[i]);
        } else if (declared->symbols[i] != NULL) {
            used += (size_t)snprintf(words + used, size - used, "%s'%s'", comma, declared->symbols[i]);
        } else {
            used += (size_t)snprintf(words + used, size - used, "%sNone", comma);
        }
    }
    if (used < size) {
        snprintf(words + used, size - used, "]");
    }
}

bool declared_refuse_open(const struct declared *input, struct failure *failure) {
    char loose[256] = "rank";
    size_t used = 0;
    for (size_t i = 0; input->known && i < input->shape.rank && used < sizeof loose; i++) {
        if (input->shape.dims[i] < 0) {
            const char *name = input->symbols[i] == NULL ? "None" : input->symbols[i];
            used += (size_t)snprintf(loose + used, sizeof loose - used, "%s%s", used == 0 ? "" : ", ", name);
        }
    }
    return refuse(failure, "shape", "input '%s' leaves %s open; give its shape", input->name, loose);
}

/* Sizes of the named open dimensions, found by matching the wanted shapes with the declared ones. */
struct sizes {
    struct {
        const char *name; /* belongs to the declared inputs */
        int64_t size;
    } *items;
    size_t count;
};

static bool add_size(struct sizes *sizes, const char *name, int64_t size, struct failure *failure) {
    for (size_t i = 0; i < sizes->count; i++) {
        if (strcmp(sizes->items[i].name, name) == 0) {
            return sizes->items[i].size == size ||
                   refuse(failure, "shape", "dimension '%s' is asked to be both %lld and %lld", name,
                          (long long)sizes->items[i].size, (long long)size);
        }
    }
    void *items = realloc(sizes->items, (sizes->count + 1) * sizeof *sizes->items);
    if (items == NULL) {
        return refuse(failure, "memory", "no memory for the sizes of dimensions");
    }
    sizes->items = items;
    sizes->items[sizes->count].name = name;
    sizes->items[sizes->count].size = size;
    sizes->count++;
    return true;
}

static bool match(const struct declared *declared, const struct shape *wanted, struct sizes *sizes,
                  struct failure *failure) {
    const struct shape *have = &declared->shape;
    bool scalar_or_unknown = !declared->known || (have->rank == 0 && ort.has_shape == NULL);
    if (!scalar_or_unknown && have->rank != wanted->rank) {
        return refuse(failure, "shape", "input '%s' has rank %zu, not %zu", declared->name, have->rank, wanted->rank);
    }
    for (size_t i = 0; i < have->rank && i < wanted->rank; i++) {
        if (have->dims[i] >= 0 && have->dims[i] != wanted->dims[i]) {
            char old[256];
            char new[256];
            declared_words(declared, old, sizeof old);
            shape_words(wanted, new, sizeof new);
            return refuse(failure, "shape", "input '%s' is declared %s; %s does not fit", declared->name, old, new);
        }
        /* PaddlePaddle's exporter names every open dimension "?": equal names, unequal sizes. */
        bool named = declared->symbols[i] != NULL && strcmp(declared->symbols[i], "?") != 0;
        if (have->dims[i] < 0 && named &&
            !add_size(sizes, declared->symbols[i], wanted->dims[i], failure)) {
            return false;
        }
    }
    return true;
}

bool declared_check_names(const struct load *load, const struct declared *inputs, size_t count,
                          struct failure *failure) {
    const char **names = calloc(count + 1, sizeof *names);
    if (names == NULL) {
        return refuse(failure, "memory", "no memory for the names of inputs");
    }
    for (size_t i = 0; i < count; i++) {
        names[i] = inputs[i].name;
    }
    bool success = only_inputs(load, names, count, failure);
    free(names);
    return success;
}

static bool set_sizes(const struct load *load, const struct declared *inputs, size_t count, struct options *options,
                      struct failure *failure) {
    struct sizes sizes = {0};
    bool success = declared_check_names(load, inputs, count, failure);
    for (size_t i = 0; success && i < count; i++) {
        struct shape wanted;
        failure->kind = NULL;
        if (wanted_shape(load, inputs[i].name, &wanted, failure)) {
            success = match(&inputs[i], &wanted, &sizes, failure);
        } else {
            success = failure->kind == NULL;
        }
    }
    for (size_t i = 0; success && i < sizes.count; i++) {
        success = ort_good(ort.set_dimension(options, sizes.items[i].name, sizes.items[i].size), failure);
    }
    free(sizes.items);
    return success;
}

bool fix_dimensions(const struct load *load, struct options *options, struct failure *failure) {
    struct options *plain = NULL;
    struct session *session = NULL;
    size_t count = 0;
    bool success = ort_good(ort.create_options(&plain), failure) && ort_good(ort.set_level(plain, 0), failure) &&
                   ort_good(ort.set_intra_threads(plain, 1), failure) &&
                   ort_good(ort.set_log_severity(plain, LOG_FATAL), failure) &&
                   ort_good(ort.create_session(ort_environment, load->path, plain, &session), failure);
    struct declared *inputs = success ? declared_read(session, true, &count, failure) : NULL;
    success = inputs != NULL && set_sizes(load, inputs, count, options, failure);
    declared_free(inputs, count);
    ort.release_session(session);
    ort.release_options(plain);
    return success;
}
