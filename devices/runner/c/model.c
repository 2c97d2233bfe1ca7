#include "model.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool refuse(struct failure *failure, const char *kind, const char *format, ...) {
    va_list arguments;
    failure->kind = kind;
    va_start(arguments, format);
    vsnprintf(failure->message, sizeof failure->message, format, arguments);
    va_end(arguments);
    return false;
}

static char lower(char letter) { return letter >= 'A' && letter <= 'Z' ? (char)(letter - 'A' + 'a') : letter; }

static bool contains(const char *words, const char *part) {
    size_t length = strlen(part);
    for (; *words != '\0'; words++) {
        size_t same = 0;
        while (same < length && lower(words[same]) == part[same]) {
            same++;
        }
        if (same == length) {
            return true;
        }
    }
    return false;
}

bool refuse_words(struct failure *failure, const char *words) {
    const char *kind = contains(words, "alloc") && contains(words, "fail") ? "memory" : "model";
    return refuse(failure, kind, "%s", words);
}

int64_t clock_ns(int clock) {
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) {
        return 0;
    }
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool wanted_shape(const struct load *load, const char *name, struct shape *shape, struct failure *failure) {
    const struct json_value *dims = load->shapes == NULL ? NULL : json_member(load->json, load->shapes, name);
    if (dims == NULL) {
        return false;
    }
    if (dims->type != JSON_ARRAY || dims->length > MAX_RANK) {
        return refuse(failure, "protocol", "the shape of '%s' must be a list of at most %d sizes", name, MAX_RANK);
    }
    shape->rank = 0;
    for (const struct json_value *dim = json_first(load->json, dims); dim != NULL; dim = json_next(load->json, dim)) {
        int64_t size;
        if (!json_integer(dim, &size) || size < 0) {
            return refuse(failure, "protocol", "the shape of '%s' must hold sizes of 0 or more", name);
        }
        shape->dims[shape->rank++] = size;
    }
    return true;
}

static int ascending(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static bool is_key(const struct json_value *member, const char *name) {
    return strlen(name) == member->key_length && memcmp(name, member->key, member->key_length) == 0;
}

bool read_given(const struct load *load, const char *name, void *data, size_t bytes, struct failure *failure) {
    const struct json_value *value = load->inputs == NULL ? NULL : json_member(load->json, load->inputs, name);
    char path[PATH_MAX];
    if (value == NULL) {
        return true;
    }
    if (data == NULL) {
        return refuse(failure, "inputs", "input '%s' holds text, which can not be given", name);
    }
    if (value->type != JSON_STRING || value->length >= sizeof path ||
        memchr(value->text, '\0', value->length) != NULL) {
        return refuse(failure, "protocol", "the values of '%s' must be the path of a file", name);
    }
    memcpy(path, value->text, value->length);
    path[value->length] = '\0';
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return refuse(failure, "inputs", "the values of input '%s' cannot be read: %s", name, strerror(errno));
    }
    size_t got = bytes == 0 ? 0 : fread(data, 1, bytes, file);
    bool fits = got == bytes && fgetc(file) == EOF;
    fclose(file);
    return fits || refuse(failure, "inputs", "input '%s' takes %zu bytes; the file of its values has %s", name, bytes,
                          got < bytes ? "fewer" : "more");
}

/* Refuse members of an object that are not among the names. */
static bool only_names(const struct load *load, const struct json_value *object, const char *kind, const char **names,
                       size_t count, struct failure *failure) {
    const struct json_value *asked = object == NULL ? NULL : json_first(load->json, object);
    for (; asked != NULL; asked = json_next(load->json, asked)) {
        size_t i = 0;
        while (i < count && !is_key(asked, names[i])) {
            i++;
        }
        if (i < count) {
            continue;
        }
        char all[512] = "none";
        size_t used = 0;
        qsort(names, count, sizeof *names, ascending);
        for (i = 0; i < count && used < sizeof all; i++) {
            used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", i == 0 ? "" : ", ", names[i]);
        }
        int length = asked->key_length > 200 ? 200 : (int)asked->key_length;
        return refuse(failure, kind, "the model has no input '%.*s'; it has %s", length, asked->key, all);
    }
    return true;
}

bool only_inputs(const struct load *load, const char **names, size_t count, struct failure *failure) {
    return only_names(load, load->shapes, "shape", names, count, failure) &&
           only_names(load, load->inputs, "inputs", names, count, failure);
}

bool byte_count(const struct shape *shape, size_t size, size_t *count, size_t *bytes) {
    *count = 1;
    for (size_t i = 0; i < shape->rank; i++) {
        uint64_t dim = (uint64_t)shape->dims[i];
        if (dim != 0 && *count > PTRDIFF_MAX / size / dim) {
            return false;
        }
        *count *= (size_t)dim;
    }
    *bytes = *count * size;
    return true;
}

void *buffer(size_t bytes, struct failure *failure) {
    void *data = NULL;
    size_t size = bytes == 0 ? 1 : bytes;
    if (posix_memalign(&data, 64, size) != 0) {
        refuse(failure, "memory", "no memory for a tensor of %zu bytes", bytes);
        return NULL;
    }
    return data;
}

void describe(struct text *list, const char *name, const struct shape *shape, const char *type) {
    text_add(list, list->length == 0 ? "{\"name\": " : ", {\"name\": ");
    text_string(list, name, strlen(name));
    text_add(list, ", \"shape\": ");
    if (shape == NULL) {
        text_add(list, "null");
    } else {
        text_add(list, "[");
        for (size_t i = 0; i < shape->rank; i++) {
            text_add(list, i == 0 ? "" : ", ");
            text_integer(list, shape->dims[i]);
        }
        text_add(list, "]");
    }
    text_add(list, ", \"type\": ");
    text_string(list, type, strlen(type));
    text_add(list, "}");
}

void shape_words(const struct shape *shape, char *words, size_t size) {
    size_t used = (size_t)snprintf(words, size, "[");
    for (size_t i = 0; i < shape->rank && used < size; i++) {
        used += (size_t)snprintf(words + used, size - used, "%s%" PRId64, i == 0 ? "" : ", ", shape->dims[i]);
    }
    if (used < size) {
        snprintf(words + used, size - used, "]");
    }
}

bool find_symbols(void *library, const struct symbol *symbols, const char *title, struct failure *failure) {
    for (; symbols->name != NULL; symbols++) {
        void *found = dlsym(library, symbols->name);
        if (found == NULL) {
            return refuse(failure, "runtime", "%s has no function %s; use a newer one", title, symbols->name);
        }
        memcpy(symbols->function, &found, sizeof found); /* POSIX: a function's address fits a void pointer */
    }
    return true;
}
