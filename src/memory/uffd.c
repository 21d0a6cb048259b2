#include "memory/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/addr.h"

struct uffd {
	int fd, stop;
	bool serving;
	pthread_t thread;
	void (*fault)(void *ctx, const struct uffd_fault *f);
	void *ctx;
};

static const struct {
	unsigned mode;
	uint64_t feature, reg;
	const char *name;
} kinds[] = {
	{UFFD_MISSING, UFFD_FEATURE_MISSING_SHMEM, UFFDIO_REGISTER_MODE_MISSING, "missing pages"},
	{UFFD_WP, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
		UFFDIO_REGISTER_MODE_WP, "write protection"},
	{UFFD_MINOR, UFFD_FEATURE_MINOR_SHMEM, UFFDIO_REGISTER_MODE_MINOR, "minor faults"},
};

#define TAKE_MAX 16u /* faults that are read at once */
#define UFFD_NEW _IO(0xAA, 0x00) /* USERFAULTFD_IOC_NEW, of /dev/userfaultfd (Linux 6.1) */

/* The system call asks for a privilege where faults of the kernel are to be served; the device for access to it. */
static int raw_open(bool user)
{
	int fd = (int)syscall(
		SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | (user ? UFFD_USER_MODE_ONLY : 0));
	int dev;

	if (fd >= 0 || (errno != EPERM && errno != ENOSYS))
		return fd < 0 ? -errno : fd;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -EPERM;
	fd = ioctl(dev, UFFD_NEW, O_CLOEXEC | O_NONBLOCK);
	fd = fd < 0 ? -errno : fd;
	close(dev);
	return fd;
}

/* Each descriptor takes its features once; asking for ones that are not there spoils it. So what is there is asked of one of its own. */
static int features(bool user, uint64_t *out)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = raw_open(user);

	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api)) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	close(fd);
	*out = api.features;
	return 0;
}

unsigned uffd_modes(void)
{
	uint64_t have = 0;
	unsigned modes = 0;

	if (features(false, &have))
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if ((have & kinds[i].feature) == kinds[i].feature)
			modes |= kinds[i].mode;
	return modes;
}

int uffd_open(struct uffd **out, unsigned modes, struct err *e)
{
	struct uffdio_api api = {.api = UFFD_API};
	uint64_t have = 0;
	bool user = modes & UFFD_USER;
	struct uffd *u;
	int rc = features(user, &have);

	if (rc == -EPERM)
		return err_set(e, rc,
			"userfaultfd: not permitted: set vm.unprivileged_userfaultfd to 1, or give "
			"access "
			"to /dev/userfaultfd");
	if (rc)
		return err_sys(e, rc, "userfaultfd");
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!(modes & kinds[i].mode))
			continue;
		if ((have & kinds[i].feature) != kinds[i].feature)
			return err_set(e, -ENOTSUP,
				"userfaultfd: this kernel has no %s for shared memory (Linux 5.19 "
				"has "
				"all)",
				kinds[i].name);
		api.features |= kinds[i].feature;
	}
	u = calloc(1, sizeof(*u));
	if (!u)
		return err_set(e, -ENOMEM, "userfaultfd: out of memory");
	u->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->fd = raw_open(user);
	if (u->fd < 0 || u->stop < 0 || ioctl(u->fd, UFFDIO_API, &api)) {
		rc = u->fd < 0 ? u->fd : -errno;
		uffd_close(u);
		return err_sys(e, rc, "userfaultfd");
	}
	*out = u;
	return 0;
}

void uffd_close(struct uffd *u)
{
	uint64_t one = 1;

	if (!u)
		return;
	if (u->serving) {
		if (write(u->stop, &one, sizeof(one)) < 0)
			abort(); /* broken invariant */
		pthread_join(u->thread, NULL);
	}
	if (u->fd >= 0)
		close(u->fd);
	if (u->stop >= 0)
		close(u->stop);
	free(u);
}

static struct uffd_fault fault_of(const struct uffd_msg *m)
{
	uint64_t fl = m->arg.pagefault.flags;

	return (struct uffd_fault){
		.page = (uintptr_t)align_down(m->arg.pagefault.address, PAGE_SIZE),
		.kind = fl & UFFD_PAGEFAULT_FLAG_WP	 ? UFFD_WP
			: fl & UFFD_PAGEFAULT_FLAG_MINOR ? UFFD_MINOR
							 : UFFD_MISSING,
		.write = fl & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP),
	};
}

int uffd_fd(const struct uffd *u)
{
	return u->fd;
}

