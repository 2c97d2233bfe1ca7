#include "json.h"

#include <stdlib.h>
#include <string.h>

struct reader {
    struct json *json;
    char *at;
    char *end;
};

static bool wrong(struct reader *reader, const char *error) {
    reader->json->error = error;
    return false;
}

static void skip_blanks(struct reader *reader) {
    while (reader->at < reader->end &&
           (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r')) {
        reader->at++;
    }
}

static bool take(struct reader *reader, char wanted) {
    if (reader->at < reader->end && *reader->at == wanted) {
        reader->at++;
        return true;
    }
    return false;
}

static size_t take_digits(struct reader *reader) {
    size_t count = 0;
    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9') {
        reader->at++;
        count++;
    }
    return count;
}

/* Index of a new value, 0 when there is no room for it. */
static size_t new_value(struct reader *reader) {
    struct json *json = reader->json;
    if (json->count >= JSON_MAX_VALUES) {
        wrong(reader, "too many values");
        return 0;
    }
    if (json->count >= json->capacity) {
        size_t capacity = json->capacity == 0 ? 64 : json->capacity * 2;
        struct json_value *values = realloc(json->values, capacity * sizeof *values);
        if (values == NULL) {
            wrong(reader, "out of memory");
            return 0;
        }
        json->values = values;
        json->capacity = capacity;
    }
    json->values[json->count] = (struct json_value){0};
    return json->count++;
}

static bool read_hex(struct reader *reader, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < 4; i++) {
        if (reader->at >= reader->end) {
            return wrong(reader, "unterminated string");
        }
        char digit = *reader->at++;
        uint32_t value;
        if (digit >= '0' && digit <= '9') {
            value = (uint32_t)(digit - '0');
        } else if (digit >= 'a' && digit <= 'f') {
            value = (uint32_t)(digit - 'a') + 10;
        } else if (digit >= 'A' && digit <= 'F') {
            value = (uint32_t)(digit - 'A') + 10;
        } else {
            return wrong(reader, "four hexadecimal digits belong after \\u");
        }
        *code = *code * 16 + value;
    }
    return true;
}

