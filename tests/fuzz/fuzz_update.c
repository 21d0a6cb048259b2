/*
 * fuzz_update.c: what the two processes of a live update say to each other. The other one may be broken, or of another version: what it says is
 * refused with a reason, descriptors that it sends are neither lost nor closed twice.
 *
 * The first byte says which part reads the rest: 'c' the channel, packets of which each begins with its length (16 bits) and the number of its
 * descriptors; 'o' an offer, 'm' what a machine consists of beside its state (carry_in()), both JSON.
 */
#include <dirent.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/util.h"
#include "vm/config/config.h"
#include "vm/control/control.h"
#include "vm/update/carry.h"
#include "vm/update/channel.h"
#include "vm/update/update.h"
#include "vm/vm.h"

#define FDS 4u
#define NOWHERE "/nonexistent/fuzz-update"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(ok) must_at(ok, __LINE__)

static void must_at(int ok, int line)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_update: line %d\n", line);
	abort();
}

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	must(d != NULL);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Descriptors of a few kinds, as a message has them. */
static struct fdlist some_fds(void)
{
	struct fdlist l = {0};
	int pair[2];

	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
	fdlist_add(&l, pair[0]);
	fdlist_add(&l, pair[1]);
	fdlist_add(&l, memfd_create("fuzz", MFD_CLOEXEC));
	fdlist_add(&l, eventfd(0, EFD_CLOEXEC));
	return l;
}

static void send_raw(int sock, const void *buf, size_t len, const int *fds, unsigned n)
{
	union {
		char buf[CMSG_SPACE(FDS * sizeof(int))];
		struct cmsghdr align;
	} u = {{0}};
	struct iovec iov = {(void *)(uintptr_t)buf, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n) {
		struct cmsghdr *c;

		m.msg_control = u.buf;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void fuzz_channel(const uint8_t *p, size_t left)
{
	struct fdlist mine = some_fds(), got = {0};
	struct err e = {0};
	int pair[2], rc;

	must(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	for (unsigned n = 0; left >= 3 && n < 16; n++) {
		size_t len = MIN((size_t)get_le16(p), left - 3);

		send_raw(pair[1], p + 3, len, mine.fd, p[2] % (FDS + 1));
		p += 3 + len;
		left -= 3 + len;
	}
	close(pair[1]);
	do {
		json_t *msg = NULL;

		e = (struct err){0};
		rc = channel_receive(pair[0], 0, &msg, &got, &e);
		must(rc ? !msg && e.msg[0] : json_is_object(msg));
		json_decref(msg);
	} while (!rc || rc == -EPROTO);
	fdlist_close(&got);
	fdlist_close(&mine);
	close(pair[0]);
}

/* As the keeper and the old process say it: the page, then the offer. */
static void fuzz_offer(const uint8_t *p, size_t size)
{
	static const char *const fds[] = {"lock", "console_log", "control", "no such"};
	struct fdlist mine = some_fds();
	struct update_taker *t = NULL;
	struct err e = {0};
	int pair[2], page = memfd_create("page", MFD_CLOEXEC), rc;

	must(!ftruncate(page, 4096) &&
		!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	send_raw(pair[1], "+", 1, &page, 1);
	send_raw(pair[1], "{}", 2, NULL, 0);
	send_raw(pair[1], "+", 1, mine.fd, FDS);
	send_raw(pair[1], p, MIN(size, (size_t)CHANNEL_MAX), NULL, 0);
	shutdown(pair[1], SHUT_WR);
	rc = update_take(&t, pair[0], &e);
	must(rc ? e.msg[0] != 0 : json_is_object(update_definition(t)));
	for (unsigned i = 0; !rc && i < ARRAY_SIZE(fds); i++) {
		int fd = update_fd(t, fds[i]);

		if (fd >= 0)
			close(fd);
	}
	if (!rc) {
		const struct vm_handed *h = update_handed(t);

		/* The machine's, once it is built. */
		close(h->ram);
		if (h->vsock > 0)
			close(h->vsock);
		for (unsigned i = 0; i < VM_MAX_NETS; i++)
			if (h->net[i] > 0)
				close(h->net[i]);
	}
	update_taker_free(t);
	fdlist_close(&mine);
	close(page);
	close(pair[1]);
}

/* A socket that listens, at an address that nobody knows. */
static int listening(void)
{
	sa_family_t name = AF_UNIX;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	must(fd >= 0 && !bind(fd, (struct sockaddr *)&name, sizeof(name)) && !listen(fd, 1));
	return fd;
}

static void close_all(uv_handle_t *h, void *arg)
{
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

static void fuzz_machine(const json_t *j)
{
	static uint8_t bytes[256];
	struct vm_config cfg;
	struct log log = {-1, LOG_LVL_ERROR};
	struct control *control = NULL;
	struct fdlist fds = some_fds();
	struct vm *vm = NULL;
	struct err e = {0};
	struct vm_handed handed = {.vsock = listening()};
	uv_loop_t loop;
	struct vm_opts o = {.cfg = &cfg,
		.loop = &loop,
		.log = &log,
		.vsock = NOWHERE,
		.handed = &handed,
		.console_fd = -1,
		.restore = true,
		.asleep = true};
	int blob = memfd_create("blob", MFD_CLOEXEC);

	must(!uv_loop_init(&loop) && !vm_config_init(&cfg, &e));
	cfg.engine = VM_ENGINE_INTERP;
	cfg.memory = 4 * MiB;
	cfg.firmware = strdup("/proc/self/exe") /* opened, and not looked at */;
	must(write(blob, bytes, sizeof(bytes)) == sizeof(bytes));
	must(!control_create(&control, &loop, NOWHERE, listening(), "fuzz", &e) &&
		!vm_create(&vm, &o, &e));
	control_set_vm(control, vm);
	if (carry_in(vm, control, j, blob, &fds, &e))
		must(e.msg[0] != 0);
	uv_run(&loop, UV_RUN_NOWAIT);
	control_set_vm(control, NULL);
	vm_destroy(vm);
	control_close(control);
	/* Connections that still write end when nobody is at the other end. */
	fdlist_close(&fds);
	for (unsigned n = 0; n < 100 && uv_loop_alive(&loop); n++)
		uv_run(&loop, UV_RUN_NOWAIT);
	uv_walk(&loop, close_all, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	must(!uv_loop_close(&loop));
	vm_config_free(&cfg);
	close(blob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uv_loop_t loop;
	unsigned before;
	json_t *j;

	if (!size)
		return 0;
	signal(SIGPIPE, SIG_IGN); /* as lodge-vm */
	/* The first loop of a process makes what all of them share. */
	must(!uv_loop_init(&loop) && !uv_loop_close(&loop));
	before = open_fds();
	switch (data[0]) {
	case 'c':
		fuzz_channel(data + 1, size - 1);
		break;
	case 'o':
		fuzz_offer(data + 1, size - 1);
		break;
	case 'm':
		j = json_loadb((const char *)data + 1, size - 1, 0, NULL);
		if (json_is_object(j))
			fuzz_machine(j);
		json_decref(j);
	}
	must(open_fds() == before);
	return 0;
}
