/* A disk that fails, is full, or loses power, put before a real program by LD_PRELOAD.

   What happens is read from a file ".disk" beside the files of the folder that it stands in, at each call, one word a line:

     eio N      the N-th fdatasync or fsync from now on a file in that folder fails with EIO, and all later ones
                until the word changes
     once       of those, only the N-th: the disk works again, and says of what it lost a word to each open file, as Linux does, and no more
     room N     the folder's files may grow to N bytes in all; beyond it ENOSPC, and statvfs says what is left
     record     every write, truncation, sync, rename and removal in that folder is written to ".stream", in order

   A record is: one letter, the number of bytes of the name (4 bytes, this machine's order), of the data (8), the offset (8), name, data.
   W write, T truncate to offset, S sync, F sync that failed, R rename, L link (data is the new name), U unlink. Names are of the folder.

   Compiled by the tests that use it: cc -shared -fPIC -O1 -o disk_that_lies.so disk_that_lies.c -ldl
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PATH_SIZE 4096

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

struct plan {
    int is_there, records, once;
    long long fails_in, room;
    char folder[PATH_SIZE];
};

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int open_plainly(const char *path, int flags) {
    static int (*next)(const char *, int, ...);
    if (!next) next = real("open64") ? real("open64") : real("open");
    return next(path, flags, 0600);
}

/* What the file beside says; fails_in and room are -1 where it says nothing of them. */
static struct plan plan_of(const char *path) {
    struct plan plan = {0, 0, 0, -1, -1, ""};
    char copy[PATH_SIZE], text[256], file[PATH_SIZE + 16];
    snprintf(copy, sizeof copy, "%s", path);
    snprintf(plan.folder, sizeof plan.folder, "%s", dirname(copy));
    snprintf(file, sizeof file, "%s/.disk", plan.folder);
    int handle = open_plainly(file, O_RDONLY);
    if (handle < 0) return plan;
    ssize_t size = read(handle, text, sizeof text - 1);
    close(handle);
    if (size <= 0) return plan;
    text[size] = 0;
    plan.is_there = 1;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        sscanf(line, "eio %lld", &plan.fails_in);
        sscanf(line, "room %lld", &plan.room);
        if (strcmp(line, "record") == 0) plan.records = 1;
        if (strcmp(line, "once") == 0) plan.once = 1;
    }
    return plan;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_SIZE - 1);
    if (size <= 0 || path[0] != '/') return 0;
    path[size] = 0;
    return 1;
}

static const char *name_in(const char *path) { return strrchr(path, '/') + 1; }

static void record(const struct plan *plan, char what, const char *path, int64_t offset, const void *data, uint64_t size) {
    char file[PATH_SIZE + 16];
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = real("write");
    const char *name = name_in(path);
    uint32_t length = strlen(name);
    size_t total = 1 + 4 + 8 + 8 + length + size;
    char *whole = malloc(total), *at = whole;
    *at++ = what;
    memcpy(at, &length, 4), at += 4;
    memcpy(at, &size, 8), at += 8;
    memcpy(at, &offset, 8), at += 8;
    memcpy(at, name, length), at += length;
    if (size) memcpy(at, data, size);
    snprintf(file, sizeof file, "%s/.stream", plan->folder);
    int handle = open_plainly(file, O_WRONLY | O_CREAT | O_APPEND);
    if (handle < 0 || next(handle, whole, total) != (ssize_t)total) abort();
    close(handle);
    free(whole);
}

static long long bytes_in(const char *folder) {
    long long total = 0;
    char path[PATH_SIZE * 2];
    DIR *open_folder = opendir(folder);
    if (!open_folder) return 0;
    for (struct dirent *each; (each = readdir(open_folder));) {
        struct stat found;
        snprintf(path, sizeof path, "%s/%s", folder, each->d_name);
        if (each->d_name[0] != '.' && stat(path, &found) == 0 && S_ISREG(found.st_mode)) total += found.st_size;
    }
    closedir(open_folder);
    return total;
}

/* Whether a write of so many bytes at offset is let through; records it if it is. */
static int may_write(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_SIZE];
    if (!path_of(fd, path) || name_in(path)[0] == '.') return 1;
    pthread_mutex_lock(&one_at_a_time);
    struct plan plan = plan_of(path);
    int may = 1;
    if (plan.room >= 0) {
        struct stat found;
        fstat(fd, &found);
        long long grows = (long long)offset + (long long)size - (long long)found.st_size;
        if (grows > 0 && bytes_in(plan.folder) + grows > plan.room) may = 0;
    }
    if (may && plan.records) record(&plan, 'W', path, offset, data, size);
    pthread_mutex_unlock(&one_at_a_time);
    if (!may) errno = ENOSPC;
    return may;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    static ssize_t (*next)(int, const void *, size_t, off_t);
    if (!next) next = real("pwrite");
    return may_write(fd, data, size, offset) ? next(fd, data, size, offset) : -1;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next) next = real("pwrite64");
    return may_write(fd, data, size, offset) ? next(fd, data, size, offset) : -1;
}

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = real("write");
    off_t offset = lseek(fd, 0, SEEK_CUR);
    if (offset < 0) return next(fd, data, size); /* no file */
    return may_write(fd, data, size, offset) ? next(fd, data, size) : -1;
}