/* Decode the digits after \u to UTF-8: at most 3 bytes for 6, 4 bytes for 12. */
static bool read_code(struct reader *reader, char **out) {
    uint32_t code;
    if (!read_hex(reader, &code)) {
        return false;
    }
    if (code >= 0xD800 && code <= 0xDBFF && reader->end - reader->at >= 6 && reader->at[0] == '\\' &&
        reader->at[1] == 'u') {
        uint32_t low;
        reader->at += 2;
        if (!read_hex(reader, &low)) {
            return false;
        }
        if (low < 0xDC00 || low > 0xDFFF) {
            return wrong(reader, "half a surrogate pair");
        }
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    unsigned char *to = (unsigned char *)*out;
    if (code < 0x80) {
        *to++ = (unsigned char)code;
    } else if (code < 0x800) {
        *to++ = (unsigned char)(0xC0 | (code >> 6));
        *to++ = (unsigned char)(0x80 | (code & 0x3F));
    } else if (code >= 0xDC80 && code <= 0xDCFF) {
        *to++ = (unsigned char)(code & 0xFF);
    } else if (code >= 0xD800 && code <= 0xDFFF) {
        return wrong(reader, "half a surrogate pair");
    } else if (code < 0x10000) {
        *to++ = (unsigned char)(0xE0 | (code >> 12));
        *to++ = (unsigned char)(0x80 | ((code >> 6) & 0x3F));
        *to++ = (unsigned char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (unsigned char)(0xF0 | (code >> 18));
        *to++ = (unsigned char)(0x80 | ((code >> 12) & 0x3F));
        *to++ = (unsigned char)(0x80 | ((code >> 6) & 0x3F));
        *to++ = (unsigned char)(0x80 | (code & 0x3F));
    }
    *out = (char *)to;
    return true;
}

static bool read_string(struct reader *reader, const char **text, size_t *length) {
    static const char letters[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";
    if (!take(reader, '"')) {
        return wrong(reader, "a string in double quotes belongs here");
    }
    char *out = reader->at; /* decoding never makes a string longer */
    *text = out;
    while (reader->at < reader->end) {
        char byte = *reader->at++;
        if (byte == '"') {
            *length = (size_t)(out - *text);
            return true;
        }
        if ((unsigned char)byte < 0x20) {
            return wrong(reader, "a control character in a string");
        }
        if (byte != '\\') {
            *out++ = byte;
            continue;
        }
        if (reader->at >= reader->end) {
            break;
        }
        char letter = *reader->at++;
        const char *found = letter == '\0' ? NULL : strchr(letters, letter);
        if (found != NULL) {
            *out++ = meanings[found - letters];
        } else if (letter != 'u') {
            return wrong(reader, "an unknown escape in a string");
        } else if (!read_code(reader, &out)) {
            return false;
        }
    }
    return wrong(reader, "unterminated string");
}

static bool read_number(struct reader *reader, struct json_value *value) {
    const char *start = reader->at;
    take(reader, '-');
    if (!take(reader, '0') && take_digits(reader) == 0) {
        return wrong(reader, "a value belongs here");
    }
    if (take(reader, '.') && take_digits(reader) == 0) {
        return wrong(reader, "digits belong after the point");
    }
    if (take(reader, 'e') || take(reader, 'E')) {
        if (!take(reader, '+')) {
            take(reader, '-');
        }
        if (take_digits(reader) == 0) {
            return wrong(reader, "digits belong in the exponent");
        }
    }
    value->type = JSON_NUMBER;
    value->text = start;
    value->length = (size_t)(reader->at - start);
    return true;
}

static bool read_word(struct reader *reader, struct json_value *value, const char *word, enum json_type type) {
    size_t length = strlen(word);
    if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, word, length) != 0) {
        return wrong(reader, "a value belongs here");
    }
    reader->at += length;
    value->type = type;
    return true;
}

static bool read_value(struct reader *reader, size_t index, int depth);

/* Elements of an array or members of an object, after the opening bracket. `values` may move: keep indices. */
static bool read_parts(struct reader *reader, size_t index, int depth, char closing) {
    struct json *json = reader->json;
    if (depth >= JSON_MAX_DEPTH) {
        return wrong(reader, "nested too deeply");
    }
    size_t last = 0;
    skip_blanks(reader);
    if (take(reader, closing)) {
        return true;
    }
    for (;;) {
        const char *key = NULL;
        size_t key_length = 0;
        skip_blanks(reader);
        if (closing == '}') {
            if (!read_string(reader, &key, &key_length)) {
                return false;
            }
            skip_blanks(reader);
            if (!take(reader, ':')) {
                return wrong(reader, "a colon belongs after a name");
            }
        }
        size_t part = new_value(reader);
        if (part == 0 || !read_value(reader, part, depth + 1)) {
            return false;
        }
        json->values[part].key = key;
        json->values[part].key_length = key_length;
        if (last == 0) {
            json->values[index].child = part;
        } else {
            json->values[last].next = part;
        }
        last = part;
        json->values[index].length++;
        skip_blanks(reader);
        if (take(reader, closing)) {
            return true;
        }
        if (!take(reader, ',')) {
            return wrong(reader, "a comma or a closing bracket belongs here");
        }
    }
}

static bool read_value(struct reader *reader, size_t index, int depth) {
    struct json_value *value = &reader->json->values[index];
    skip_blanks(reader);
    char first = reader->at < reader->end ? *reader->at : '\0';
    switch (first) {
    case '{':
        value->type = JSON_OBJECT;
        reader->at++;
        return read_parts(reader, index, depth, '}');
    case '[':
        value->type = JSON_ARRAY;
        reader->at++;
        return read_parts(reader, index, depth, ']');
    case '"':
        value->type = JSON_STRING;
        return read_string(reader, &value->text, &value->length);
    case 'n':
        return read_word(reader, value, "null", JSON_NULL);
    case 't':
        return read_word(reader, value, "true", JSON_TRUE);
    case 'f':
        return read_word(reader, value, "false", JSON_FALSE);
    default:
        return read_number(reader, value);
    }
}

bool json_read(struct json *json, char *document, size_t length) {
    struct reader reader = {.json = json, .at = document, .end = document + length};
    json->count = 0;
    json->error = NULL;
    bool good = new_value(&reader) == 0 && json->error == NULL; /* index 0 stands for "none" */
    size_t root = good ? new_value(&reader) : 0;
    good = root == 1 && read_value(&reader, root, 0);
    if (good) {
        skip_blanks(&reader);
        good = reader.at == reader.end || wrong(&reader, "something follows the document");
    }
    json->position = (size_t)(reader.at - document);
    return good;
}

void json_free(struct json *json) {
    free(json->values);
    *json = (struct json){0};
}

const struct json_value *json_root(const struct json *json) { return &json->values[1]; }

const struct json_value *json_first(const struct json *json, const struct json_value *value) {
    return value->child == 0 ? NULL : &json->values[value->child];
}

const struct json_value *json_next(const struct json *json, const struct json_value *value) {
    return value->next == 0 ? NULL : &json->values[value->next];
}

const struct json_value *json_member(const struct json *json, const struct json_value *object, const char *name) {
    const struct json_value *found = NULL;
    size_t length = strlen(name);
    if (object->type != JSON_OBJECT) {
        return NULL;
    }
    for (const struct json_value *m = json_first(json, object); m != NULL; m = json_next(json, m)) {
        if (m->key_length == length && memcmp(m->key, name, length) == 0) {
            found = m;
        }
    }
    return found != NULL && found->type != JSON_NULL ? found : NULL;
}

bool json_integer(const struct json_value *value, int64_t *number) {
    if (value == NULL || value->type != JSON_NUMBER) {
        return false;
    }
    bool negative = value->text[0] == '-';
    uint64_t limit = negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    uint64_t sum = 0;
    for (size_t i = negative ? 1 : 0; i < value->length; i++) {
        char digit = value->text[i];
        if (digit < '0' || digit > '9') {
            return false;
        }
        uint64_t next = (uint64_t)(digit - '0');
        if (sum > (limit - next) / 10) {
            return false;
        }
        sum = sum * 10 + next;
    }
    *number = negative ? (sum == 0 ? 0 : -(int64_t)(sum - 1) - 1) : (int64_t)sum;
    return true;
}

void json_write(struct text *text, const struct json_value *value) {
    if (value->type == JSON_STRING) {
        text_string(text, value->text, value->length);
    } else if (value->type == JSON_NUMBER) {
        text_bytes(text, value->text, value->length);
    } else {
        text_add(text, value->type == JSON_TRUE ? "true" : value->type == JSON_FALSE ? "false" : "null");
    }
}
