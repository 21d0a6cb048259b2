/*
 * admin.h: rows of the format's table (format.h) that are neither reading nor writing.
 *
 * Nothing is in flight when these are called.
 */
#ifndef LODGE_DISK_QCOW2_ADMIN_H
#define LODGE_DISK_QCOW2_ADMIN_H

#include "disk/qcow2/qcow2.h"

int q_empty(struct disk *d, struct err *e);
int q_resize(struct disk *d, uint64_t size, struct err *e);
int q_set_backing(struct disk *d, const char *path, const char *format, struct err *e);
int q_info(struct disk *d, json_t *obj, struct err *e);
void q_stats(struct disk *d, json_t *obj);
int q_check_op(struct disk *d, bool repair, const struct disk_watch *w, struct disk_check *out,
	struct err *e);
/* The header's cluster anew, from q->h; durable. */
int q_write_header(struct qcow2 *q, struct err *e);

#endif
