/* Preloaded into a process, it ends or fails the process's n-th change of a regular file, or writes all changes down.
 *
 * Counted are the calls that change files: open with O_CREAT or O_TRUNC, write, pwrite, fsync, fdatasync, ftruncate,
 * unlink and rename. See tests/support/faulty_disk.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF = -1, KILL_BEFORE, KILL_HALF, KILL_AFTER, FAIL };
static int mode = OFF, wanted_errno;
static long count, at;
static int log_fd = -1;

void faulty_disk_arm(long n, int how, int error) { at = n; mode = how; wanted_errno = error; count = 0; }
long faulty_disk_count(void) { return count; }
void faulty_disk_log(int fd) { log_fd = fd; }

#define REAL(name) ({ static __typeof__(&name) f; if (!f) f = (__typeof__(&name))dlsym(RTLD_NEXT, #name); f; })

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

static int regular(int fd) {
    struct stat s;
    return fd != log_fd && !fstat(fd, &s) && (S_ISREG(s.st_mode) || S_ISDIR(s.st_mode));
}

static void note(const char *op, const char *path, const char *other, off_t offset, const void *data, size_t size) {
    if (log_fd < 0) return;
    char head[8192];
    int n = snprintf(head, sizeof head, "%s\t%s\t%s\t%lld\t%zu\n", op, path, other, (long long)offset, size);
    REAL(write)(log_fd, head, n);
    if (size) REAL(write)(log_fd, data, size);
}

static void note_fd(const char *op, int fd, off_t offset, const void *data, size_t size) {
    if (log_fd < 0) return;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    note(op, path, "", offset, data, size);
}

void faulty_disk_note(const char *text) { note("note", text, "", 0, NULL, 0); }

/* 0: go on; 1: do half, then die; 2: do all, then die; -1: fail */
static int step(void) {
    if (mode == OFF) return 0;
    long n = count++;
    if (mode == FAIL) { if (n < at) return 0; errno = wanted_errno; return -1; }
    if (n != at) return 0;
    if (mode == KILL_BEFORE) die();
    return mode == KILL_HALF ? 1 : 2;
}

#define CALL(result_type, counted, whole, half, record) do { \
    int s = (counted) ? step() : 0; \
    if (s < 0) return -1; \
    if (s == 1) { half; die(); } \
    result_type r = whole; \
    int e = errno; \
    if (s == 2) die(); \
    if (r >= 0 && (counted)) { record; } \
    errno = e; \
    return r; } while (0)

ssize_t write(int fd, const void *b, size_t n) {
    off_t where = log_fd >= 0 ? lseek(fd, 0, SEEK_CUR) : 0;
    CALL(ssize_t, regular(fd), REAL(write)(fd, b, n), REAL(write)(fd, b, n / 2), note_fd("write", fd, where, b, r));
}
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) {
    CALL(ssize_t, regular(fd), REAL(pwrite)(fd, b, n, o), REAL(pwrite)(fd, b, n / 2, o), note_fd("write", fd, o, b, r));
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { return pwrite(fd, b, n, o); }
int fsync(int fd) { CALL(int, regular(fd), 0 /* what is in memory outlives the process */, (void)0, note_fd("sync", fd, 0, NULL, 0)); }
int fdatasync(int fd) { CALL(int, regular(fd), 0, (void)0, note_fd("sync", fd, 0, NULL, 0)); }
int ftruncate(int fd, off_t n) {
    CALL(int, regular(fd), REAL(ftruncate)(fd, n), (void)0, note_fd("truncate", fd, n, NULL, 0));
}
int ftruncate64(int fd, off64_t n) { return ftruncate(fd, n); }
int unlink(const char *p) { CALL(int, 1, REAL(unlink)(p), (void)0, note("unlink", p, "", 0, NULL, 0)); }
int rename(const char *a, const char *b) {
    CALL(int, 1, REAL(rename)(a, b), (void)0, note("rename", a, b, 0, NULL, 0));
}

static int opened(int (*real)(const char *, int, ...), const char *p, int flags, mode_t m) {
    int changes = (flags & (O_CREAT | O_TRUNC)) && (flags & O_ACCMODE) != O_RDONLY;
    CALL(int, changes, real(p, flags, m), (void)0, note_fd(flags & O_TRUNC ? "empty" : "open", r, 0, NULL, 0));
}
#define MODE(flags) mode_t m = 0; if ((flags) & O_CREAT) { va_list v; va_start(v, flags); m = va_arg(v, mode_t); va_end(v); }
int open(const char *p, int flags, ...) { MODE(flags) return opened(REAL(open), p, flags, m); }
int open64(const char *p, int flags, ...) { MODE(flags) return opened(REAL(open64), p, flags, m); }
