/*
 * Preloaded into a program: counts the steps by which it changes files of one directory or talks to somebody, and at one
 * of them kills it, or lets the disk be full from there on.
 *
 * STEP_DIR  the directory, absolute
 * STEP_MODE "kill": the program dies before step STEP_AT; "full": no step from STEP_AT on that needs room on disk finds
 *           any; anything else: nothing happens
 * STEP_AT   counted from 1; of "full", only steps that need room count
 * STEP_TOLD a file that is told at the end how many steps there were
 *
 * Files that are made without libc (temporary files, by raw system calls) count from the first byte that is written.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long steps;
static long at;
static int is_full, is_kill;
static char dir[4096];

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("STEP_DIR"), *mode = getenv("STEP_MODE"), *when = getenv("STEP_AT");
    if (where) snprintf(dir, sizeof dir, "%s/", where);
    is_full = mode && !strcmp(mode, "full");
    is_kill = mode && !strcmp(mode, "kill");
    at = when ? atol(when) : 0;
}

__attribute__((destructor)) static void end(void) {
    const char *told = getenv("STEP_TOLD");
    char text[32];
    if (!told) return;
    int fd = syscall(SYS_openat, AT_FDCWD, told, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    int length = snprintf(text, sizeof text, "%ld", atomic_load(&steps));
    syscall(SYS_write, fd, text, length);
    syscall(SYS_close, fd);
}

/* A step is about to be done; whether there is no room for it. */
static int step(int needs_room) {
    if (is_full && !needs_room) return 0;
    long now = atomic_fetch_add(&steps, 1) + 1;
    if (is_kill && now == at) kill(getpid(), SIGKILL);
    return is_full && now >= at;
}

static int is_inside(const char *path) {
    return *dir && path && !strncmp(path, dir, strlen(dir));
}

/* 1: a file of the directory, 2: a socket */
static int kind(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int saved = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    if (is_inside(path)) return 1;
    return strncmp(path, "socket:", 7) ? 0 : 2;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define NO_ROOM(error) do { errno = (error); return -1; } while (0)

/* Something is written to a descriptor. */
#define WRITES(type, name, params, args) \
    type name params { \
        NEXT(name); \
        int is = kind(fd); \
        if (is && step(is == 1)) NO_ROOM(ENOSPC); \
        return next args; \
    }

/* Something is done to one that needs no room. */
#define DOES(type, name, params, args) \
    type name params { \
        NEXT(name); \
        if (kind(fd)) step(0); \
        return next args; \
    }

WRITES(ssize_t, write, (int fd, const void *bytes, size_t length), (fd, bytes, length))
WRITES(ssize_t, pwrite, (int fd, const void *bytes, size_t length, off_t to), (fd, bytes, length, to))
WRITES(ssize_t, pwrite64, (int fd, const void *bytes, size_t length, off64_t to), (fd, bytes, length, to))
WRITES(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
DOES(int, fsync, (int fd), (fd))
DOES(int, fdatasync, (int fd), (fd))
DOES(int, ftruncate, (int fd, off_t length), (fd, length))
DOES(int, ftruncate64, (int fd, off64_t length), (fd, length))
DOES(ssize_t, send, (int fd, const void *bytes, size_t length, int flags), (fd, bytes, length, flags))
DOES(ssize_t, sendto,
     (int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to, socklen_t size),
     (fd, bytes, length, flags, to, size))
DOES(ssize_t, recv, (int fd, void *bytes, size_t length, int flags), (fd, bytes, length, flags))

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = (flags & O_CREAT) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        if ((flags & O_CREAT) && is_inside(path) && access(path, F_OK) && step(1)) NO_ROOM(ENOSPC); \
        return next(path, flags, mode); \
    }

OPENS(open)
OPENS(open64)

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    NEXT(linkat);
    if (is_inside(to) && step(1)) NO_ROOM(ENOSPC);
    return next(from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to) {
    NEXT(link);
    if (is_inside(to) && step(1)) NO_ROOM(ENOSPC);
    return next(from, to);
}

int unlink(const char *path) {
    NEXT(unlink);
    if (is_inside(path)) step(0);
    return next(path);
}

int rename(const char *from, const char *to) {
    NEXT(rename);
    if (is_inside(to)) step(0);
    return next(from, to);
}
