/*
 * wire.h: the migration stream: messages and records of pages. docs/migration.md is the specification.
 *
 *   connection: message, message ...       message: head of 32 bytes, payload
 *   PAGES: record, record ...              record: head of 16 bytes, data
 *
 * Integers are little-endian. A message is covered by its CRC-32C, and counted, so that damage, loss and repetition are found. The head of a message,
 * HELLO, WELCOME and REFUSED stay what they are in every version; all else goes by the version that HELLO and WELCOME agreed on.
 *
 * Nothing here does I/O. Threads: a packer or an unpacker belongs to one. Errors: -EBADMSG (damaged, impossible), -ENOMEM.
 */
#ifndef LODGE_VM_MIGRATE_WIRE_H
#define LODGE_VM_MIGRATE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define MIG_VERSION 3u /* what we speak */
#define MIG_VERSION_OLDEST 1u /* and understand */
#define MIG_VERSION_DISKS 2u /* from which on disks can come along */
#define MIG_HEAD 32u
#define MIG_RECORD 16u
#define MIG_PAGE 4096u
#define MIG_PAYLOAD_MAX (64u << 20) /* of STATE; see mig_payload_max() */
#define MIG_BATCH 64u /* pages of data in one PAGES message, at most */
#define MIG_VERSION_POST 2u /* from here on there is post-copy */
#define MIG_VERSION_NEIGHBOURS 3u /* from here on MIG_NEIGHBOURS */
#define MIG_MAP_MAX (64u << 10) /* bytes of MIG_LACK's map */
#define MIG_WANT_MAX 64u /* pages of one MIG_WANT */
#define MIG_HOT_MAX 65536u
#define MIG_STREAMS_MAX 8u
#define MIG_ID 16u /* bytes; names a migration to the streams that join it */

enum mig_type {
	/* to the destination; *: any time */
	MIG_HELLO = 1, /* JSON: who, what; arg: oldest version << 16 | newest */
	MIG_JOIN, /* first message of a further stream: its MIG_ID; arg: its number, from 1 */
	MIG_PAGES, /* records; arg: pages that they are about */
	MIG_ROUND, /* a round ends here; arg: its number. Answered by MIG_ACK on the same stream */
	MIG_STATE, /* described state (base/state.h) */
	MIG_SWITCH, /* everything was sent, the guest stands still, the disks are free; arg: bit 0: it was paused before; bit 1: post-copy: what MIG_LACK named was not sent */
	MIG_GO, /* run; arg: ns since the moment of the guest's clock in STATE */
	/* to the source */
	MIG_WELCOME, /* JSON; arg: the version that is spoken from now on */
	MIG_ACK, /* arg: that of the MIG_ROUND */
	MIG_READY, /* state is loaded, disks are taken */
	MIG_RUNNING, /* the machine is the destination's */
	/* both */
	MIG_REFUSED, /* text: why; arg: errno. Nothing follows */
	MIG_HOT, /* to the destination, at most once, before STATE: where translated code begins (8 bytes each; cpu.h: hot_code_get), most used first */
	/* version 2: post-copy (postcopy.h) */
	MIG_LACK, /* both ways: map of pages that the destination has not, a bit each, lowest first; arg: the first one's number */
	MIG_WANT, /* to the source: numbers of pages (8 bytes each) that the guest waits for; arg: how many */
	MIG_PUSH, /* to the destination, on further streams: from here on MIG_PAGES are of the time after the switch-over */
	MIG_WHOLE, /* to the source: every page is here. Answered by MIG_ACK */
	MIG_RECOVER, /* to the destination, instead of HELLO: its MIG_ID; arg: streams. Answered by MIG_LACK ... MIG_ACK */
	MIG_DISK, /* to the destination, on the first stream: records of disks (blocks.h); arg: bytes that they are about */
	/* version 3 */
	MIG_NEIGHBOURS, /* to the destination, at most once, before STATE: JSON: what was known of the guest's networks when it stood still; HELLO has what was known then */
	MIG_TYPES
};

struct mig_head {
	uint16_t type, flags; /* flags: 0 */
	uint32_t len, crc;
	uint64_t arg, seq;
};

/* The largest payload of a message of this type; 0: there is none such. */
uint32_t mig_payload_max(unsigned type);
/* Fills `head` for a payload. */
void mig_head_put(uint8_t head[MIG_HEAD], enum mig_type type, uint64_t arg, uint64_t seq,
	const void *payload, uint32_t len);
/* Looks at what can be told without the payload: magic, type, length, number. */
int mig_head_get(const uint8_t head[MIG_HEAD], uint64_t seq, struct mig_head *out, struct err *e);
/* Does the payload belong to it? */
int mig_payload_check(
	const uint8_t head[MIG_HEAD], const void *payload, uint32_t len, struct err *e);

/* ---- records ---- */

enum mig_kind {
	MIG_ZERO, /* `count` pages are zero; no data */
	MIG_RAW, /* `count` pages as they are */
	MIG_ZSTD, /* one zstd frame of `count` pages */
	MIG_DELTA, /* one page as a zstd frame with the page's present contents as its prefix */
	MIG_KINDS
};

struct mig_pack_opts {
	bool zstd; /* compress */
	uint64_t cache; /* bytes of pages that are remembered for deltas; only with zstd */
};
struct mig_pack_stat {
	uint64_t pages[MIG_KINDS]; /* as what they went */
	uint64_t raw, packed, ns; /* bytes into and out of zstd, and its time */
};

/* Collects pages into the payload of a PAGES message. */
struct mig_pack;
int mig_pack_create(struct mig_pack **out, struct err *e);
void mig_pack_free(struct mig_pack *p);
/* Where n pages, at most MIG_BATCH, can be put that then are added without zstd: those that go as they are need not be copied. NULL: no room. */
void *mig_pack_room(struct mig_pack *p, unsigned n);
/*
 * `pages`: n contiguous pages from number `first` on, n at most MIG_BATCH; `had`: bit i: the other side has had page first + i before, so that
 * it must hear when the page is zero. Copied, unless they are in their place. False: there is no room; take the payload first.
 */
bool mig_pack_add(struct mig_pack *p, const struct mig_pack_opts *o, uint64_t first, unsigned n,
	const void *pages, uint64_t had);
/* The payload so far, valid until the next call; *about: pages. 0: nothing is there. Begins a new one. */
uint32_t mig_pack_take(struct mig_pack *p, const void **payload, uint64_t *about);
void mig_pack_stat(const struct mig_pack *p, struct mig_pack_stat *out);
void mig_pack_forget(struct mig_pack *p); /* what deltas are made against */

/* Takes the records of a PAGES message apart. */
struct mig_unpack;
struct mig_sink {
	uint64_t pages; /* of the machine */
	/* Each answers 0 or a negative errno, which ends it. n pages from `first` on, inside the machine. */
	int (*zero)(void *ctx, uint64_t first, uint64_t n);
	int (*put)(void *ctx, uint64_t first, unsigned n, const void *pages);
	int (*get)(void *ctx, uint64_t page, void *out); /* its present contents */
	void *ctx;
};
int mig_unpack_create(struct mig_unpack **out, struct err *e);
void mig_unpack_free(struct mig_unpack *u);
int mig_unpack(struct mig_unpack *u, const void *payload, uint32_t len, const struct mig_sink *s,
	struct err *e);

#endif
