/*
 * tap.c: an interface of the host (Documentation/networking/tuntap.rst of Linux). The host's administrator makes it and gives
 * it to a user; Lodge needs no privilege to plug into it. Frames carry the 12-byte virtio header both ways (IFF_VNET_HDR), so that
 * checksums and segments are left to the host's kernel, or are never made between two guests.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <net/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "net/net.h"

#define BATCH 64 /* frames of one turn of the event loop */

struct tap {
	struct net_backend b;
	int fd;
	uv_poll_t poll;
	bool handle;
	bool gone; /* somebody deleted the interface */
	char name[IFNAMSIZ];
	size_t held; /* bytes of a frame in `in` that the front had no room for */
	uint8_t in[NET_HDR + NET_FRAME_MAX];
};

static struct tap *of(struct net_backend *b)
{
	return container_of(b, struct tap, b);
}

static void on_poll(uv_poll_t *h, int status, int events);

static void wait_for(struct tap *t, int events)
{
	if (events && !t->gone)
		uv_poll_start(&t->poll, events, on_poll);
	else
		uv_poll_stop(&t->poll);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
	struct tap *t = h->data;

	if (status < 0) {
		t->gone = true;
		net_link_set(&t->b, false);
		return;
	}
	for (int i = 0; i < BATCH; i++) {
		if (!t->held) {
			ssize_t n = read(t->fd, t->in, sizeof(t->in));

			if (n < (ssize_t)NET_HDR)
				break;
			t->held = (size_t)n;
		}
		if (!net_deliver(&t->b, t->in, t->held)) {
			wait_for(t, 0); /* the kernel's queue is the bounded one */
			return;
		}
		t->held = 0;
	}
	wait_for(t, UV_READABLE);
}

static int tap_send(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len)
{
	ssize_t done;

	do
		done = writev(of(b)->fd, iov, (int)n);
	while (done < 0 && errno == EINTR);
	return done < 0 ? -errno : 0;
}

static void tap_flush(struct net_backend *b)
{
	if (!of(b)->held)
		return;
	/* A tap can always be written: the loop comes back at once, out of the caller's locks. */
	wait_for(of(b), UV_READABLE | UV_WRITABLE);
}

static unsigned tun_flags(unsigned offloads)
{
	return (offloads & NET_OFF_CSUM ? TUN_F_CSUM : 0u) |
	       (offloads & NET_OFF_TSO4 ? TUN_F_TSO4 : 0u) |
	       (offloads & NET_OFF_TSO6 ? TUN_F_TSO6 : 0u) |
	       (offloads & NET_OFF_ECN ? TUN_F_TSO_ECN : 0u);
}

static void tap_accept(struct net_backend *b)
{
	/* The kernel took all of them when the tap was opened. */
	ioctl(of(b)->fd, TUNSETOFFLOAD, (unsigned long)tun_flags(b->accepted));
}

static void tap_describe(struct net_backend *b, json_t *into)
{
	json_object_set_new(into, "tap", json_string(of(b)->name));
}

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

static void tap_close(struct net_backend *b)
{
	struct tap *t = of(b);

	if (t->handle)
		uv_poll_stop(&t->poll);
	if (t->fd >= 0)
		close(t->fd);
	if (t->handle)
		uv_close((uv_handle_t *)&t->poll, on_closed);
	else
		free(t);
}

static int tap_fd(struct net_backend *b)
{
	return of(b)->fd;
}

static const struct net_backend_ops ops = {
	.name = "tap",
	.send = tap_send,
	.flush = tap_flush,
	.accept = tap_accept,
	.describe = tap_describe,
	.close = tap_close,
	.fd = tap_fd,
};

#define MAKE_IT "`ip tuntap add dev %s mode tap user %s && ip link set %s up`, run by root"

static int no_permission(struct tap *t, const char *id, int rc, struct err *e)
{
	const char *user = getenv("USER") ?: "YOU";

	return err_set(e, rc,
		"%s: tap %s belongs to another user: give it to this one with `ip link delete %s; "
		"ip "
		"tuntap add dev %s mode tap user %s`, run by root, or use --net user, which needs "
		"no rights",
		id, t->name, t->name, t->name, user);
}

