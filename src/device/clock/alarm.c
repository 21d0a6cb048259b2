#include "device/clock/alarm.h"

#include <errno.h>
#include <stdlib.h>
#include <uv.h>

#include "base/err.h"

struct alarm {
	uv_async_t async;
	uv_timer_t timer;
	uint64_t (*due)(void *dev);
	void *dev;
	int open;
};

static void on_timer(uv_timer_t *t)
{
	struct alarm *a = t->data;
	uint64_t ms = a->due(a->dev);

	if (ms)
		uv_timer_start(t, on_timer, ms, 0);
	else
		uv_timer_stop(t);
}

static void on_async(uv_async_t *h)
{
	on_timer(&((struct alarm *)h->data)->timer);
}

int alarm_open(struct alarm **out, struct uv_loop_s *loop, uint64_t (*due)(void *dev), void *dev,
	struct err *e)
{
	struct alarm *a = calloc(1, sizeof(*a));
	int rc;

	if (!a)
		return err_set(e, -ENOMEM, "no memory");
	rc = uv_async_init(loop, &a->async, on_async);
	if (rc) {
		free(a);
		return err_set(e, rc, "event loop: %s", uv_strerror(rc));
	}
	uv_timer_init(loop, &a->timer);
	uv_unref((uv_handle_t *)&a->async);
	uv_unref((uv_handle_t *)&a->timer);
	a->async.data = a->timer.data = a;
	a->open = 2;
	a->due = due;
	a->dev = dev;
	*out = a;
	return 0;
}

void alarm_poke(struct alarm *a)
{
	if (a)
		uv_async_send(&a->async);
}

static void on_close(uv_handle_t *h)
{
	struct alarm *a = h->data;

	if (!--a->open)
		free(a);
}

void alarm_close(struct alarm *a)
{
	if (!a)
		return;
	uv_close((uv_handle_t *)&a->timer, on_close);
	uv_close((uv_handle_t *)&a->async, on_close);
}
