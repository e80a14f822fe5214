/* Loaded with LD_PRELOAD by tests/drills/faults.py: a disk that fails, and a clock that jumps.
 *
 * While the file $FAULTS_FLAG exists, calls that write below $FAULTS_UNDER fail with the errno $FAULTS_ERRNO.
 * The file $FAULTS_CLOCK holds seconds that are added to the wall clock. Waits with an absolute deadline on the wall
 * clock are shifted back, as the kernel would do after a real jump.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define EARLIEST_WALL 1000000000L /* deadlines before this are of the monotonic clock */

static long kernel(long number, long a, long b, long c, long d) {
    /* Never through the interposed names: no recursion. */
    register long r10 __asm__("r10") = d;
    long result;
#if defined(__x86_64__)
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
#else
#error "faults.c is for x86-64"
#endif
    return result;
}

static int fault(void) {
    const char *flag = getenv("FAULTS_FLAG"), *number = getenv("FAULTS_ERRNO");
    if (!flag || !number || kernel(SYS_access, (long)flag, F_OK, 0, 0) != 0) return 0;
    return atoi(number);
}

static int below(const char *path) {
    const char *under = getenv("FAULTS_UNDER");
    size_t length = under ? strlen(under) : 0;
    if (!length || strncmp(path, under, length) != 0) return 0;
    return path[length] == '/' || path[length] == 0;
}

static int below_at(int folder, const char *path) {
    char link[64], place[PATH_MAX * 2];
    if (!path) return 0;
    if (path[0] == '/') return below(path);
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    long length = kernel(SYS_readlink, (long)link, (long)place, PATH_MAX - 1, 0);
    if (length <= 0) return 0;
    snprintf(place + length, sizeof place - length, "/%s", path);
    return below(place);
}

static int below_fd(int fd) {
    char link[64], place[PATH_MAX];
    if (fd <= 2) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = kernel(SYS_readlink, (long)link, (long)place, sizeof place - 1, 0);
    if (length <= 0) return 0;
    place[length] = 0;
    return below(place);
}

static int fails(int hit) {
    int number = hit ? fault() : 0;
    if (number) errno = number;
    return number;
}

#define WRITES(flags) (((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0)
#define MODE mode_t mode = 0; va_list rest; va_start(rest, flags); if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t); va_end(rest)
#define FAIL_PATH(folder, path) if (fault() && fails(below_at(folder, path))) return -1
#define FAIL_FD(fd) if (fault() && fails(below_fd(fd))) return -1

int open(const char *path, int flags, ...) { NEXT(open); MODE; if (WRITES(flags)) FAIL_PATH(AT_FDCWD, path); return next(path, flags, mode); }
int open64(const char *path, int flags, ...) { NEXT(open64); MODE; if (WRITES(flags)) FAIL_PATH(AT_FDCWD, path); return next(path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { NEXT(openat); MODE; if (WRITES(flags)) FAIL_PATH(folder, path); return next(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { NEXT(openat64); MODE; if (WRITES(flags)) FAIL_PATH(folder, path); return next(folder, path, flags, mode); }
FILE *fopen(const char *path, const char *mode) { NEXT(fopen); if (!strcmp(mode, "r") || !strcmp(mode, "rb")) return next(path, mode); if (fault() && fails(below_at(AT_FDCWD, path))) return NULL; return next(path, mode); }
FILE *fopen64(const char *path, const char *mode) { NEXT(fopen64); if (!strcmp(mode, "r") || !strcmp(mode, "rb")) return next(path, mode); if (fault() && fails(below_at(AT_FDCWD, path))) return NULL; return next(path, mode); }
ssize_t write(int fd, const void *data, size_t size) { NEXT(write); FAIL_FD(fd); return next(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { NEXT(writev); FAIL_FD(fd); return next(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { NEXT(pwrite); FAIL_FD(fd); return next(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { NEXT(pwrite64); FAIL_FD(fd); return next(fd, data, size, offset); }
int fsync(int fd) { NEXT(fsync); FAIL_FD(fd); return next(fd); }
int fdatasync(int fd) { NEXT(fdatasync); FAIL_FD(fd); return next(fd); }
int ftruncate(int fd, off_t size) { NEXT(ftruncate); FAIL_FD(fd); return next(fd, size); }
int ftruncate64(int fd, off64_t size) { NEXT(ftruncate64); FAIL_FD(fd); return next(fd, size); }
int rename(const char *from, const char *to) { NEXT(rename); FAIL_PATH(AT_FDCWD, to); return next(from, to); }
int renameat(int a, const char *from, int b, const char *to) { NEXT(renameat); FAIL_PATH(b, to); return next(a, from, b, to); }
int mkdir(const char *path, mode_t mode) { NEXT(mkdir); FAIL_PATH(AT_FDCWD, path); return next(path, mode); }
int unlink(const char *path) { NEXT(unlink); FAIL_PATH(AT_FDCWD, path); return next(path); }

static long jump(void) {
    const char *file = getenv("FAULTS_CLOCK");
    char text[32] = {0};
    if (!file) return 0;
    long fd = kernel(SYS_open, (long)file, O_RDONLY, 0, 0);
    if (fd < 0) return 0;
    long length = kernel(SYS_read, fd, (long)text, sizeof text - 1, 0);
    kernel(SYS_close, fd, 0, 0, 0);
    return length > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    NEXT(clock_gettime);
    int result = next(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    NEXT(gettimeofday);
    int result = next(now, zone);
    if (result == 0) now->tv_sec += jump();
    return result;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}

static struct timespec back(const struct timespec *deadline) {
    struct timespec shifted = *deadline;
    if (shifted.tv_sec >= EARLIEST_WALL) shifted.tv_sec -= jump();
    return shifted;
}
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec shifted = back(until);
    return next(cond, mutex, &shifted);
}
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) { NEXT(sem_timedwait); struct timespec shifted = back(until); return next(semaphore, &shifted); }
int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) { NEXT(pthread_mutex_timedlock); struct timespec shifted = back(until); return next(mutex, &shifted); }

long syscall(long number, ...) {
    static long (*next)(long, ...);
    if (!next) next = dlsym(RTLD_NEXT, "syscall");
    va_list rest;
    long a[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    struct timespec shifted;
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) { /* absl's mutexes in Ray */
        shifted = back((const struct timespec *)a[3]);
        a[3] = (long)&shifted;
    }
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
