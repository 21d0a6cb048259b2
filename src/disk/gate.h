/*
 * gate.h: what stands between a disk's user and its format: limits of its rate, and what happens to a request that the host failed.
 *
 * Limits are per second; reads, writes, discards and zeroes count, a flush does not; the bytes of a discard do not, as none are moved. A `burst` is what may pass at once after a pause;
 * a request that is larger than it passes and is paid off afterwards. What has to wait waits in order; disk_drain() lets all pass.
 *
 * Errors: REPORT hands them to the user. PAUSE holds the request and calls client.failed(), whose owner stops the guest; disk_retry() sends
 * what is held once more, disk_fail_held() gives up and reports; IGNORE says that it was done. Who waits for a request
 * himself (disk_req.waited: a new size, a snapshot, a move; not a guest) is told at once with each of them. What is the user's own mistake (-EINVAL, -ERANGE, -EROFS) is always reported.
 *
 * Threads: the loop's.
 */
#ifndef LODGE_DISK_GATE_H
#define LODGE_DISK_GATE_H

#include "disk/disk.h"

struct disk_gate;

/* NULL in *out when the options ask for nothing. */
int gate_create(struct disk_gate **out, struct disk *d, struct err *e);
void gate_destroy(struct disk_gate *g);
/* False: it waits, and is given to `go` later. */
bool gate_enter(struct disk_gate *g, struct disk_req *r);
/* Lets what waits go on at once. */
void gate_open(struct disk_gate *g);
/* True: the request is held, and is not done. May change the result. */
bool gate_failed(struct disk_gate *g, struct disk_req *r);
unsigned gate_held(const struct disk_gate *g);
struct disk_req *gate_take_held(struct disk_gate *g);
void gate_stats(const struct disk_gate *g, struct disk_stats *s);

/* disk.c: past the gate. */
void disk_pass(struct disk_req *r);

#endif
