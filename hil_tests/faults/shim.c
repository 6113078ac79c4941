/* Between a process and its disk: counts, fails or records the writes and syncs of one folder's files, or kills at one.
 *
 * Preloaded by hil_tests/faults/disk.py, which shares `struct control` through a mapped file and has the same layout.
 * "Killed" is SIGKILL to ourselves in the midst of the call: what was written before is in the kernel, the rest is not.
 * The record holds what each write replaced, so that a power cut can take back whatever was not synced.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ON_WRITE = 1, ON_SYNC = 2, ON_READ = 4, ON_SHARE = 8 };
enum { RECORD_WRITE = 1, RECORD_SYNC = 2, RECORD_TRUNCATE = 3 };

struct control {
    int64_t writes;            /* so far */
    int64_t syncs;             /* so far: each is a point at which something becomes durable */
    int64_t bytes_written;
    int64_t kill_at_write;     /* 0: never; else in the write with this number ... */
    int64_t kill_permille;     /* ... after this share of its bytes */
    int64_t kill_at_sync;      /* 0: never; else at the sync with this number ... */
    int64_t kill_after_sync;   /* ... 0: before it, 1: after it */
    int64_t fail_errno;
    int64_t fail_on;           /* ON_* */
    int64_t fail_skip;         /* calls that pass before the first that fails */
    int64_t fail_left;         /* calls that fail; negative: all */
    int64_t failed;            /* so far */
    int64_t record;            /* 1: write the record */
    int64_t sync_us;           /* a slow medium: each sync takes so much longer */
    int64_t cuts;              /* so far: SoftHSM empties a file of its own, wherever that is, to write it anew */
    int64_t kill_at_cut;       /* 0: never; else after the cut with this number; negative: before it */
    int64_t fail_from;         /* reads that end before this offset pass: a bad sector */
};

struct entry {
    int64_t kind, offset, length, old_size, old_length;
    char name[40];
};

