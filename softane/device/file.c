// SPDX-License-Identifier: MIT
/* file.c - whole files in and out. No policy: paths come checked. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

static const SaPos nowhere = {0, 0};

bool sa_file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static SaStatus read_all(int fd, const char *path, size_t limit, char **bytes, size_t *count, SaError *err) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return sa_error_set(err, SA_E_IO, nowhere, "'%s' is not a plain file", path);
    if (st.st_size < 0 || (uint64_t)st.st_size > limit)
        return sa_error_set(err, SA_E_LIMIT, nowhere, "'%s' has %lld bytes, more than %zu", path,
                            (long long)st.st_size, limit);
    size_t size = (size_t)st.st_size, done = 0;
    char *buf = sa_malloc(size + 1);
    if (!buf)
        return sa_error_set(err, SA_E_MEMORY, nowhere, "no memory for '%s'", path);
    while (done < size) {
        ssize_t n = read(fd, buf + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) { /* an error, or somebody made the file shorter */
            sa_free(buf);
            return sa_error_set(err, SA_E_IO, nowhere, "cannot read '%s'", path);
        }
        done += (size_t)n;
    }
    buf[size] = 0;
    *bytes = buf;
    *count = size;
    return SA_OK;
}

SaStatus sa_file_read(const char *path, size_t limit_bytes, char **bytes, size_t *count, SaError *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sa_error_set(err, SA_E_IO, nowhere, "cannot open '%s': errno %d", path, errno);
    SaStatus st = read_all(fd, path, limit_bytes, bytes, count, err);
    close(fd);
    return st;
}

static bool write_all(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t n = write(fd, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        count -= (size_t)n;
    }
    return true;
}

SaStatus sa_file_write(const char *path, const void *bytes, size_t count, SaError *err) {
    char beside[4200];
    int n = snprintf(beside, sizeof beside, "%s.XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof beside)
        return sa_error_set(err, SA_E_IO, nowhere, "path too long");
    int fd = mkostemp(beside, O_CLOEXEC);
    if (fd < 0)
        return sa_error_set(err, SA_E_IO, nowhere, "cannot create '%s': errno %d", beside, errno);
    bool good = write_all(fd, bytes, count) && fchmod(fd, 0644) == 0;
    good = close(fd) == 0 && good;
    if (!good || rename(beside, path) != 0) {
        SaStatus st = sa_error_set(err, SA_E_IO, nowhere, "cannot write '%s': errno %d", path, errno);
        unlink(beside);
        return st;
    }
    return SA_OK;
}
