#include "requests.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "libraries.h"

enum { PROTOCOL = 1 };

struct handle {
    int64_t number;
    const struct backend *backend;
    void *model;
    int cpu; /* core of the calling thread; -1: any */
    struct handle *next;
};

static struct handle *handles;
static int64_t handle_count;

static bool pin_to(const int *cpus, size_t count, struct failure *failure) {
    static int pinned = -1; /* the one core the main thread is on; -1: unknown or several */
    if (count == 1 && cpus[0] == pinned) {
        return true;
    }
    int error = pin_self(cpus, count);
    if (error != 0) {
        return refuse(failure, "protocol", "core [%d] can not be used: %s", cpus[0], strerror(error));
    }
    if (count > 0) {
        pinned = count == 1 ? cpus[0] : -1;
    }
    return true;
}

/* An integer member within limits, or the default if it is absent. */
static bool take_integer(const struct json *json, const char *name, int64_t absent, int64_t low, int64_t high,
                         int64_t *number, struct failure *failure) {
    const struct json_value *value = json_member(json, json_root(json), name);
    *number = absent;
    if (value == NULL && absent >= low) {
        return true;
    }
    if (!json_integer(value, number) || *number < low || *number > high) {
        return refuse(failure, "protocol", "'%s' must be an integer from %lld to %lld", name, (long long)low,
                      (long long)high);
    }
    return true;
}

/* A string member in memory to be freed. */
static char *take_string(const struct json *json, const char *name, const char *absent, struct failure *failure) {
    const struct json_value *value = json_member(json, json_root(json), name);
    char *string = NULL;
    if (value == NULL && absent != NULL) {
        string = strdup(absent);
    } else if (value == NULL || value->type != JSON_STRING || memchr(value->text, '\0', value->length) != NULL) {
        refuse(failure, "protocol", "'%s' must be a string without zero bytes", name);
        return NULL;
    } else {
        string = strndup(value->text, value->length);
    }
    if (string == NULL) {
        refuse(failure, "memory", "no memory for '%s'", name);
    }
    return string;
}

static bool take_cpus(const struct json *json, struct load *load, struct failure *failure) {
    const struct json_value *cpus = json_member(json, json_root(json), "cpus");
    if (cpus == NULL) {
        return true;
    }
    if (cpus->type != JSON_ARRAY || cpus->length > MAX_THREADS) {
        return refuse(failure, "protocol", "'cpus' must be a list of at most %d cores", MAX_THREADS);
    }
    for (const struct json_value *cpu = json_first(json, cpus); cpu != NULL; cpu = json_next(json, cpu)) {
        int64_t number;
        if (!json_integer(cpu, &number) || number < 0 || number > INT32_MAX) {
            return refuse(failure, "protocol", "'cpus' must hold the numbers of cores");
        }
        load->cpus[load->cpu_count++] = (int)number;
    }
    return true;
}

/* Refuse an accelerator: everything runs on the CPU here and must not be labelled otherwise. */
static bool take_delegate(const struct json *json, struct failure *failure) {
    static const char cpu[] = "CPUExecutionProvider";
    const struct json_value *delegate = json_member(json, json_root(json), "delegate");
    if (delegate == NULL || (delegate->type == JSON_OBJECT && delegate->length == 0)) {
        return true;
    }
    const struct json_value *provider = json_member(json, delegate, "provider");
    if (provider != NULL && provider->type == JSON_STRING && provider->length == sizeof cpu - 1 &&
        memcmp(provider->text, cpu, sizeof cpu - 1) == 0) {
        return true;
    }
    return refuse(failure, "fallback", "the runner in C has no accelerators and would run on the CPU");
}

