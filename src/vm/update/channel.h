/*
 * channel.h: what the old and the new lodge-vm of a live update say to each other: JSON messages with descriptors, on a SOCK_SEQPACKET pair; and
 * the word in shared memory that decides which of the two has the machine.
 *
 * A message is one JSON object of at most CHANNEL_MAX bytes; its descriptors go ahead of it, in packets of their own. Everything received is
 * checked for shape by who asked for it: the other side may be another version, or broken.
 *
 * Errors: -EPIPE the other side has gone, -ETIMEDOUT, -EPROTO not a message. Threads: one.
 */
#ifndef LODGE_VM_UPDATE_CHANNEL_H
#define LODGE_VM_UPDATE_CHANNEL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct fdlist;
struct json_t;

#define CHANNEL_MAX 131072u

/* `timeout_ms` for each packet; -1: none. What was received before an error is closed. `fds` may be NULL: none are expected. */
int channel_send(
	int sock, struct json_t *msg /* stolen */, const struct fdlist *fds, struct err *e);
int channel_receive(
	int sock, int timeout_ms, struct json_t **msg, struct fdlist *fds, struct err *e);

/*
 * The decision. Who wants the machine tries to change OPEN; exactly one does, whatever dies when. GIVEN: the new process runs it, the old one must not
 * any more. KEPT: the other way round.
 */
enum { UPDATE_OPEN, UPDATE_GIVEN, UPDATE_KEPT };
struct update_page {
	_Atomic uint32_t word;
};

/* Maps the page of descriptor `fd` (a memory file of at least a page). NULL: cannot. */
struct update_page *update_page_map(int fd);
void update_page_unmap(struct update_page *p);
/* Returns what the word is afterwards. */
uint32_t update_page_decide(struct update_page *p, uint32_t want);

#endif
