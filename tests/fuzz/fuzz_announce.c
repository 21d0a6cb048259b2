/*
 * fuzz_announce.c: frames of whoever is on the network, and of the guest, into the announcer: what is understood is consistent, what is asked can be
 * read again, and what is kept stays within its bounds.
 *
 * Each frame of the input: a byte (bit 0: from the guest), a byte of length, the frame.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "net/announce/announce.h"
#include "net/announce/neighbour.h"
#include "net/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
	if (!ok)
		abort();
}

/* The network behind the announcer: every frame that it makes itself must be one. */
struct wire {
	struct net_backend b;
	bool asking;
	unsigned asked;
};

static int wire_send(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len)
{
	struct wire *w = container_of(b, struct wire, b);
	uint8_t flat[NET_HDR + 256];
	struct neighbour got;
	size_t at = 0;

	if (!w->asking)
		return 0;
	must(len <= sizeof(flat));
	for (unsigned i = 0; i < n; at += iov[i++].iov_len)
		memcpy(flat + at, iov[i].iov_base, iov[i].iov_len);
	must(len >= NET_HDR + 60 && neighbour_parse(flat + NET_HDR, len - NET_HDR, &got));
	must(got.kind == NEIGHBOUR_ARP_REQUEST || got.kind == NEIGHBOUR_NS ||
		got.kind == NEIGHBOUR_RARP);
	must(got.kind == NEIGHBOUR_RARP ? got.number != 0
					: got.from.len == got.to.len && got.from.len);
	w->asked++;
	return 0;
}

static void wire_close(struct net_backend *b)
{
}

static const struct net_backend_ops wire_ops = {
	.name = "wire", .send = wire_send, .close = wire_close};

static bool to_guest(void *ctx, const uint8_t *frame, size_t len)
{
	return true;
}

/* Exactly as long as it is, so that a sanitizer sees what is read behind it. */
static void one_frame(
	struct net_backend *a, struct wire *w, bool from_guest, const uint8_t *p, size_t len)
{
	uint8_t *frame = calloc(1, NET_HDR + len);
	struct iovec iov = {frame, NET_HDR + len};
	struct neighbour n;

	must(frame != NULL);
	memcpy(frame + NET_HDR, p, len);
	if (neighbour_parse(frame + NET_HDR, len, &n)) {
		must(n.vlan <= 0xfff && n.vlan == neighbour_vlan(frame + NET_HDR, len));
		must(n.from.len == 0 || n.from.len == 4 || n.from.len == 16);
		must(n.to.len == 0 || n.to.len == 4 || n.to.len == 16);
	}
	if (from_guest)
		net_send(a, &iov, 1);
	else
		net_deliver(&w->b, frame, NET_HDR + len);
	free(frame);
}

static void bounded(struct net_backend *a)
{
	json_t *j = announce_addresses(a);
	struct err e = {0};

	must(json_array_size(json_object_get(j, "addresses")) <= ANNOUNCE_ADDRESSES);
	must(json_array_size(json_object_get(j, "peers")) <= ANNOUNCE_PEERS);
	/* What one host says another one understands. */
	must(!announce_go_on(a, j, &e));
	json_decref(j);
}

static void close_all(uv_handle_t *h, void *arg)
{
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire w = {.b = {.ops = &wire_ops, .link_up = true}};
	struct net_front front = {.receive = to_guest};
	struct net_backend *a = NULL;
	struct err e = {0};
	uv_loop_t loop;
	struct announce_opts o = {.id = "fuzz", .loop = &loop, .tries = 2, .step_ms = 1};

	must(!uv_loop_init(&loop) && !net_announcer_open(&a, &w.b, &o, &e));
	net_attach(a, &front);
	while (size >= 2) {
		size_t len = MIN((size_t)data[1], size - 2);

		one_frame(a, &w, data[0] & 1, data + 2, len);
		data += 2 + len;
		size -= 2 + len;
	}
	bounded(a);
	w.asking = true;
	must(!announce_start(a, NULL, &e));
	must(w.asked <= ANNOUNCE_ADDRESSES);
	w.asking = false;
	net_attach(a, NULL);
	net_close(a);
	uv_walk(&loop, close_all, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	must(!uv_loop_close(&loop));
	return 0;
}
