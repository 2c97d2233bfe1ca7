/* Lets the tests see the parts of the C runner that its protocol does not show.
 *
 *     check json                           documents on stdin, each after its length in 4 bytes (little-endian);
 *                                          one line each: "refused", or the document with strings in hexadecimal
 *     check random SEED ELEMENT COUNT...   the bytes of inputs made one after the other, in hexadecimal
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "random.h"

static void print_hex(const void *data, size_t length) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < length; i++) {
        printf("%02x", bytes[i]);
    }
}

static void print_value(const struct json *json, const struct json_value *value) {
    int64_t number;
    switch (value->type) {
    case JSON_NUMBER:
        printf("%s \"%.*s\"]", json_integer(value, &number) ? "[\"int\"," : "[\"number\",", (int)value->length,
               value->text);
        return;
    case JSON_STRING:
        printf("\"");
        print_hex(value->text, value->length);
        printf("\"");
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        printf(value->type == JSON_ARRAY ? "[\"array\"" : "[\"object\"");
        for (const struct json_value *part = json_first(json, value); part != NULL; part = json_next(json, part)) {
            printf(", ");
            if (value->type == JSON_OBJECT) {
                printf("\"");
                print_hex(part->key, part->key_length);
                printf("\", ");
            }
            print_value(json, part);
        }
        printf("]");
        return;
    default:
        printf(value->type == JSON_NULL ? "null" : value->type == JSON_TRUE ? "true" : "false");
    }
}

static int check_json(void) {
    struct json json = {0};
    unsigned char size[4];
    while (fread(size, 1, sizeof size, stdin) == sizeof size) {
        size_t length = (size_t)size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16 | (size_t)size[3] << 24;
        char *document = malloc(length == 0 ? 1 : length); /* exact, so that a read past the end is found */
        if (document == NULL || fread(document, 1, length, stdin) != length) {
            return 1;
        }
        if (json_read(&json, document, length)) {
            print_value(&json, json_root(&json));
            printf("\n");
        } else {
            printf(json.error == NULL || json.position > length ? "no reason\n" : "refused\n");
        }
        free(document);
    }
    json_free(&json);
    return 0;
}

static int check_random(int count, char **arguments) {
    struct random random = random_seed(strtoull(arguments[0], NULL, 10));
    static const size_t sizes[] = {4, 1, 2, 2, 4, 8};
    for (int i = 1; i + 1 < count; i += 2) {
        int element = atoi(arguments[i]);
        size_t elements = strtoull(arguments[i + 1], NULL, 10);
        void *data = malloc(elements * sizes[element]);
        if (data == NULL) {
            return 1;
        }
        random_fill(&random, (enum element)element, sizes[element], data, elements);
        print_hex(data, elements * sizes[element]);
        printf("\n");
        free(data);
    }
    return 0;
}

int main(int count, char **arguments) {
    if (count == 2 && strcmp(arguments[1], "json") == 0) {
        return check_json();
    }
    return count > 2 && strcmp(arguments[1], "random") == 0 ? check_random(count - 2, arguments + 2) : 2;
}
