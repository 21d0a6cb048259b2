/*
 * alarm.h: a timer of the event loop that other threads may poke; for real-time clocks.
 *
 * vCPU threads may only call uv_async_send(); the loop then asks the device when it wants to be called, and sets the timer. The handles
 * live on until the loop has closed them, which is after the device is gone.
 */
#ifndef LODGE_DEVICE_CLOCK_ALARM_H
#define LODGE_DEVICE_CLOCK_ALARM_H

#include <stdint.h>

struct alarm;
struct err;
struct uv_loop_s;

/*
 * `due` is called in the loop's thread, at each poke and when the time has come; it does what is due and returns the milliseconds until it
 * wants to be called again, 0: not before the next poke.
 */
int alarm_open(struct alarm **out, struct uv_loop_s *loop, uint64_t (*due)(void *dev), void *dev,
	struct err *e);
/* ANY thread. NULL: nothing. */
void alarm_poke(struct alarm *a);
/* The loop's thread. NULL: nothing. */
void alarm_close(struct alarm *a);

#endif
