/* The on-device runner in C, the counterpart of runner.py for boards without Python and for phones.
 *
 *     deepen-runner [--parent PID] [--library FILE]...
 *
 * It loads ONNX Runtime, TensorFlow Lite or LiteRT with dlopen() (the libraries named, else the first ones found) and
 * runs blocks of inferences with time stamps. The protocol is that of runner.py (see there): one JSON object per line,
 * a request on stdin, its answer on stdout; everything a library prints to stdout goes to stderr. The process ends when
 * stdin closes, even in the middle of a run. It has no accelerators; hello without a runtime asks for any there is.
 */
#ifndef __linux__
#error "the runner needs Linux (Android included): CLOCK_BOOTTIME, thread affinity, /proc"
#endif

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "libraries.h"
#include "requests.h"

static bool write_all(int file, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = write(file, bytes, length);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return false;
        }
        bytes += written;
        length -= (size_t)written;
    }
    return true;
}

/* Lines of stdin. One longer than MAX_LINE is skipped and reported as `too_long`. */
struct lines {
    char *data; /* MAX_LINE bytes */
    size_t start;
    size_t end;
    bool too_long;
};

/* The next line without its end; NULL when stdin has ended. */
static char *next_line(struct lines *lines, size_t *length) {
    size_t seen = lines->start; /* no newline before here */
    lines->too_long = false;
    for (;;) {
        char *newline = memchr(lines->data + seen, '\n', lines->end - seen);
        if (newline != NULL) {
            char *line = lines->data + lines->start;
            *length = (size_t)(newline - line);
            lines->start = (size_t)(newline - lines->data) + 1;
            return line;
        }
        if (lines->start > 0) {
            memmove(lines->data, lines->data + lines->start, lines->end - lines->start);
            lines->end -= lines->start;
            lines->start = 0;
        }
        if (lines->end == MAX_LINE) {
            lines->too_long = true;
            lines->end = 0;
        }
        seen = lines->end;
        ssize_t got = read(STDIN_FILENO, lines->data + lines->end, MAX_LINE - lines->end);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return NULL;
        }
        lines->end += (size_t)got;
    }
}

/* End the process as soon as the writer of stdin is gone, even in the middle of a run. */
static void *end_with_stdin(void *unused) {
    (void)unused;
    /* Hang-up and error are always reported, the shutdown of a socket only on request. Data are not waited for. */
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLRDHUP};
    for (;;) {
        if (poll(&input, 1, -1) > 0 && (input.revents & (POLLHUP | POLLERR | POLLNVAL | POLLRDHUP)) != 0) {
            _exit(0);
        }
    }
}

static int usage(const char *program) {
    fprintf(stderr, "usage: %s [--parent PID] [--library FILE]...\n", program);
    return 2;
}

static bool take_options(int count, char **arguments) {
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--parent") == 0) {
            char *end;
            long parent = strtol(arguments[i + 1], &end, 10);
            if (parent < 1 || *end != '\0') {
                return false;
            }
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != (pid_t)parent) {
                _exit(0);
            }
        } else if (strcmp(arguments[i], "--library") != 0 || !add_library(arguments[i + 1])) {
            return false;
        }
    }
    return count % 2 == 1;
}

/* Answer until stdin ends (false) or a request says bye (true). */
static bool answer_lines(int out, char *memory) {
    struct lines lines = {.data = memory};
    struct json json = {0};
    struct text answer = {0};
    bool goes_on = true;
    bool written = true;
    while (goes_on && written) {
        size_t length = 0;
        char *line = next_line(&lines, &length);
        if (line == NULL) {
            break;
        }
        goes_on = answer_line(lines.too_long ? NULL : line, length, &json, &answer);
        static const char no_memory[] =
            "{\"error\": \"no memory for an answer\", \"kind\": \"memory\", \"id\": null}\n";
        written = answer.failed ? write_all(out, no_memory, sizeof no_memory - 1)
                                : write_all(out, answer.data, answer.length);
    }
    json_free(&json);
    text_free(&answer);
    return !goes_on;
}

int main(int count, char **arguments) {
    pthread_t watcher;
    if (!take_options(count, arguments)) {
        return usage(arguments[0]);
    }
    signal(SIGINT, SIG_IGN); /* Ctrl-C is the host's to handle */
    signal(SIGPIPE, SIG_IGN);
    int out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    char *memory = malloc(MAX_LINE);
    if (out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 || memory == NULL ||
        pthread_create(&watcher, NULL, end_with_stdin, NULL) != 0) {
        fprintf(stderr, "%s: can not start: %s\n", arguments[0], strerror(errno));
        return 1;
    }
    pthread_detach(watcher);
    bool bye = answer_lines(out, memory);
    free(memory);
    if (!bye) {
        _exit(0); /* the host is gone: there is nothing to wait for */
    }
    drop_models();
    return 0;
}
