/*
 * guest.h: a machine's agent, by the machine's name.
 */
#ifndef LODGE_CLI_GUEST_H
#define LODGE_CLI_GUEST_H

struct agent_client;
struct err;

/* Waits up to wait_s for a guest that is still coming up. -ENOENT: no such machine; else the errors of agent_open(). */
int guest_agent(struct agent_client **out, const char *name, unsigned wait_s, struct err *e);

#endif
