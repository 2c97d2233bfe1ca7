/* A strict reader of one JSON document (RFC 8259) in memory.
 *
 * Strings are decoded where they lie, so the document is changed and must outlive what was read from it. A lone
 * surrogate from U+DC80 to U+DCFF becomes the byte 0x80 to 0xFF: this is how Python writes file names that are no UTF-8
 * (PEP 383). Any other lone surrogate is an error, and so are NaN and Infinity.
 */
#ifndef DEEPEN_JSON_H
#define DEEPEN_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text.h"

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

enum {
    JSON_MAX_DEPTH = 16,
    JSON_MAX_VALUES = 1 << 16,
};

struct json_value {
    enum json_type type;
    const char *text; /* of a number as written, or of a string decoded; not terminated */
    size_t length;    /* of text in bytes, or the number of elements */
    const char *key;  /* name of a member of an object, decoded; not terminated */
    size_t key_length;
    size_t child; /* index of the first element or member; 0: none */
    size_t next;  /* index of the next one; 0: none */
};

struct json {
    struct json_value *values; /* values[1] is the document */
    size_t count;
    size_t capacity;
    const char *error; /* message; NULL after success */
    size_t position;   /* its position in bytes */
};

/* Read a document; false (and `error`) if it is malformed, or deeper or longer than the limits above. */
bool json_read(struct json *json, char *document, size_t length);
void json_free(struct json *json);

/* The document; only after success. */
const struct json_value *json_root(const struct json *json);

/* First element or member, and the next one; NULL at the end. */
const struct json_value *json_first(const struct json *json, const struct json_value *value);
const struct json_value *json_next(const struct json *json, const struct json_value *value);

/* Member of an object by name; the last one where a name is repeated; NULL if absent or if it is null. */
const struct json_value *json_member(const struct json *json, const struct json_value *object, const char *name);

/* Return whether a value is an integer that fits, without fraction or exponent. */
bool json_integer(const struct json_value *value, int64_t *number);

/* Write a value that has no parts; arrays and objects are written as null. */
void json_write(struct text *text, const struct json_value *value);

#endif