static struct control *control;
static char folder[4096];
static size_t folder_length;
static int record_fd = -1;
static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) static type (*real_##name)(__VA_ARGS__)
REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
REAL(ssize_t, pread64, int, void *, size_t, off64_t);
REAL(ssize_t, write, int, const void *, size_t);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(int, ftruncate64, int, off64_t);

__attribute__((constructor)) static void begin(void) {
    *(void **)&real_pwrite64 = dlsym(RTLD_NEXT, "pwrite64");
    *(void **)&real_pread64 = dlsym(RTLD_NEXT, "pread64");
    *(void **)&real_write = dlsym(RTLD_NEXT, "write");
    *(void **)&real_fsync = dlsym(RTLD_NEXT, "fsync");
    *(void **)&real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    *(void **)&real_ftruncate64 = dlsym(RTLD_NEXT, "ftruncate64");
    const char *of = getenv("V2G_FAULTS_FOLDER"), *by = getenv("V2G_FAULTS_CONTROL"), *to = getenv("V2G_FAULTS_RECORD");
    if (!of || !by || !to || !realpath(of, folder)) return;
    folder_length = strlen(folder);
    int fd = open(by, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    record_fd = open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (mapped != MAP_FAILED && record_fd >= 0) control = mapped;
}

/* The name within the folder ("." for itself) of what is open as fd; NULL for what is not in it. */
static const char *within(int fd, char *path) {
    if (!control) return NULL;
    char link[32] = "/proc/self/fd/", digits[12];
    size_t n = 0, at = strlen(link);
    int left = fd;
    if (fd < 0) return NULL;
    do digits[n++] = (char)('0' + left % 10); while ((left /= 10) > 0);
    while (n) link[at++] = digits[--n];
    link[at] = 0;
    ssize_t length = readlink(link, path, 4095);
    if (length < (ssize_t)folder_length || memcmp(path, folder, folder_length)) return NULL;
    path[length] = 0;
    if ((size_t)length == folder_length) return ".";
    if (path[folder_length] != '/') return NULL;
    const char *name = path + folder_length + 1;
    /* Folders below (the token) are not the store's. */
    return strchr(name, '/') || strlen(name) >= sizeof(((struct entry *)0)->name) ? NULL : name;
}

/* The same; NULL also for SQLite's shared index, which is rebuilt after every crash. */
static const char *ours(int fd, char *path) {
    const char *name = within(fd, path);
    return name && strstr(name, "-shm") ? NULL : name;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int fails(int what) {
    if (!(control->fail_on & what)) return 0;
    if (control->fail_skip > 0) {
        control->fail_skip--;
        return 0;
    }
    if (control->fail_left == 0) return 0;
    if (control->fail_left > 0) control->fail_left--;
    control->failed++;
    errno = (int)control->fail_errno;
    return 1;
}

static void record(int kind, const char *name, int fd, int64_t offset, int64_t length) {
    if (!control->record) return;
    struct entry entry = {.kind = kind, .offset = offset, .length = length};
    struct stat now;
    strcpy(entry.name, name);
    if (!fstat(fd, &now)) entry.old_size = now.st_size;
    char *old = kind == RECORD_SYNC ? NULL : malloc((size_t)length + 1);
    if (old) {
        /* The store opens some files for writing only. */
        ssize_t got = length ? real_pread64(fd, old, (size_t)length, offset) : 0;
        entry.old_length = got > 0 ? got : 0;
    }
    struct iovec parts[2] = {{&entry, sizeof entry}, {old, (size_t)entry.old_length}};
    pthread_mutex_lock(&record_lock);
    if (writev(record_fd, parts, old ? 2 : 1) < 0) die();
    pthread_mutex_unlock(&record_lock);
    free(old);
}

static ssize_t written(int fd, const void *bytes, size_t length, off64_t offset, int at_offset) {
    char path[4096];
    const char *name = ours(fd, path);
    /* SQLite writes into it only to have room for it. */
    if (!name && control && (control->fail_on & ON_SHARE) && within(fd, path) && fails(ON_SHARE)) return -1;
    if (name) {
        if (fails(ON_WRITE)) return -1;
        if (!at_offset) offset = lseek64(fd, 0, SEEK_CUR);
        record(RECORD_WRITE, name, fd, offset, (int64_t)length);
        __sync_fetch_and_add(&control->bytes_written, (int64_t)length);
        if (__sync_add_and_fetch(&control->writes, 1) == control->kill_at_write) {
            size_t part = length * (size_t)control->kill_permille / 1000;
            if (part) real_pwrite64(fd, bytes, part, offset);
            die();
        }
    }
    return at_offset ? real_pwrite64(fd, bytes, length, offset) : real_write(fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return written(fd, bytes, length, offset, 1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return written(fd, bytes, length, offset, 1); }
ssize_t write(int fd, const void *bytes, size_t length) { return written(fd, bytes, length, 0, 0); }

static int synced(int fd, int (*real)(int)) {
    char path[4096];
    const char *name = ours(fd, path);
    if (!name) return real(fd);
    if (fails(ON_SYNC)) return -1;
    int64_t number = __sync_add_and_fetch(&control->syncs, 1);
    if (control->sync_us) usleep((useconds_t)control->sync_us);
    if (number == control->kill_at_sync && !control->kill_after_sync) die();
    int result = real(fd);
    if (!result) record(RECORD_SYNC, name, fd, 0, 0);
    if (number == control->kill_at_sync) die();
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) {
    char path[4096];
    int reached = control && (control->fail_on & ON_READ) && offset + (off64_t)length > control->fail_from;
    if (reached && ours(fd, path) && fails(ON_READ)) return -1;
    return real_pread64(fd, bytes, length, offset);
}

int ftruncate64(int fd, off64_t length) {
    char path[4096];
    const char *name = ours(fd, path);
    struct stat now;
    if (name) {
        if (fails(ON_WRITE)) return -1;
        if (!fstat(fd, &now) && now.st_size > length) record(RECORD_TRUNCATE, name, fd, length, now.st_size - length);
    }
    return real_ftruncate64(fd, length);
}

/* SoftHSM's call: SQLite and Python use the other one. */
int ftruncate(int fd, off_t length) {
    char link[32], path[4096];
    ssize_t end = -1;
    if (control && !length) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        end = readlink(link, path, sizeof path);
    }
    if (end < 7 || memcmp(path + end - 7, ".object", 7)) return ftruncate64(fd, length);
    int64_t number = __sync_add_and_fetch(&control->cuts, 1);
    if (number == -control->kill_at_cut) die();
    int result = ftruncate64(fd, length);
    if (number == control->kill_at_cut) die();
    return result;
}
