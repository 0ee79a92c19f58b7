/* Loaded before libc into a daemon under test: makes system calls on named files fail or hang.
   The file KHEISH_TEST_DISK holds lines of "<sync|write|read|hang> <end of the path>"; without the file all is well. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ends_with(const char *path, const char *end) {
    size_t a = strlen(path), b = strlen(end);
    return a >= b && strcmp(path + a - b, end) == 0;
}

/* The real calls, past everything this file defines. */
static ssize_t load(char *text, size_t size) {
    const char *name = getenv("KHEISH_TEST_DISK");
    if (name == NULL) return -1;
    long fd = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = syscall(SYS_read, fd, text, size - 1);
    syscall(SYS_close, fd);
    if (length >= 0) text[length] = 0;
    return length;
}

static int told(const char *operation, int fd) {
    char text[1024], link[64], path[4096], wanted[16], end[512];
    int consumed;
    if (load(text, sizeof text) <= 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    for (char *at = text; sscanf(at, "%15s %511s%n", wanted, end, &consumed) == 2; at += consumed)
        if (strcmp(wanted, operation) == 0 && ends_with(path, end)) return 1;
    return 0;
}

static int fails(const char *operation, int fd) {
    int saved = errno;
    while (told("hang", fd)) usleep(20000);
    int failing = told(operation, fd);
    errno = failing ? EIO : saved;
    return failing;
}

int fsync(int fd) { return fails("sync", fd) ? -1 : syscall(SYS_fsync, fd); }

int fdatasync(int fd) { return fails("sync", fd) ? -1 : syscall(SYS_fdatasync, fd); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return fails("write", fd) ? -1 : syscall(SYS_pwrite64, fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    return fails("read", fd) ? -1 : syscall(SYS_pread64, fd, data, size, at);
}

ssize_t pread(int fd, void *data, size_t size, off_t at) { return pread64(fd, data, size, at); }