static int attach(struct tap *t, const char *id, struct err *e)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	const char *user = getenv("USER") ?: "YOU";
	int hdr = NET_HDR, le = 1, rc;

	/* As root the kernel would make an interface that nobody configured. */
	if (!if_nametoindex(t->name))
		return err_set(e, -ENODEV,
			"%s: there is no tap %s on this host: make it with " MAKE_IT, id, t->name,
			t->name, user, t->name);
	t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (t->fd < 0) {
		rc = -errno;
		if (rc == -ENOENT || rc == -ENODEV)
			return err_set(e, rc,
				"%s: /dev/net/tun is not there: load it with `modprobe tun`", id);
		if (rc == -EACCES)
			return err_set(e, rc,
				"%s: tap %s: this user may not open /dev/net/tun: `chmod 0666 "
				"/dev/net/tun`, run by root, or use --net user, which needs no "
				"rights",
				id, t->name);
		return err_sys(e, rc, "%s: /dev/net/tun", id);
	}
	memcpy(ifr.ifr_name, t->name, sizeof(t->name));
	if (ioctl(t->fd, TUNSETIFF, &ifr)) {
		rc = -errno;
		if (rc == -EPERM)
			return no_permission(t, id, rc, e);
		if (rc == -EBUSY)
			return err_set(
				e, rc, "%s: tap %s is in use: another machine has it", id, t->name);
		if (rc == -EINVAL)
			return err_set(e, rc,
				"%s: %s is not a tap, or one with several queues: make one "
				"with " MAKE_IT,
				id, t->name, t->name, user, t->name);
		return err_sys(e, rc, "%s: tap %s", id, t->name);
	}
	if (ioctl(t->fd, TUNSETVNETHDRSZ, &hdr) || ioctl(t->fd, TUNSETVNETLE, &le))
		return err_sys(e, -errno, "%s: tap %s: virtio headers", id, t->name);
	return 0;
}

/* What can this kernel leave to the guest? What it can take from the guest is fixed. */
static void probe(struct tap *t)
{
	static const unsigned sets[] = {
		NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN,
		NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6,
		NET_OFF_CSUM,
	};

	t->b.offers = sets[0];
	for (unsigned i = 0; i < ARRAY_SIZE(sets); i++)
		if (!ioctl(t->fd, TUNSETOFFLOAD, (unsigned long)tun_flags(sets[i]))) {
			t->b.can_accept = sets[i];
			break;
		}
	ioctl(t->fd, TUNSETOFFLOAD, 0ul);
}

int net_tap_open(struct net_backend **out, const struct net_tap_opts *o, struct err *e)
{
	struct tap *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return err_set(e, -ENOMEM, "%s: out of memory", o->id);
	t->b.ops = &ops;
	t->b.link_up = true;
	t->fd = -1;
	if (!*o->name || strlen(o->name) >= sizeof(t->name) || strchr(o->name, '/')) {
		free(t);
		return err_set(e, -EINVAL, "%s: \"%s\" is not the name of a tap", o->id, o->name);
	}
	memcpy(t->name, o->name, strlen(o->name));
	if (o->fd > 0)
		t->fd = o->fd;
	rc = o->fd > 0 ? 0 : attach(t, o->id, e);
	if (!rc) {
		if (o->fd > 0) {
			t->b.offers = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN;
			t->b.can_accept = o->can_accept;
		} else {
			probe(t);
		}
		rc = uv_poll_init(o->loop, &t->poll, t->fd);
		if (rc)
			err_set(e, rc, "%s: %s", o->id, uv_strerror(rc));
	}
	if (rc) {
		if (o->fd > 0)
			t->fd = -1; /* stays the caller's */
		tap_close(&t->b);
		return rc;
	}
	t->handle = true;
	t->poll.data = t;
	uv_unref((uv_handle_t *)&t->poll);
	wait_for(t, UV_READABLE);
	*out = &t->b;
	return 0;
}
