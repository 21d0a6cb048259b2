/*
 * proto.h: what lodge-agent (in a guest) and its clients (on the host) say to each other.
 *
 * One connection over virtio-vsock to AGENT_PORT is one request and what belongs to it; there is nothing to multiplex, and each
 * stream has the transport's own flow control. The agent speaks first:
 *
 *   agent                                  client
 *   HELLO version, features, build  -->
 *                                   <--    one request: EXEC, PUT, GET, TIME ...
 *   its answers: STDOUT..., EXIT; OK; ERROR
 *
 * A frame: u32 length of the payload (at most AGENT_FRAME_MAX), u8 type, u8[3] zero, payload. Integers are little-endian. Texts and
 * bytes are u32 length, then the bytes. Both ends treat each other as hostile: lengths are checked against the frame before anything is
 * used, an unknown type or a payload that does not end where its fields do ends the connection.
 *
 * Versions: a client speaks to an agent of its own or an older AGENT_VERSION, within the features that HELLO names.
 *
 * This file and proto.c are compiled into both programs; they use nothing but the C library.
 */
#ifndef LODGE_AGENT_PROTO_H
#define LODGE_AGENT_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_PORT 1024u
#define AGENT_VERSION 1u
#define AGENT_FRAME_MAX (64u << 10)
#define AGENT_HEAD 8u
#define AGENT_DATA_MAX (32u << 10) /* bytes of a stream in one frame */
#define AGENT_WORDS_MAX 1024u /* arguments, or variables */

/* Features (HELLO) and the requests that they allow. */
enum agent_feature {
	AGENT_F_EXEC = 1,
	AGENT_F_FILES = 2,
	AGENT_F_TIME = 4,
	AGENT_F_IDENTITY = 8,
	AGENT_F_FREEZE = 16,
	AGENT_F_POWER = 32,
	AGENT_F_CLONE = 64, /* HOLD, RELEASE, ADDRESS */
};

enum agent_type {
	AGENT_HELLO = 1, /* u32 version, u32 features, text build */

	/* Requests. */
	AGENT_EXEC =
		16, /* u32 flags, u32 rows, u32 cols, text dir, text user, u32 n + env texts, u32 n + argv texts */
	AGENT_PUT, /* text path, u32 mode, u64 mtime ns; then DATA..., END */
	AGENT_GET, /* text path -> STAT, DATA..., END */
	AGENT_LIST, /* text path -> ENTRY..., END */
	AGENT_MKDIR, /* text path, u32 mode -> OK */
	AGENT_SYMLINK, /* text path, text target -> OK */
	AGENT_STAT, /* text path -> STAT */
	AGENT_TIME, /* u64 ns since 1970, 0: only tell -> OK (u64 the clock before) */
	AGENT_IDENTITY, /* u32 flags, bytes seed, text host name -> OK */
	AGENT_FREEZE, /* u32 milliseconds until it thaws by itself -> OK (u64 file systems) */
	AGENT_THAW, /* on the connection that froze -> OK; the end of the connection thaws too */
	AGENT_POWER, /* u32 enum agent_power -> OK */
	AGENT_INFO, /* -> TEXT: lines of "key=value" */
	/*
	 * u32 milliseconds -> OK (u64 groups of processes). All programs of the guest but the agent stand still until RELEASE, the orderly end of
	 * the connection, or that time is over. Where the connection breaks (a machine that goes on from a snapshot) they stay held.
	 */
	AGENT_HOLD,
	AGENT_RELEASE, /* on any connection -> OK (u64 0: nothing was held) */
	/* u32 number of the copy (0: IPv4 stays), u32 n, n * (bytes hardware address that it has, bytes that it gets) -> OK (u64 interfaces) */
	AGENT_ADDRESS,

	/* Of EXEC, from the client. */
	AGENT_STDIN = 48, /* bytes to the end of the frame */
	AGENT_STDIN_END,
	AGENT_SIGNAL, /* u32 number, to the process group */
	AGENT_WINSIZE, /* u32 rows, u32 cols */

	/* Answers. */
	AGENT_OK = 80, /* u64 value */
	AGENT_ERROR, /* u32 errno, text what */
	AGENT_STDOUT, /* bytes to the end of the frame */
	AGENT_STDERR,
	AGENT_EXIT, /* u32 0: ended by itself, 1: by a signal; u32 exit code or signal */
	AGENT_FILE, /* u32 mode (st_mode), u64 size, u64 mtime ns, text target of a symbolic link */
	AGENT_DATA, /* bytes to the end of the frame; both ways */
	AGENT_END, /* of DATA or ENTRY; both ways */
	AGENT_ENTRY, /* u32 mode, u64 size, u64 mtime ns, text name */
	AGENT_TEXT, /* bytes to the end of the frame */
};

enum agent_exec_flag { AGENT_EXEC_TTY = 1 };
enum agent_identity_flag {
	AGENT_ID_MACHINE_ID = 1, /* a new /etc/machine-id */
	AGENT_ID_HOST_KEYS = 2, /* new SSH host keys */
};
enum agent_power { AGENT_POWER_OFF, AGENT_POWER_REBOOT, AGENT_POWER_HALT };

/* A payload being written. `bad` when it did not fit. */
struct agent_out {
	uint8_t buf[AGENT_HEAD + AGENT_FRAME_MAX];
	size_t len;
	bool bad;
};
void agent_begin(struct agent_out *o, enum agent_type t);
void agent_put_u32(struct agent_out *o, uint32_t v);
void agent_put_u64(struct agent_out *o, uint64_t v);
void agent_put_bytes(struct agent_out *o, const void *p, size_t len);
void agent_put_text(struct agent_out *o, const char *text);
/* Without a length: to the end of the frame. */
void agent_put_rest(struct agent_out *o, const void *p, size_t len);
/* The frame in o->buf, o->len is complete now. */
bool agent_finish(struct agent_out *o);

/* Frames out of a stream of bytes. */
struct agent_in {
	uint8_t buf[AGENT_HEAD + AGENT_FRAME_MAX +
		    1]; /* one more: a text at the end gets its NUL */
	size_t len; /* bytes that are there */
	/* The frame that agent_next() found: */
	enum agent_type type;
	const uint8_t *payload;
	size_t left; /* of the payload that the getters have not taken */
	size_t frame; /* bytes of it in buf; dropped by the next agent_next() */
	bool bad; /* a getter asked for more than there is, or a text has a NUL */
};
/* Where the next bytes go, and how many fit; then agent_got() says how many came. */
void *agent_room(struct agent_in *in, size_t *room);
void agent_got(struct agent_in *in, size_t n);
/* 1: a frame is there. 0: more bytes are needed. -1: this is not the protocol. */
int agent_next(struct agent_in *in);
uint32_t agent_get_u32(struct agent_in *in);
uint64_t agent_get_u64(struct agent_in *in);
/* Points into the frame: valid until the next agent_next(). */
const uint8_t *agent_get_bytes(struct agent_in *in, size_t *len);
/* The same as a C string of its own; "" when bad or out of memory. Caller frees. */
char *agent_get_text(struct agent_in *in);
/* Nothing was bad, and nothing is left. */
bool agent_complete(const struct agent_in *in);

#endif
