/*
 * stage2.h: the second stage: the packages whose set-up must run on the image's architecture are configured by booting the disk once.
 */
#ifndef LODGE_IMAGE_STAGE2_H
#define LODGE_IMAGE_STAGE2_H

#include "image/pull.h"

/* Whether there is a machine to boot with: asked before anything is fetched. */
int stage2_check(const struct pull *p, struct err *e);

/* Boots the disk with p->out's kernel and initrd; `packages` are waiting. The console goes to <work>/stage2.log. */
int stage2_run(struct pull *p, const char *disk, size_t packages, struct err *e);

#endif