static bool take_load(const struct json *json, struct load *load, struct failure *failure) {
    static const char *const levels[] = {"disable", "basic", "extended", "all"};
    int64_t threads;
    int64_t seed;
    bool known = false;
    load->json = json;
    load->shapes = json_member(json, json_root(json), "shapes");
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        known = known || strcmp(load->level, levels[i]) == 0;
    }
    if (!known) {
        return refuse(failure, "protocol", "'level' must be disable, basic, extended or all");
    }
    if (load->shapes != NULL && load->shapes->type != JSON_OBJECT) {
        return refuse(failure, "protocol", "'shapes' must be an object of lists");
    }
    if (load->shapes != NULL && load->shapes->length == 0) {
        load->shapes = NULL;
    }
    load->inputs = json_member(json, json_root(json), "inputs");
    if (load->inputs != NULL && load->inputs->type != JSON_OBJECT) {
        return refuse(failure, "protocol", "'inputs' must be an object of paths");
    }
    if (load->inputs != NULL && load->inputs->length == 0) {
        load->inputs = NULL;
    }
    if (!take_integer(json, "threads", 1, 1, MAX_THREADS, &threads, failure) ||
        !take_integer(json, "seed", 0, 0, INT64_MAX, &seed, failure) || !take_cpus(json, load, failure) ||
        !take_delegate(json, failure)) {
        return false;
    }
    load->threads = (int)threads;
    load->seed = (uint64_t)seed;
    return true;
}

/* Load with the calling thread on all requested cores, so that its new threads inherit them; then on the first. */
static bool load_model(struct load *load, struct handle *handle, struct loaded *loaded, struct failure *failure) {
    struct stat status;
    struct pool pool;
    size_t used = load->cpu_count < (size_t)load->threads ? load->cpu_count : (size_t)load->threads;
    if (stat(load->path, &status) != 0 || !S_ISREG(status.st_mode)) {
        return refuse(failure, "missing", "no such file: %s", load->path);
    }
    handle->backend = choose_backend(load->path, failure);
    if (handle->backend == NULL || !pin_to(load->cpus, used, failure)) {
        return false;
    }
    if (!pool_begin(&pool, load->cpus, used)) {
        return refuse(failure, "runtime", "the threads of this process can not be listed in /proc/self/task");
    }
    load->pool = &pool;
    handle->model = handle->backend->load(load, loaded, failure);
    if (handle->model != NULL) {
        pool_pin(&pool); /* some runtimes make threads in the first run only */
    }
    pool_end(&pool);
    handle->cpu = used > 0 ? load->cpus[0] : -1;
    return handle->model != NULL && pin_to(load->cpus, used > 0 ? 1 : 0, failure);
}

static void drop(struct handle *handle) {
    if (handle->model != NULL) {
        handle->backend->unload(handle->model);
    }
    free(handle);
}

static bool do_load(const struct json *json, struct text *answer, struct failure *failure) {
    struct load *load = calloc(1, sizeof *load);
    struct handle *handle = calloc(1, sizeof *handle);
    struct loaded loaded = {0};
    char *path = take_string(json, "path", NULL, failure);
    char *level = path == NULL ? NULL : take_string(json, "level", "extended", failure);
    bool success = load != NULL && handle != NULL;
    if (!success) {
        refuse(failure, "memory", "no memory for a model");
    } else if (level != NULL) {
        load->path = path;
        load->level = level;
        success = take_load(json, load, failure) && load_model(load, handle, &loaded, failure);
    } else {
        success = false;
    }
    if (success) {
        handle->number = ++handle_count;
        handle->next = handles;
        handles = handle;
        text_add(answer, "\"handle\": ");
        text_integer(answer, handle->number);
        text_add(answer, ", \"build\": ");
        text_string(answer, loaded.build.data, loaded.build.length);
        text_add(answer, ", \"inputs\": [");
        text_bytes(answer, loaded.inputs.data, loaded.inputs.length);
        text_add(answer, "], \"outputs\": [");
        text_bytes(answer, loaded.outputs.data, loaded.outputs.length);
        text_add(answer, "], \"first_run_s\": ");
        text_seconds(answer, loaded.first_run_ns);
        text_add(answer, ", \"placement\": null, ");
        answer->failed = answer->failed || loaded.build.failed || loaded.inputs.failed || loaded.outputs.failed;
    } else if (handle != NULL) {
        drop(handle);
    }
    text_free(&loaded.build);
    text_free(&loaded.inputs);
    text_free(&loaded.outputs);
    free(level);
    free(path);
    free(load);
    return success;
}

static void text_pair(struct text *text, const char *name, const char *value) {
    text_string(text, name, strlen(name));
    text_add(text, ": ");
    text_string(text, value, strlen(value));
    text_add(text, ", ");
}

