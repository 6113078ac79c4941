/* A GPIO chip at the kernel's door: preloaded, it answers the line calls on one character device as the kernel does.
 *
 * Compiled against the kernel's own header, so that the layout and the numbers of the calls are the kernel's and not
 * those that the code under test has written out. hil_tests/rig/gpio_chip.py shares `struct chip` with it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINES = 32, MOST_FDS = 1024 };

struct chip {
    int64_t gone;          /* 1: taken off its bus */
    int64_t busy;          /* bit of a line: somebody else has it */
    int64_t levels;        /* bit of a line: high */
    int64_t opened;        /* bit of a line: given to the process */
    int64_t given;         /* lines given so far */
    int64_t read;          /* values read so far */
    int64_t wrong;         /* calls that no kernel takes */
    int64_t bouncing;      /* the line whose contact ... */
    int64_t bounces;       /* ... shows the other level at every second one of so many reads */
    int64_t flags[LINES];  /* as each line was asked for last */
};

static struct chip *chip;
static dev_t device;
static int line_of[MOST_FDS]; /* 1 + the line that a descriptor stands for */

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("V2G_CHIP_CONTROL"), *path = getenv("V2G_CHIP_DEVICE");
    struct stat found;
    if (!name || !path || stat(path, &found)) return;
    int fd = open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0) abort();
    void *page = mmap(NULL, sizeof *chip, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) abort();
    close(fd);
    device = found.st_rdev;
    chip = page;
}

static int refuse(int error) {
    if (error == EINVAL) chip->wrong++;
    errno = error;
    return -1;
}

static int all_zero(const void *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (((const char *)bytes)[i]) return 0;
    return 1;
}

/* linux/drivers/gpio/gpiolib-cdev.c, linereq_create and gpio_v2_line_config_validate, as far as one input needs it. */
static int give(struct gpio_v2_line_request *asked) {
    const uint64_t bias =
        GPIO_V2_LINE_FLAG_BIAS_PULL_UP | GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN | GPIO_V2_LINE_FLAG_BIAS_DISABLED;
    uint64_t flags = asked->config.flags;
    if (asked->num_lines != 1 || asked->offsets[0] >= LINES || asked->config.num_attrs) return refuse(EINVAL);
    if (!all_zero(asked->padding, sizeof asked->padding)) return refuse(EINVAL);
    if (!all_zero(asked->config.padding, sizeof asked->config.padding)) return refuse(EINVAL);
    if (!(flags & GPIO_V2_LINE_FLAG_INPUT) || flags & ~(bias | GPIO_V2_LINE_FLAG_INPUT)) return refuse(EINVAL);
    if ((flags & bias) & ((flags & bias) - 1)) return refuse(EINVAL); /* two of them */
    if (strncmp(asked->consumer, "v2g-gateway", sizeof asked->consumer)) return refuse(EINVAL);
    int64_t bit = (int64_t)1 << asked->offsets[0];
    if ((chip->busy | chip->opened) & bit) return refuse(EBUSY);
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fd >= MOST_FDS) abort();
    line_of[fd] = 1 + (int)asked->offsets[0];
    chip->flags[asked->offsets[0]] = (int64_t)flags;
    chip->opened |= bit;
    chip->given++;
    asked->fd = fd;
    return 0;
}

static int tell(int line, struct gpio_v2_line_values *values) {
    if (values->mask != 1) return refuse(EINVAL);
    values->bits = (uint64_t)(chip->levels >> line & 1);
    if (line == chip->bouncing && chip->bounces) values->bits ^= (uint64_t)(chip->bounces-- & 1);
    chip->read++;
    return 0;
}

int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
    int line = chip && fd >= 0 && fd < MOST_FDS ? line_of[fd] : 0;
    if (line) {
        if (chip->gone) return refuse(ENODEV);
        return request == GPIO_V2_LINE_GET_VALUES_IOCTL ? tell(line - 1, argument) : refuse(EINVAL);
    }
    struct stat found;
    if (chip && !fstat(fd, &found) && S_ISCHR(found.st_mode) && found.st_rdev == device) {
        if (chip->gone) return refuse(ENODEV);
        if (request == GPIO_V2_GET_LINE_IOCTL) return give(argument);
    }
    return real(fd, request, argument);
}

int close(int fd) {
    static int (*real)(int);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "close");
    if (chip && fd >= 0 && fd < MOST_FDS && line_of[fd]) {
        chip->opened &= ~((int64_t)1 << (line_of[fd] - 1));
        line_of[fd] = 0;
    }
    return real(fd);
}