unsigned uffd_take(struct uffd *u, struct uffd_fault *f, unsigned max)
{
	struct uffd_msg m[TAKE_MAX];
	ssize_t n = read(u->fd, m, MIN(max, TAKE_MAX) * sizeof(m[0]));
	unsigned k = 0;

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(m[0]); i++)
		if (m[i].event == UFFD_EVENT_PAGEFAULT)
			f[k++] = fault_of(&m[i]);
	return k;
}

static void *serve(void *ctx)
{
	struct uffd *u = ctx;
	struct uffd_fault f[TAKE_MAX];

	for (;;) {
		struct pollfd p[2] = {{u->fd, POLLIN, 0}, {u->stop, POLLIN, 0}};
		unsigned n;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].revents)
			return NULL;
		n = uffd_take(u, f, TAKE_MAX);
		for (unsigned i = 0; i < n; i++)
			u->fault(u->ctx, &f[i]);
	}
}

int uffd_serve(struct uffd *u, void (*fault)(void *ctx, const struct uffd_fault *f), void *ctx,
	struct err *e)
{
	int rc;

	u->fault = fault;
	u->ctx = ctx;
	rc = pthread_create(&u->thread, NULL, serve, u);
	if (rc)
		return err_sys(e, -rc, "userfaultfd: thread");
	pthread_setname_np(u->thread, "uffd");
	u->serving = true;
	return 0;
}

int uffd_register(struct uffd *u, void *p, size_t len, unsigned modes, struct err *e)
{
	struct uffdio_register r = {.range = {(uintptr_t)p, len}};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (modes & kinds[i].mode)
			r.mode |= kinds[i].reg;
	return ioctl(u->fd, UFFDIO_REGISTER, &r) ? err_sys(e, -errno, "userfaultfd: register") : 0;
}

void uffd_unregister(struct uffd *u, void *p, size_t len)
{
	struct uffdio_range r = {(uintptr_t)p, len};

	ioctl(u->fd, UFFDIO_UNREGISTER, &r);
	/* Linux lets go by itself only who waits in ranges that were registered for missing pages. */
	ioctl(u->fd, UFFDIO_WAKE, &r);
}

int uffd_protect(struct uffd *u, void *p, size_t len, bool on)
{
	struct uffdio_writeprotect w = {
		.range = {(uintptr_t)p, len}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};

	/* EAGAIN: the map is changing (a fork, an unmap); it will have changed. */
	while (ioctl(u->fd, UFFDIO_WRITEPROTECT, &w))
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	return 0;
}

int uffd_fill(struct uffd *u, void *page, const void *from)
{
	struct uffdio_copy c = {.dst = (uintptr_t)page, .src = (uintptr_t)from, .len = PAGE_SIZE};
	struct uffdio_zeropage z = {.range = {(uintptr_t)page, PAGE_SIZE}};

	if (from ? ioctl(u->fd, UFFDIO_COPY, &c) : ioctl(u->fd, UFFDIO_ZEROPAGE, &z))
		return -errno;
	return 0;
}

int64_t uffd_fill_some(struct uffd *u, void *to, const void *from, size_t len, bool protect)
{
	struct uffdio_copy c = {.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = len,
		.mode = protect ? UFFDIO_COPY_MODE_WP : 0};
	struct uffdio_zeropage z = {.range = {(uintptr_t)to, len}};
	int rc = from ? ioctl(u->fd, UFFDIO_COPY, &c) : ioctl(u->fd, UFFDIO_ZEROPAGE, &z);
	int64_t done = from ? c.copy : z.zeropage;

	return !rc ? (int64_t)len : done > 0 ? done : -errno;
}

int uffd_fill_missing(struct uffd *u, void *to, const void *from, size_t len, bool protect)
{
	for (size_t done = 0; done < len;) {
		char *at = (char *)to + done;
		int64_t n = uffd_fill_some(
			u, at, from ? (const char *)from + done : NULL, len - done, protect);

		if (n == -EEXIST) {
			ioctl(u->fd, UFFDIO_WAKE, &(struct uffdio_range){(uintptr_t)at, PAGE_SIZE});
			n = PAGE_SIZE;
		}
		if (n < 0 && n != -EAGAIN && n != -EINTR)
			return (int)n;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int uffd_continue(struct uffd *u, void *page)
{
	struct uffdio_continue c = {.range = {(uintptr_t)page, PAGE_SIZE}};

	return ioctl(u->fd, UFFDIO_CONTINUE, &c) ? -errno : 0;
}
