#include "agent/proto.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void agent_begin(struct agent_out *o, enum agent_type t)
{
	memset(o->buf, 0, AGENT_HEAD);
	o->buf[4] = (uint8_t)t;
	o->len = AGENT_HEAD;
	o->bad = false;
}

void agent_put_rest(struct agent_out *o, const void *p, size_t len)
{
	if (len > sizeof(o->buf) - o->len) {
		o->bad = true;
		return;
	}
	if (len)
		memcpy(o->buf + o->len, p, len);
	o->len += len;
}

void agent_put_u32(struct agent_out *o, uint32_t v)
{
	uint8_t b[4];

	put_le32(b, v);
	agent_put_rest(o, b, sizeof(b));
}

void agent_put_u64(struct agent_out *o, uint64_t v)
{
	uint8_t b[8];

	put_le64(b, v);
	agent_put_rest(o, b, sizeof(b));
}

void agent_put_bytes(struct agent_out *o, const void *p, size_t len)
{
	if (len > AGENT_FRAME_MAX) {
		o->bad = true;
		return;
	}
	agent_put_u32(o, (uint32_t)len);
	agent_put_rest(o, p, len);
}

void agent_put_text(struct agent_out *o, const char *text)
{
	agent_put_bytes(o, text, strlen(text));
}

bool agent_finish(struct agent_out *o)
{
	put_le32(o->buf, (uint32_t)(o->len - AGENT_HEAD));
	return !o->bad;
}

static void drop(struct agent_in *in)
{
	memmove(in->buf, in->buf + in->frame, in->len - in->frame);
	in->len -= in->frame;
	in->frame = 0;
}

void *agent_room(struct agent_in *in, size_t *room)
{
	*room = sizeof(in->buf) - 1 - in->len;
	return in->buf + in->len;
}

void agent_got(struct agent_in *in, size_t n)
{
	in->len += n;
}

int agent_next(struct agent_in *in)
{
	uint32_t len;

	drop(in);
	in->bad = false;
	in->left = 0;
	if (in->len < AGENT_HEAD)
		return 0;
	len = get_le32(in->buf);
	if (len > AGENT_FRAME_MAX || in->buf[5] || in->buf[6] || in->buf[7])
		return -1;
	if (in->len < AGENT_HEAD + len)
		return 0;
	in->type = (enum agent_type)in->buf[4];
	in->payload = in->buf + AGENT_HEAD;
	in->left = len;
	in->frame = AGENT_HEAD + len;
	return 1;
}

static const uint8_t *take(struct agent_in *in, size_t n)
{
	const uint8_t *p = in->payload;

	if (in->bad || n > in->left) {
		in->bad = true;
		return NULL;
	}
	in->payload += n;
	in->left -= n;
	return p;
}

uint32_t agent_get_u32(struct agent_in *in)
{
	const uint8_t *p = take(in, 4);

	return p ? get_le32(p) : 0;
}

uint64_t agent_get_u64(struct agent_in *in)
{
	const uint8_t *p = take(in, 8);

	return p ? get_le64(p) : 0;
}

const uint8_t *agent_get_bytes(struct agent_in *in, size_t *len)
{
	size_t n = agent_get_u32(in);
	const uint8_t *p = take(in, n);

	*len = p ? n : 0;
	return p;
}

char *agent_get_text(struct agent_in *in)
{
	size_t len;
	const uint8_t *p = agent_get_bytes(in, &len);

	if (p && memchr(p, 0, len))
		in->bad = true;
	if (!p || in->bad)
		return strdup("");
	return strndup((const char *)p, len);
}

bool agent_complete(const struct agent_in *in)
{
	return !in->bad && !in->left;
}
