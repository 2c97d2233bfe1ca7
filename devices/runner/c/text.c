#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_clear(struct text *text) {
    text->length = 0;
    text->failed = false;
}

void text_free(struct text *text) {
    free(text->data);
    *text = (struct text){0};
}

static bool grow(struct text *text, size_t extra) {
    if (text->failed || extra > SIZE_MAX / 2 - text->length) {
        text->failed = true;
        return false;
    }
    size_t wanted = text->length + extra;
    if (wanted <= text->capacity) {
        return true;
    }
    size_t capacity = text->capacity == 0 ? 256 : text->capacity;
    while (capacity < wanted) {
        capacity *= 2;
    }
    char *data = realloc(text->data, capacity);
    if (data == NULL) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void text_bytes(struct text *text, const char *bytes, size_t length) {
    if (length > 0 && grow(text, length)) {
        memcpy(text->data + text->length, bytes, length);
        text->length += length;
    }
}

void text_add(struct text *text, const char *words) { text_bytes(text, words, strlen(words)); }

void text_integer(struct text *text, int64_t value) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRId64, value);
    text_bytes(text, digits, (size_t)length);
}

void text_seconds(struct text *text, int64_t nanoseconds) {
    char digits[40];
    int length =
        snprintf(digits, sizeof digits, "%" PRId64 ".%09" PRId64, nanoseconds / 1000000000, nanoseconds % 1000000000);
    text_bytes(text, digits, (size_t)length);
}

/* Length of the UTF-8 sequence at the start of `bytes` (RFC 3629, table of section 4); 0 if there is none. */
static size_t sequence(const unsigned char *bytes, size_t length) {
    unsigned char first = bytes[0];
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    size_t count = 0;
    if (first < 0x80) {
        return 1;
    } else if (first >= 0xC2 && first <= 0xDF) {
        count = 2;
    } else if (first >= 0xE0 && first <= 0xEF) {
        count = 3;
        low = first == 0xE0 ? 0xA0 : 0x80;
        high = first == 0xED ? 0x9F : 0xBF;
    } else if (first >= 0xF0 && first <= 0xF4) {
        count = 4;
        low = first == 0xF0 ? 0x90 : 0x80;
        high = first == 0xF4 ? 0x8F : 0xBF;
    }
    if (count == 0 || count > length || bytes[1] < low || bytes[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < count; i++) {
        if (bytes[i] < 0x80 || bytes[i] > 0xBF) {
            return 0;
        }
    }
    return count;
}

static void escaped(struct text *text, const char *bytes, size_t length) {
    size_t at = 0;
    while (at < length) {
        unsigned char byte = (unsigned char)bytes[at];
        size_t count = sequence((const unsigned char *)bytes + at, length - at);
        if (count == 0) {
            text_add(text, "\\ufffd");
            count = 1;
        } else if (byte == '"' || byte == '\\') {
            text_add(text, byte == '"' ? "\\\"" : "\\\\");
        } else if (byte < 0x20 || byte == 0x7F) {
            char code[8];
            int written = snprintf(code, sizeof code, "\\u%04x", byte);
            text_bytes(text, code, (size_t)written);
        } else {
            text_bytes(text, bytes + at, count);
        }
        at += count;
    }
}

void text_string(struct text *text, const char *bytes, size_t length) {
    text_add(text, "\"");
    escaped(text, bytes, length);
    text_add(text, "\"");
}

void text_words(struct text *text, const char *words) {
    static const char blanks[] = " \t\n\v\f\r";
    text_add(text, "\"");
    words += strspn(words, blanks);
    while (*words != '\0') {
        size_t length = strcspn(words, blanks);
        escaped(text, words, length);
        words += length;
        words += strspn(words, blanks);
        if (*words != '\0') {
            text_add(text, " ");
        }
    }
    text_add(text, "\"");
}
