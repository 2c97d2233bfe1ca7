#include "threads.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static int pin(pid_t thread, const int *cpus, size_t count) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t i = 0; i < count; i++) {
        if (cpus[i] < 0 || cpus[i] >= CPU_SETSIZE) {
            return EINVAL;
        }
        CPU_SET((size_t)cpus[i], &set);
    }
    return sched_setaffinity(thread, sizeof set, &set) == 0 ? 0 : errno;
}

int pin_self(const int *cpus, size_t count) { return count == 0 ? 0 : pin(0, cpus, count); }

size_t usable_cpus(int *cpus, size_t size) {
    cpu_set_t set;
    size_t count = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 0;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE && count < size; cpu++) {
        if (CPU_ISSET((size_t)cpu, &set)) {
            cpus[count++] = cpu;
        }
    }
    return count;
}

static int ascending(const void *a, const void *b) {
    pid_t x = *(const pid_t *)a;
    pid_t y = *(const pid_t *)b;
    return (x > y) - (x < y);
}

/* Thread ids of this process, ascending, in memory to be freed; NULL if they cannot be listed. */
static pid_t *thread_ids(size_t *count) {
    DIR *folder = opendir("/proc/self/task");
    size_t capacity = 64;
    pid_t *ids = folder == NULL ? NULL : malloc(capacity * sizeof *ids);
    *count = 0;
    while (ids != NULL) {
        struct dirent *entry = readdir(folder);
        if (entry == NULL) {
            break;
        }
        char *end;
        long id = strtol(entry->d_name, &end, 10);
        if (id <= 0 || *end != '\0') {
            continue;
        }
        if (*count == capacity) {
            capacity *= 2;
            pid_t *more = realloc(ids, capacity * sizeof *ids);
            if (more == NULL) {
                free(ids);
                ids = NULL;
                break;
            }
            ids = more;
        }
        ids[(*count)++] = (pid_t)id;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    if (ids != NULL) {
        qsort(ids, *count, sizeof *ids, ascending);
    }
    return ids;
}

bool pool_begin(struct pool *pool, const int *cpus, size_t cpu_count) {
    *pool = (struct pool){.cpus = cpus, .cpu_count = cpu_count};
    if (cpu_count < 2) {
        return true;
    }
    pool->before = thread_ids(&pool->before_count);
    return pool->before != NULL;
}

void pool_pin(struct pool *pool) {
    if (pool->before == NULL) {
        return;
    }
    size_t count;
    pid_t *now = thread_ids(&count);
    pool->pinned = 0;
    for (size_t i = 0; now != NULL && i < count; i++) {
        if (bsearch(&now[i], pool->before, pool->before_count, sizeof now[i], ascending) == NULL) {
            size_t turn = 1 + pool->pinned % (pool->cpu_count - 1);
            pool->pinned += pin(now[i], &pool->cpus[turn], 1) == 0;
        }
    }
    free(now);
}

void pool_end(struct pool *pool) {
    free(pool->before);
    *pool = (struct pool){0};
}