/* Return whether a runtime matches the requested name; TensorFlow Lite and LiteRT run the same models. */
static bool is_wanted(const struct backend *backend, const struct json_value *wanted) {
    if (wanted == NULL) {
        return true;
    }
    const char *name = backend == &onnxruntime_backend ? backend->name : litert_backend.name;
    return wanted->type == JSON_STRING && wanted->length == strlen(name) &&
           memcmp(wanted->text, name, wanted->length) == 0;
}

static bool do_hello(const struct json *json, struct text *answer, struct failure *failure) {
    const struct json_value *wanted = json_member(json, json_root(json), "runtime");
    struct failure reason;
    struct utsname system;
    int cpus[MAX_THREADS];
    size_t count = usable_cpus(cpus, MAX_THREADS);
    bool any = false;
    refuse(failure, "runtime", "this runner has no such runtime; it has onnxruntime and litert");
    for (size_t i = RUNTIMES; i-- > 0;) { /* the message of the first one that fails counts */
        if (!is_wanted(runtimes[i].backend, wanted)) {
            continue;
        }
        if (open_runtime(&runtimes[i], &reason)) {
            any = true;
        } else {
            *failure = reason;
        }
    }
    if (!any) {
        return false;
    }
    text_add(answer, "\"protocol\": ");
    text_integer(answer, PROTOCOL);
    text_add(answer, ", \"pid\": ");
    text_integer(answer, getpid());
    text_add(answer, ", ");
    text_pair(answer, "runner", "c");
    for (size_t i = 0; i < RUNTIMES; i++) {
        if (runtimes[i].open) {
            text_pair(answer, runtimes[i].backend->name, runtimes[i].backend->version());
        }
    }
    text_pair(answer, "machine", uname(&system) == 0 ? system.machine : "");
    text_pair(answer, "clock", "CLOCK_MONOTONIC");
    text_pair(answer, "boot_clock", "CLOCK_BOOTTIME");
    text_pair(answer, "cpu_clock", "CLOCK_PROCESS_CPUTIME_ID");
    text_add(answer, "\"cpus\": [");
    for (size_t i = 0; i < count; i++) {
        text_add(answer, i == 0 ? "" : ", ");
        text_integer(answer, cpus[i]);
    }
    text_add(answer, "], ");
    return true;
}

/* The list link that points to the handle named by a request; NULL after a failure. */
static struct handle **take_handle(const struct json *json, struct failure *failure) {
    int64_t number;
    if (!take_integer(json, "handle", -1, 0, INT64_MAX, &number, failure)) {
        return NULL;
    }
    for (struct handle **place = &handles; *place != NULL; place = &(*place)->next) {
        if ((*place)->number == number) {
            return place;
        }
    }
    refuse(failure, "protocol", "no handle %lld", (long long)number);
    return NULL;
}

static void text_stamp(struct text *text, const char *name, int64_t nanoseconds) {
    text_string(text, name, strlen(name));
    text_add(text, ": ");
    text_integer(text, nanoseconds);
    text_add(text, ", ");
}

struct stamps {
    int64_t cpu;
    int64_t boot;
    int64_t monotonic;
};

static struct stamps stamps_begin(void) {
    struct stamps stamps;
    stamps.cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    stamps.boot = clock_ns(CLOCK_BOOTTIME);
    stamps.monotonic = clock_ns(CLOCK_MONOTONIC);
    return stamps;
}

static void stamps_end(const struct stamps *began, struct text *answer) {
    int64_t end = clock_ns(CLOCK_MONOTONIC);
    int64_t end_boot = clock_ns(CLOCK_BOOTTIME);
    text_stamp(answer, "start_ns", began->monotonic);
    text_stamp(answer, "end_ns", end);
    text_stamp(answer, "start_boot_ns", began->boot);
    text_stamp(answer, "end_boot_ns", end_boot);
    text_stamp(answer, "cpu_ns", clock_ns(CLOCK_PROCESS_CPUTIME_ID) - began->cpu);
}

