/*
 * create.h: a snapshot that nobody but its maker will see. Blocks until it is complete; what fails leaves nothing behind, and the machine running.
 */
#ifndef LODGE_CLI_SNAPSHOT_CREATE_H
#define LODGE_CLI_SNAPSHOT_CREATE_H

struct err;

/*
 * The memory of a running machine, in a file without a name: it goes with the last who has it open or mapped. *fd is the caller's. What its
 * disks hold at the same moment goes to `copies`: empty files (borrowed) for those that it writes to, in their order. The
 * guest's programs are held at that moment (AGENT_HOLD); where nobody can, *no_agent says why.
 */
int snapshot_unnamed(const char *vm, int *fd, const int *copies, unsigned ncopies,
	struct err *no_agent, struct err *e);

#endif
