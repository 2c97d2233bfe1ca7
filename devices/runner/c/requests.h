/* Requests and their answers; the models loaded by them are kept here. */
#ifndef DEEPEN_REQUESTS_H
#define DEEPEN_REQUESTS_H

#include <stdbool.h>
#include <stddef.h>

#include "json.h"
#include "text.h"

enum { MAX_LINE = 1 << 20 };

/* Answer one line (NULL: one too long), with a newline at the end; return whether the runner continues. */
bool answer_line(char *line, size_t length, struct json *json, struct text *answer);

/* Unload every model. */
void drop_models(void);

#endif
