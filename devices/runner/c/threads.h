/* Pinning of threads to cores.
 *
 * Runtimes differ in what they let a caller say about the threads of their pools; all make those threads while a model
 * is loaded or first run. So the threads that were not there before are the pool's, and each is given a core.
 */
#ifndef DEEPEN_THREADS_H
#define DEEPEN_THREADS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct pool {
    pid_t *before; /* threads there before the load, ascending */
    size_t before_count;
    const int *cpus; /* the first one is the calling thread's */
    size_t cpu_count;
    size_t pinned;
};

/* Pin the calling thread to these cores; 0 or an errno. */
int pin_self(const int *cpus, size_t count);

/* List the cores this process may use, at most `size`; return their number. */
size_t usable_cpus(int *cpus, size_t size);

/* Record the present threads; false if memory runs out. */
bool pool_begin(struct pool *pool, const int *cpus, size_t cpu_count);

/* Pin every thread started since to a core of its own, in turn, as far as there are cores. */
void pool_pin(struct pool *pool);
void pool_end(struct pool *pool);

#endif
