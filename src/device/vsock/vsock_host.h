/*
 * vsock_host.h: the host's end of virtio-vsock: streams on Unix sockets.
 *
 *   host program --connect--> PATH, "CONNECT 1024\n" --> ops.asked --> vsock_stream_accepted(): "OK <port>\n", then bytes
 *   guest connects to (CID 2, port 5000) --> vsock_stream_open() --> whoever listens on PATH_5000
 *
 * The same convention as other VMMs with a user-space vsock, so that their clients work. PATH is made with mode 0600 and
 * removed at the end.
 *
 * A stream has a bounded ring of bytes that go to the program (vsock_stream_write() never blocks, what does not fit is refused); bytes from it
 * are read only when asked for (vsock_stream_read()), so that the kernel's socket buffer is the only other queue.
 *
 * Threads: the event loop thread. Callbacks are made from the loop, never from inside a call here. Ownership: a stream belongs to the one
 * who was given it until vsock_stream_close().
 */
#ifndef LODGE_DEVICE_VSOCK_HOST_H
#define LODGE_DEVICE_VSOCK_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct uv_loop_s;
struct vsock_host;
struct vsock_stream;

#define VSOCK_RING (256u << 10) /* bytes on their way to a program; the credit that a guest gets */
#define VSOCK_HOST_STREAMS 512u /* that programs of the host may have open at once */

struct vsock_host_ops {
	/* A program wants a connection to `port`. The stream is the callee's now. */
	void (*asked)(void *ctx, struct vsock_stream *s, uint32_t port);
	/* There is something to read, or the end, after vsock_stream_want(s, true). */
	void (*readable)(void *ctx, struct vsock_stream *s);
	/* `n` bytes of vsock_stream_write() have left the ring; ok false: the program is gone, nothing more can be written. */
	void (*drained)(void *ctx, struct vsock_stream *s, size_t n, bool ok);
	void *ctx;
};

/* Errors: -EINVAL (path too long), -EADDRINUSE and others of bind(2). */
int vsock_host_open(struct vsock_host **out, const char *path, struct uv_loop_s *loop,
	const struct vsock_host_ops *ops, struct err *e);
/* Streams that were handed over must be closed by then. */
void vsock_host_close(struct vsock_host *h);

/* To PATH_<port>. NULL with errno: nobody listens there (ENOENT, ECONNREFUSED, EAGAIN), or out of memory. */
struct vsock_stream *vsock_stream_open(struct vsock_host *h, uint32_t port, void *owner);
void vsock_stream_close(struct vsock_stream *s);

void vsock_stream_owner_set(struct vsock_stream *s, void *owner);
void *vsock_stream_owner(const struct vsock_stream *s);

/* Answers the program that asked: its connection is open, from `port` of the host. */
void vsock_stream_accepted(struct vsock_stream *s, uint32_t port);
/* Bytes read, 0 at the end, -EAGAIN, or another negative errno. */
ssize_t vsock_stream_read(struct vsock_stream *s, void *buf, size_t len);
/* Have ops.readable called, or not. */
void vsock_stream_want(struct vsock_stream *s, bool readable);
/* All or nothing: false when it does not fit into the ring. */
bool vsock_stream_write(struct vsock_stream *s, const void *buf, size_t len);
/* Nothing more will be written: the program sees the end after what is in the ring. */
void vsock_stream_end(struct vsock_stream *s);
size_t vsock_stream_queued(const struct vsock_stream *s);

/*
 * The streams go on in another process (live update): as an object with places in a list of descriptors (base/fdlist.h). The process that has handed
 * over only closes from then on; PATH stays. What comes in is checked. NULL: out of memory, or not such an object.
 */
struct json_t;
struct fdlist;
struct json_t *vsock_host_hand_over(struct vsock_host *h, struct fdlist *fds);
struct json_t *vsock_stream_hand_over(struct vsock_stream *s, struct fdlist *fds);
void vsock_host_forget(struct vsock_host *h);
int vsock_host_fd(const struct vsock_host *h); /* that listens */
/* `fd` listens at `path` already; owned on success. The streams that are still asking follow by vsock_host_take_over(). */
int vsock_host_adopt(struct vsock_host **out, int fd, const char *path, struct uv_loop_s *loop,
	const struct vsock_host_ops *ops, struct err *e);
int vsock_host_take_over(
	struct vsock_host *h, const struct json_t *j, struct fdlist *fds, struct err *e);
struct vsock_stream *vsock_stream_take_over(
	struct vsock_host *h, const struct json_t *j, struct fdlist *fds, void *owner);

#endif