int ftruncate(int fd, off_t size) {
    static int (*next)(int, off_t);
    char path[PATH_SIZE];
    if (!next) next = real("ftruncate");
    if (path_of(fd, path)) {
        pthread_mutex_lock(&one_at_a_time);
        struct plan plan = plan_of(path);
        if (plan.records) record(&plan, 'T', path, size, "", 0);
        pthread_mutex_unlock(&one_at_a_time);
    }
    return next(fd, size);
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int posix_fallocate(int fd, off_t offset, off_t size) {
    static int (*next)(int, off_t, off_t);
    char path[PATH_SIZE];
    if (!next) next = real("posix_fallocate");
    if (path_of(fd, path)) {
        struct plan plan = plan_of(path);
        if (plan.room >= 0 && bytes_in(plan.folder) + size > plan.room) return ENOSPC;
    }
    return next(fd, offset, size);
}

int posix_fallocate64(int fd, off64_t offset, off64_t size) { return posix_fallocate(fd, offset, size); }

static int statvfs_of(const char *folder, struct statvfs *found) {
    char inside[PATH_SIZE + 4];
    snprintf(inside, sizeof inside, "%s/x", folder);
    struct plan plan = plan_of(inside);
    if (plan.room >= 0) {
        long long left = plan.room - bytes_in(folder);
        found->f_frsize = found->f_bsize = 1;
        found->f_bavail = found->f_bfree = left > 0 ? left : 0;
    }
    return 0;
}

int statvfs(const char *path, struct statvfs *found) {
    static int (*next)(const char *, struct statvfs *);
    if (!next) next = real("statvfs");
    int result = next(path, found);
    return result ? result : statvfs_of(path, found);
}

int statvfs64(const char *path, struct statvfs64 *found) {
    static int (*next)(const char *, struct statvfs64 *);
    if (!next) next = real("statvfs64");
    int result = next(path, found);
    return result ? result : statvfs_of(path, (struct statvfs *)found);
}

/* Which file a sync failed of, and who was told; the other that has it open (a writer, and who folds its log back) is to be told too. */
static char owed[PATH_SIZE];
static int told = -1;

/* Whether a sync of fd fails; counts it. */
static int fails(int fd) {
    char path[PATH_SIZE], file[PATH_SIZE + 16], text[64];
    int does = 0;
    if (!path_of(fd, path) || name_in(path)[0] == '.') return 0;
    pthread_mutex_lock(&one_at_a_time);
    struct plan plan = plan_of(path);
    if (owed[0] && fd != told && strcmp(owed, path) == 0) {
        owed[0] = 0;
        does = 1;
    } else if (plan.fails_in >= 0) {
        if (plan.fails_in <= 1) {
            does = 1;
            snprintf(owed, sizeof owed, "%s", plan.once ? path : "");
            told = fd;
        }
        if (!does || plan.once) {
            snprintf(file, sizeof file, "%s/.disk", plan.folder);
            int handle = open_plainly(file, O_WRONLY | O_TRUNC);
            int size = snprintf(text, sizeof text, "eio %lld\n%s%s", does ? 1LL << 40 : plan.fails_in - 1,
                                plan.records ? "record\n" : "", plan.once ? "once\n" : "");
            if (handle < 0 || write(handle, text, size) != size) abort();
            close(handle);
        }
    }
    if (plan.records) record(&plan, does ? 'F' : 'S', path, 0, "", 0);
    pthread_mutex_unlock(&one_at_a_time);
    return does;
}

int fdatasync(int fd) {
    static int (*next)(int);
    if (!next) next = real("fdatasync");
    if (fails(fd)) return errno = EIO, -1;
    return next(fd);
}

int fsync(int fd) {
    static int (*next)(int);
    if (!next) next = real("fsync");
    if (fails(fd)) return errno = EIO, -1;
    return next(fd);
}

int unlink(const char *path) {
    static int (*next)(const char *);
    if (!next) next = real("unlink");
    if (path[0] == '/') {
        pthread_mutex_lock(&one_at_a_time);
        struct plan plan = plan_of(path);
        if (plan.records && name_in(path)[0] != '.') record(&plan, 'U', path, 0, "", 0);
        pthread_mutex_unlock(&one_at_a_time);
    }
    return next(path);
}

/* A second name, or another one. */
static void record_name(char what, const char *from, const char *to) {
    if (from[0] != '/' || to[0] != '/') return;
    pthread_mutex_lock(&one_at_a_time);
    struct plan plan = plan_of(from);
    if (plan.records && name_in(from)[0] != '.') record(&plan, what, from, 0, name_in(to), strlen(name_in(to)));
    pthread_mutex_unlock(&one_at_a_time);
}

int rename(const char *from, const char *to) {
    static int (*next)(const char *, const char *);
    if (!next) next = real("rename");
    record_name('R', from, to);
    return next(from, to);
}

int link(const char *from, const char *to) {
    static int (*next)(const char *, const char *);
    if (!next) next = real("link");
    record_name('L', from, to);
    return next(from, to);
}
