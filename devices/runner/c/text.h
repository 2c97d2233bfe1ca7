/* Text that grows, in which answers are built. It is never truncated: when memory runs out, `failed` is set. */
#ifndef DEEPEN_TEXT_H
#define DEEPEN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *data; /* not terminated; NULL while empty */
    size_t length;
    size_t capacity;
    bool failed;
};

void text_clear(struct text *text);
void text_free(struct text *text);
void text_bytes(struct text *text, const char *bytes, size_t length);
void text_add(struct text *text, const char *words);
void text_integer(struct text *text, int64_t value);

/* Seconds with nine digits after the point, whatever the locale. */
void text_seconds(struct text *text, int64_t nanoseconds);

/* A JSON string: quoted and escaped; bytes that are not UTF-8 become U+FFFD. */
void text_string(struct text *text, const char *bytes, size_t length);

/* The same, with every run of white space replaced by one blank and none at the ends. */
void text_words(struct text *text, const char *words);

#endif