static bool do_run(const struct json *json, struct text *answer, struct failure *failure) {
    struct handle **place = take_handle(json, failure);
    int64_t n;
    if (place == NULL || !take_integer(json, "n", -1, 0, INT64_MAX, &n, failure)) {
        return false;
    }
    const struct handle *handle = *place;
    if (!pin_to(&handle->cpu, handle->cpu >= 0 ? 1 : 0, failure)) {
        return false;
    }
    bool (*run)(void *, struct failure *) = handle->backend->run;
    void *model = handle->model;
    struct stamps stamps = stamps_begin();
    for (int64_t i = 0; i < n; i++) {
        if (!run(model, failure)) {
            return false;
        }
    }
    stamps_end(&stamps, answer);
    return true;
}

static bool is_gone(int64_t pid) {
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

/* Wait for a time, or until a process is gone. */
static bool do_wait(const struct json *json, struct text *answer, struct failure *failure) {
    static const int64_t longest_ns = 86400LL * 1000000000;
    static const int64_t look_ns = 100000000;
    int64_t ns;
    int64_t pid;
    if (!take_integer(json, "ns", -1, 0, longest_ns, &ns, failure) ||
        !take_integer(json, "pid", 0, 0, INT32_MAX, &pid, failure)) {
        return false;
    }
    struct stamps stamps = stamps_begin();
    int64_t end = clock_ns(CLOCK_MONOTONIC) + ns;
    for (int64_t now = end - ns; now < end && !(pid > 0 && is_gone(pid)); now = clock_ns(CLOCK_MONOTONIC)) {
        int64_t until = pid > 0 && end - now > look_ns ? now + look_ns : end;
        struct timespec moment = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL);
    }
    stamps_end(&stamps, answer);
    return true;
}

static bool do_unload(const struct json *json, struct text *answer, struct failure *failure) {
    (void)answer;
    struct handle **place = take_handle(json, failure);
    if (place == NULL) {
        return false;
    }
    struct handle *handle = *place;
    *place = handle->next;
    drop(handle);
    return true;
}

void drop_models(void) {
    while (handles != NULL) {
        struct handle *handle = handles;
        handles = handle->next;
        drop(handle);
    }
}

static bool do_bye(const struct json *json, struct text *answer, struct failure *failure) {
    (void)json;
    (void)answer;
    (void)failure;
    return true;
}

static const struct {
    const char *name;
    bool (*call)(const struct json *json, struct text *answer, struct failure *failure);
} operations[] = {{"hello", do_hello}, {"load", do_load},     {"run", do_run},
                  {"wait", do_wait},   {"unload", do_unload}, {"bye", do_bye}};

bool answer_line(char *line, size_t length, struct json *json, struct text *answer) {
    struct failure failure = {.kind = "protocol"};
    const struct json_value *id = NULL;
    bool goes_on = true;
    bool success = false;
    text_clear(answer);
    text_add(answer, "{");
    if (line == NULL) {
        refuse(&failure, "protocol", "a request is longer than %d bytes", MAX_LINE);
    } else if (!json_read(json, line, length)) {
        refuse(&failure, "protocol", "not JSON: %s at byte %zu", json->error, json->position);
    } else if (json_root(json)->type != JSON_OBJECT) {
        refuse(&failure, "protocol", "a request must be an object");
    } else {
        const struct json_value *op = json_member(json, json_root(json), "op");
        id = json_member(json, json_root(json), "id");
        refuse(&failure, "protocol", "unknown op");
        for (size_t i = 0; op != NULL && op->type == JSON_STRING && i < sizeof operations / sizeof operations[0]; i++) {
            const char *name = operations[i].name;
            if (op->length == strlen(name) && memcmp(op->text, name, op->length) == 0) {
                success = operations[i].call(json, answer, &failure);
                goes_on = operations[i].call != do_bye;
            }
        }
    }
    if (success && answer->failed) {
        refuse(&failure, "memory", "no memory for an answer");
        success = false;
    }
    if (!success) {
        text_clear(answer);
        text_add(answer, "{\"error\": ");
        text_words(answer, failure.message);
        text_add(answer, ", \"kind\": \"");
        text_add(answer, failure.kind);
        text_add(answer, "\", ");
    }
    text_add(answer, "\"id\": ");
    if (id == NULL) {
        text_add(answer, "null");
    } else {
        json_write(answer, id);
    }
    text_add(answer, "}\n");
    return goes_on;
}
