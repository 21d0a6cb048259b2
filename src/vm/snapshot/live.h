/*
 * live.h: copies guest memory of one moment into a container while the guest runs on.
 *
 *   vCPU, virtio, balloon --first write to a page--> hook: copies it --> queue (bounded, in RAM)
 *                                                                           |
 *              +-------------------------+----------------------------------+
 *              | always                  | from half full on                | full
 *        writer thread          packer thread: zstd             who writes to memory itself
 *              +-------------------------+----------------------------------+--> file
 *
 *   writer thread, when the queue is empty: sweeps pages that nobody has written yet
 *
 * arm() is the moment: it costs the time in which vCPUs drop cached write permission, whatever the size of memory. After it each page is
 * copied exactly once, by its first writer or by the sweep. Nothing is dropped: who finds the queue full writes some of it to the file itself. No
 * lock is held on the way of a page: the threads are niced, and a vCPU must not wait for one that waits for a processor.
 * When the target fails, tracking goes off, writers that wait go on, and nothing of the guest has changed.
 *
 * Threads: calls belong to one thread (the event loop's). Two threads of its own; `done` is called in one of them, once.
 */
#ifndef LODGE_VM_SNAPSHOT_LIVE_H
#define LODGE_VM_SNAPSHOT_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct space;
struct snaplive;

struct snaplive_opts {
	struct space *space;
	int fd; /* empty; owned by the snaplive from now on, also when create fails */
	uint64_t queue_bytes; /* at most so much RAM for copies; 0: 64 MiB */
	unsigned
		pack_percent; /* of the queue, from where on pages are compressed; 0: 50; above 100: never */
	void (*done)(void *ctx);
	void *ctx;
};

struct snaplive_stat {
	uint64_t pages, swept, caught, packed; /* caught: by a write of the guest or a device */
	uint64_t untouched; /* of swept: known to be zero without a look */
	uint64_t done; /* pages that are accounted for */
	uint64_t queue_max; /* pages */
	uint64_t throttled, throttled_ns, throttled_max_ns; /* writers that made room first */
	uint64_t file_bytes;
	bool finished, failed;
};

/* Everything that can be done before the moment: memory, threads, the file. */
int snaplive_create(struct snaplive **out, const struct snaplive_opts *o, struct err *e);
/* The moment. vCPUs outside run(), devices quiesced. */
int snaplive_arm(struct snaplive *l, struct err *e);
/* From now on the threads work. Buffers are malloc'ed, owned from now on. `hot`: guest-physical addresses, may be NULL. */
void snaplive_run(struct snaplive *l, char *manifest, uint8_t *state, size_t state_len,
	uint64_t *hot, size_t nhot);
/* The threads give up soon; done is called as always. Also for one that was never run. */
void snaplive_cancel(struct snaplive *l);
void snaplive_stat(struct snaplive *l, struct snaplive_stat *st);
/* After done: 0, or what went wrong. */
int snaplive_result(struct snaplive *l, struct err *e);
/* Cancels what is not done, waits for the threads, closes the file. */
void snaplive_free(struct snaplive *l);

#endif
