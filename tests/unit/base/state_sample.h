/*
 * state_sample.h: one object with every type of field, as version 1 and version 2 of a program
 * describe it. Used by the unit test and the fuzzer of the state stream.
 */
#ifndef LODGE_TESTS_STATE_SAMPLE_H
#define LODGE_TESTS_STATE_SAMPLE_H

#include <errno.h>

#include "base/err.h"
#include "base/state.h"

enum sample_mode { SAMPLE_OFF, SAMPLE_ON, SAMPLE_MODES };

struct sample_queue {
	uint64_t desc;
	uint16_t size;
	bool ready;
	uint32_t burst; /* since 2, 32 when absent */
	uint32_t mask; /* derived from size by post_load */
};

struct sample_req {
	uint64_t sector;
	uint8_t *data;
	uint32_t data_len;
};

struct sample {
	void *not_described;
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	int32_t i32;
	int64_t i64;
	bool b;
	enum sample_mode mode;
	uint8_t bytes[5];
	char text[8];
	uint16_t u16s[3];
	uint32_t u32s[2][2];
	uint64_t u64s[3];
	bool bools[2];
	struct sample_queue one;
	struct sample_queue queues[2];
	struct sample_req *reqs;
	uint32_t nreqs;
	uint8_t *blob;
	uint32_t blob_len;
	uint32_t speed; /* since 2, 7 when absent */
	int32_t bias; /* since 2, -3 when absent */
	uint64_t hint; /* optional, 9 when absent */
	unsigned pre_saves; /* how often pre_save ran */
	unsigned loads; /* how often post_load ran */
	unsigned loaded_version;
};

static inline int sample_queue_post_load(void *obj, unsigned version, struct err *e)
{
	struct sample_queue *q = obj;

	q->mask = q->size - 1u;
	return 0;
}

static inline int sample_queue_check(const void *staged, unsigned version, struct err *e)
{
	const struct sample_queue *q = staged;

	if (!q->size || (q->size & (q->size - 1)))
		return err_set(e, -EINVAL, "size %u is not a power of two", q->size);
	return 0;
}

static inline void sample_pre_save(void *obj)
{
	((struct sample *)obj)->pre_saves++;
}

static inline int sample_post_load(void *obj, unsigned version, struct err *e)
{
	struct sample *s = obj;

	s->loads++;
	s->loaded_version = version;
	if (s->u8 == 0xee)
		return err_set(e, -EINVAL, "u8 is 0xee");
	return 0;
}

static inline int sample_check(const void *staged, unsigned version, struct err *e)
{
	const struct sample *s = staged;

	return (unsigned)s->mode < SAMPLE_MODES ? 0 : -EINVAL; /* no text of its own, on purpose */
}

static const struct state_field sample_queue_fields[] = {
	STATE_U64(struct sample_queue, desc, 1),
	STATE_U16(struct sample_queue, size, 1),
	STATE_BOOL(struct sample_queue, ready, 1),
	STATE_U32_SINCE(struct sample_queue, burst, 2, 32),
	STATE_END,
};
static const struct state_desc sample_queue_state = {"sample-queue", 2, sample_queue_fields,
	.post_load = sample_queue_post_load, .check = sample_queue_check};

static const struct state_field sample_req_fields[] = {
	STATE_U64(struct sample_req, sector, 1),
	STATE_BLOB(struct sample_req, data, data_len, 16, 1),
	STATE_END,
};
static const struct state_desc sample_req_state = {"sample-req", 1, sample_req_fields};

#define SAMPLE_COMMON(QUEUE) \
	STATE_U8(struct sample, u8, 1), STATE_U16(struct sample, u16, 1), \
		STATE_U32(struct sample, u32, 1), STATE_U64(struct sample, u64, 1), \
		STATE_I32(struct sample, i32, 1), STATE_I64(struct sample, i64, 1), \
		STATE_BOOL(struct sample, b, 1), STATE_ENUM(struct sample, mode, 1), \
		STATE_BYTES(struct sample, bytes, 1), STATE_TEXT(struct sample, text, 1), \
		STATE_U16S(struct sample, u16s, 1), STATE_U32S(struct sample, u32s, 1), \
		STATE_U64S(struct sample, u64s, 1), STATE_BOOLS(struct sample, bools, 1), \
		STATE_STRUCT(struct sample, one, QUEUE, struct sample_queue, 1), \
		STATE_ARRAY(struct sample, queues, QUEUE, struct sample_queue, 1), \
		STATE_VEC(struct sample, reqs, nreqs, 4, &sample_req_state, struct sample_req, 1), \
		STATE_BLOB(struct sample, blob, blob_len, 64, 1)

static const struct state_field sample_fields[] = {
	SAMPLE_COMMON(&sample_queue_state),
	STATE_U32_SINCE(struct sample, speed, 2, 7),
	STATE_I32_SINCE(struct sample, bias, 2, -3),
	STATE_U64_OPT(struct sample, hint, 9),
	STATE_GONE("turbo", 2),
	STATE_END,
};
static const struct state_desc sample_state = {"sample", 2, sample_fields,
	.pre_save = sample_pre_save, .post_load = sample_post_load, .check = sample_check};

/* The same object as the older program knew it. */
static const struct state_field sample_queue_fields_v1[] = {
	STATE_U64(struct sample_queue, desc, 1),
	STATE_U16(struct sample_queue, size, 1),
	STATE_BOOL(struct sample_queue, ready, 1),
	STATE_END,
};
static const struct state_desc sample_queue_v1 = {"sample-queue", 1, sample_queue_fields_v1};

static const struct state_field sample_fields_v1[] = {
	SAMPLE_COMMON(&sample_queue_v1),
	{.name = "turbo",
		.type = STATE_T_U32,
		.offset = offsetof(struct sample, speed),
		.size = 4,
		.count = 1,
		.since = 1},
	STATE_END,
};
static const struct state_desc sample_v1 = {
	"sample", 1, sample_fields_v1, .post_load = sample_post_load};

#endif
