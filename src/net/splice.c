#include "net/splice.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <uv.h>

#include "base/err.h"
#include "net/net.h"

struct splice {
	struct net_backend *inner, *cable;
	uv_async_t end; /* also what keeps the loop alive */
};

static bool pass(struct net_backend *to, const uint8_t *frame, size_t len)
{
	struct iovec iov = {(void *)(uintptr_t)frame, len};

	net_send(to, &iov, 1);
	return true;
}

static bool from_inner(void *ctx, const uint8_t *frame, size_t len)
{
	return pass(((struct splice *)ctx)->cable, frame, len);
}

static bool from_cable(void *ctx, const uint8_t *frame, size_t len)
{
	return pass(((struct splice *)ctx)->inner, frame, len);
}

static void on_link(void *ctx, bool up)
{
	struct splice *s = ctx;

	if (!up)
		uv_async_send(&s->end); /* not from inside the back end */
}

static void closed(uv_handle_t *h)
{
	free(h->data);
}

static void on_end(uv_async_t *a)
{
	struct splice *s = a->data;

	net_close(s->cable);
	net_close(s->inner);
	uv_close((uv_handle_t *)a, closed);
}

int net_splice(
	struct net_backend *inner, struct net_backend *cable, struct uv_loop_s *loop, struct err *e)
{
	struct splice *s = calloc(1, sizeof(*s));

	if (!s || uv_async_init(loop, &s->end, on_end)) {
		free(s);
		return err_set(e, -ENOMEM, "network: out of memory");
	}
	s->end.data = s;
	s->inner = inner;
	s->cable = cable;
	/* Checksums may stay open as far as the other side can take them. */
	net_accept(inner, cable->offers);
	net_accept(cable, inner->offers);
	net_attach(inner, &(struct net_front){from_inner, NULL, s});
	net_attach(cable, &(struct net_front){from_cable, on_link, s});
	return 0;
}
