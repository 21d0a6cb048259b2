/*
 * agent.h: lodge-agent in an image: the program of the guest's ISA that was built beside this one.
 */
#ifndef LODGE_IMAGE_AGENT_H
#define LODGE_IMAGE_AGENT_H

#include "image/text.h"

/* Debian's name of the architecture: "riscv64". -ENOENT: this build has none for it (no compiler was there); say so and go on. */
int agent_program(const char *arch, struct buf *out, struct err *e);

extern const char agent_unit[]; /* lodge-agent.service */
#define AGENT_PATH "usr/lib/lodge/lodge-agent"
#define AGENT_UNIT "usr/lib/systemd/system/lodge-agent.service"
#define AGENT_WANTS "etc/systemd/system/multi-user.target.wants/lodge-agent.service"

#endif
