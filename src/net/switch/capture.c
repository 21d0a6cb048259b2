#include "net/switch/capture.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"

enum { SECTION = 0x0a0d0d0a, INTERFACE = 1, ENHANCED_PACKET = 6 };
enum { OPT_END, OPT_IF_NAME = 2, OPT_EPB_FLAGS = 2, OPT_IF_TSRESOL = 9 };
#define LINKTYPE_ETHERNET 1
#define NAME_MAX_BYTES 64u

/* Blocks are written whole; a short write would make the rest unreadable, so it ends the capture. */
static void put(struct capture *c, const struct iovec *iov, int n)
{
	size_t len = 0;
	ssize_t done;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	do
		done = writev(c->fd, iov, n);
	while (done < 0 && errno == EINTR);
	if (done != (ssize_t)len) {
		c->failed++;
		capture_stop(c);
	}
}

static size_t pad4(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

int capture_start(struct capture *c, int fd, struct err *e)
{
	uint8_t b[28] = {0};

	capture_stop(c);
	c->fd = fd;
	c->frames = c->failed = 0;
	put_le32(b, SECTION);
	put_le32(b + 4, sizeof(b));
	put_le32(b + 8, 0x1a2b3c4d);
	put_le16(b + 12, 1); /* version 1.0 */
	put_le64(b + 16, UINT64_MAX); /* length of the section: not known */
	put_le32(b + 24, sizeof(b));
	put(c, &(struct iovec){b, sizeof(b)}, 1);
	return c->fd < 0 ? err_set(e, -EIO, "capture: the file cannot be written") : 0;
}

void capture_stop(struct capture *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

void capture_interface(struct capture *c, const char *name)
{
	uint8_t b[16 + 4 + NAME_MAX_BYTES + 8 + 4 + 4] = {0};
	size_t n = MIN(strlen(name), (size_t)NAME_MAX_BYTES), at = 16;

	if (c->fd < 0)
		return;
	put_le32(b, INTERFACE);
	put_le16(b + 8, LINKTYPE_ETHERNET);
	put_le16(b + at, OPT_IF_NAME);
	put_le16(b + at + 2, (uint16_t)n);
	memcpy(b + at + 4, name, n);
	at += 4 + pad4(n);
	put_le16(b + at, OPT_IF_TSRESOL);
	put_le16(b + at + 2, 1);
	b[at + 4] = 9; /* nanoseconds */
	at += 8;
	at += 4; /* OPT_END */
	put_le32(b + 4, (uint32_t)at + 4);
	put_le32(b + at, (uint32_t)at + 4);
	put(c, &(struct iovec){b, at + 4}, 1);
}

void capture_frame(
	struct capture *c, unsigned interface, uint64_t wall_ns, const void *frame, size_t len)
{
	uint8_t head[28], tail[3 + 12 + 4] = {0};
	size_t gap = pad4(len) - len;
	uint32_t total = (uint32_t)(sizeof(head) + len + gap + 16);
	struct iovec iov[3] = {{head, sizeof(head)}, {(void *)frame, len}, {tail, gap + 16}};

	if (c->fd < 0)
		return;
	put_le32(head, ENHANCED_PACKET);
	put_le32(head + 4, total);
	put_le32(head + 8, interface);
	put_le32(head + 12, (uint32_t)(wall_ns >> 32));
	put_le32(head + 16, (uint32_t)wall_ns);
	put_le32(head + 20, (uint32_t)len);
	put_le32(head + 24, (uint32_t)len);
	put_le16(tail + gap, OPT_EPB_FLAGS);
	put_le16(tail + gap + 2, 4);
	put_le32(tail + gap + 4, 1); /* inbound */
	put_le32(tail + gap + 12, total); /* behind OPT_END */
	c->frames++;
	put(c, iov, 3);
}
