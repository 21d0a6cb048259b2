/*
 * ring.c: the ring between a hart and the monitor.
 *
 * Either end keeps its own count and believes nothing of the other's: a head that jumped, a slot with another number, length or vCPU are
 * told apart from records, dropped and counted.
 */
#include <string.h>

#include "cpu/rv64/exits/exits.h"

void rv64_post(struct rv64_ring *r, uint64_t *posted, uint16_t vcpu, uint16_t kind,
	const struct rv64_status *st)
{
	struct rv64_record *slot = &r->slot[*posted % RV64_RING];

	slot->seq = *posted;
	slot->length = sizeof(*slot);
	slot->vcpu = vcpu;
	slot->kind = kind;
	slot->st = *st;
	atomic_store_explicit(&r->head, ++*posted, memory_order_release);
}

bool rv64_ring_full(const struct rv64_ring *r, uint64_t posted)
{
	/* One is for the exit itself; a few, for what is taken before the run loop looks. */
	return posted - atomic_load_explicit(&r->tail, memory_order_relaxed) >= RV64_RING - 16;
}

void rv64_agree(struct rv64_reader *q, uint64_t posted)
{
	q->next = posted;
}

static bool drop(struct rv64_reader *q, const char *why)
{
	q->dropped++;
	q->why = why;
	return false;
}

/* A copy: what is checked is what is used. */
static bool copy_out(struct rv64_reader *q, uint64_t n, struct rv64_record *out)
{
	memcpy(out, &q->ring->slot[n % RV64_RING], sizeof(*out));
	if (out->seq != n)
		return drop(q, "sequence number");
	if (out->length != sizeof(*out))
		return drop(q, "length");
	if (out->vcpu != q->vcpu)
		return drop(q, "vCPU");
	if (out->kind != RV64_RECORD_EXIT && out->kind != RV64_RECORD_NOTE)
		return drop(q, "kind");
	return true;
}

static void give_note(struct rv64_reader *q, const struct rv64_status *st,
	void (*each)(void *ctx, const struct cpu_note *n), void *ctx)
{
	struct cpu_exit x;
	struct cpu_note n;

	if (!each)
		return;
	rv64_translate(q->causes, st, &x);
	n = (struct cpu_note){.type = x.type,
		.code = x.code,
		.raw = x.raw,
		.pc = x.pc,
		.gva = x.gva,
		.time_ns = st->reg[1],
		.count = st->reg[0]};
	each(ctx, &n);
}

bool rv64_take(struct rv64_reader *q, struct cpu_exit *x,
	void (*each)(void *ctx, const struct cpu_note *n), void *ctx)
{
	uint64_t head = atomic_load_explicit(&q->ring->head, memory_order_acquire);
	struct rv64_record rec;
	bool found = false;

	if (head == q->next || head - q->next > RV64_RING)
		return drop(q, "head");
	for (; q->next != head; q->next++) {
		found = false;
		if (!copy_out(q, q->next, &rec))
			continue;
		q->taken++;
		if (rec.kind == RV64_RECORD_NOTE)
			give_note(q, &rec.st, each, ctx);
		else
			found = true;
	}
	atomic_store_explicit(&q->ring->tail, q->next, memory_order_release);
	if (found)
		rv64_translate(q->causes, &rec.st, x);
	return found;
}
