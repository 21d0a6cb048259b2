/*
 * gate.c: see gate.h. A limit is one point in time, up to which what has passed is paid for: a request passes when that point is not
 * in the future, and moves it on by its price; after a pause the point lies behind by the burst at most.
 */
#include "disk/gate.h"

#include <errno.h>
#include <stdlib.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"

#define SECOND 1000000000ull

struct limit {
	uint64_t rate, burst; /* per second; units that may pass at once */
	uint64_t paid; /* ns */
};

/* Lives until libuv has closed its handle. */
struct alarm {
	uv_timer_t timer;
	struct disk_gate *g;
};

struct disk_gate {
	struct disk *d;
	struct limit ops, bytes;
	struct disk_req *first, **last; /* wait */
	struct disk_req *held;
	unsigned nheld;
	struct alarm *alarm;
	uint64_t delayed, delayed_ns, ignored;
};

static uint64_t price(const struct limit *l, uint64_t units)
{
	return l->rate ? (uint64_t)((unsigned __int128)units * SECOND / l->rate) : 0;
}

/* ns until something may pass. */
static uint64_t wait_ns(const struct limit *l, uint64_t now)
{
	return l->rate && l->paid > now ? l->paid - now : 0;
}

static void pay(struct limit *l, uint64_t units, uint64_t now)
{
	uint64_t back = price(l, l->burst);

	if (!l->rate)
		return;
	l->paid = MAX(l->paid, now > back ? now - back : 0) + price(l, units);
}

static uint64_t must_wait(const struct disk_gate *g, uint64_t now)
{
	return MAX(wait_ns(&g->ops, now), wait_ns(&g->bytes, now));
}

static void pass(struct disk_gate *g, const struct disk_req *r, uint64_t now)
{
	pay(&g->ops, 1, now);
	/* A discard moves none. */
	pay(&g->bytes, r->op == DISK_DISCARD ? 0 : r->len, now);
}

static struct disk_req *pop(struct disk_gate *g)
{
	struct disk_req *r = g->first;

	g->first = r->next;
	if (!g->first)
		g->last = &g->first;
	g->delayed_ns += clock_mono_ns() - r->start_ns;
	return r;
}

static void on_timer(uv_timer_t *t);

static void set_timer(struct disk_gate *g, uint64_t ns)
{
	uv_timer_start(&g->alarm->timer, on_timer, ns / 1000000 + 1, 0);
}

static void on_timer(uv_timer_t *t)
{
	struct disk_gate *g = container_of(t, struct alarm, timer)->g;

	while (g->first) {
		uint64_t now = clock_mono_ns(), ns = must_wait(g, now);
		struct disk_req *r;

		if (ns) {
			set_timer(g, ns);
			return;
		}
		r = pop(g);
		pass(g, r, now);
		disk_pass(r);
	}
}

bool gate_enter(struct disk_gate *g, struct disk_req *r)
{
	uint64_t now, ns;

	if (r->op == DISK_FLUSH || (!g->ops.rate && !g->bytes.rate))
		return true;
	now = clock_mono_ns();
	ns = must_wait(g, now);
	if (!g->first && !ns) {
		pass(g, r, now);
		return true;
	}
	r->next = NULL;
	*g->last = r;
	g->last = &r->next;
	g->delayed++;
	if (g->first == r)
		set_timer(g, ns);
	return false;
}

void gate_open(struct disk_gate *g)
{
	uint64_t now = clock_mono_ns();

	uv_timer_stop(&g->alarm->timer);
	while (g->first) {
		struct disk_req *r = pop(g);

		pass(g, r, now); /* it is paid for afterwards */
		disk_pass(r);
	}
}

bool gate_failed(struct disk_gate *g, struct disk_req *r)
{
	const struct disk_client *c = &g->d->o.client;

	if (r->result == -EINVAL || r->result == -ERANGE || r->result == -EROFS)
		return false;
	if (g->d->o.on_error == DISK_ERROR_IGNORE && !r->waited) {
		g->ignored++;
		if (r->op == DISK_READ)
			iov_zero(r->iov, r->niov, 0, r->len);
		r->result = 0;
		return false;
	}
	if (g->d->o.on_error != DISK_ERROR_PAUSE || !c->failed || r->waited)
		return false;
	r->next = g->held;
	g->held = r;
	g->nheld++;
	c->failed(c->ctx, r);
	return true;
}

unsigned gate_held(const struct disk_gate *g)
{
	return g ? g->nheld : 0;
}

struct disk_req *gate_take_held(struct disk_gate *g)
{
	struct disk_req *r = g->held;

	g->held = NULL;
	g->nheld = 0;
	return r;
}

void gate_stats(const struct disk_gate *g, struct disk_stats *s)
{
	s->delayed = g->delayed;
	s->delayed_ns = g->delayed_ns;
	s->ignored = g->ignored;
	s->held = g->nheld;
}

static void alarm_closed(uv_handle_t *h)
{
	free(container_of((uv_timer_t *)h, struct alarm, timer));
}

void gate_destroy(struct disk_gate *g)
{
	if (!g)
		return;
	uv_close((uv_handle_t *)&g->alarm->timer, alarm_closed);
	free(g);
}

int gate_create(struct disk_gate **out, struct disk *d, struct err *e)
{
	const struct disk_limits *l = &d->o.limits;
	struct disk_gate *g;

	*out = NULL;
	if (!l->ops && !l->bytes && d->o.on_error == DISK_ERROR_REPORT)
		return 0;
	g = calloc(1, sizeof(*g));
	if (g)
		g->alarm = calloc(1, sizeof(*g->alarm));
	if (!g || !g->alarm) {
		free(g);
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	}
	/* Without a burst, a tenth of a second's worth: enough that a depth of requests is not broken up. */
	g->ops = (struct limit){l->ops, l->ops_burst ?: l->ops / 10, 0};
	g->bytes = (struct limit){l->bytes, l->bytes_burst ?: l->bytes / 10, 0};
	g->d = d;
	g->last = &g->first;
	g->alarm->g = g;
	uv_timer_init(d->o.loop, &g->alarm->timer);
	*out = g;
	return 0;
}
