/*
 * disk_session.h: what the verbs on disks and stores share: a loop, disks that are opened by FILE:FORMAT, a progress bar, Ctrl-C.
 *
 *	cleanup(session_end) struct session s = {0};
 *	session_begin(&s, json);
 *	rc = session_open(&s, "a.qcow2:qcow2", SESSION_READONLY, &d, &e);
 *
 * A verb that has changed a disk ends with session_closed(): bitmaps are written when a disk is closed.
 */
#ifndef LODGE_CLI_DISK_SESSION_H
#define LODGE_CLI_DISK_SESSION_H

#include <uv.h>

#include "cli/ui/print.h"
#include "cli/ui/progress.h"
#include "cli/verb.h"
#include "disk/tool.h"

#define SESSION_DISKS 16
#define SESSION_KEYS 24 /* KEY=VALUE of one disk */

struct session {
	uv_loop_t loop;
	struct disk_stores stores; /* what several disks of one store share */
	struct disk *open[SESSION_DISKS]; /* closed at the end, last first */
	unsigned n;
	int sigfd;
	bool json;
	bool forgotten; /* what was written goes again: nobody misses any of it */
	bool lost; /* closing a disk has lost something, which was said */
	const char *doing; /* in front of the bar */
	struct progress bar;
	struct disk_watch watch; /* pass this to what takes long */
	json_t *found; /* what a check has found */
};

enum { SESSION_READONLY = 1, SESSION_NO_BACKING = 2, SESSION_FORCE = 4 };

void session_begin(struct session *s, bool json, const char *doing);
void session_end(struct session *s);
/* `name`: FILE:FORMAT, or FILE:FORMAT,KEY=VALUE... with what the format can be opened with. */
int session_open(
	struct session *s, const char *name, unsigned flags, struct disk **out, struct err *e);
/* What it held when this snapshot was made, readonly. NULL: what it holds. */
int session_open_snapshot(struct session *s, const char *name, const char *snapshot,
	struct disk **out, struct err *e);
/* fail(), with the bar taken away. */
int session_failed(struct session *s, const struct err *e);
void session_close(struct session *s); /* the disk that was opened last */
/*
 * Closes all: the exit code of a verb that went well so far. EXIT_FAILED when closing has lost something, a bitmap that could not be written, or writes that could not;
 * stderr says what.
 */
int session_closed(struct session *s);
/* -EBUSY when `path` is a file of a disk that is open, or below one: it cannot be written to meanwhile. */
int session_unused(const struct session *s, const char *path, struct err *e);
/* Two names of one file, which is there. */
bool session_same_file(const char *a, const char *b);
/* Takes the bar away, before anything is printed. */
void session_clear(struct session *s);
/* What a check of `name` came to, for people. `mends`: the words that repair it, or NULL: that was tried. */
void session_print_check(char *name, const struct disk_check *c, const char *mends);
/* "k=v,k=v" to pairs that end with a NULL key; two commas are one of a value. `text` is cut up. At most `max` - 1 pairs. */
int session_options(char *text, struct disk_kv *kv, unsigned max, struct err *e);

#endif
