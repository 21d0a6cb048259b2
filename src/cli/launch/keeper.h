/*
 * keeper.h: the process that waits for a machine's lodge-vm and clears up behind it (launch.h). It starts the program, and in a live update the one
 * that goes on with the machine (cli/update/successor.h).
 *
 * One thread.
 */
#ifndef LODGE_CLI_LAUNCH_KEEPER_H
#define LODGE_CLI_LAUNCH_KEEPER_H

struct launch;

/* What goes over the leash, to the keeper. Its end without the first: who launched the machine has died. */
enum keeper_word { KEEPER_LET_GO = 'd', KEEPER_END = 'e' };

#define KEEPER_LINE_MAX 2048 /* the line that says whether the machine runs */

/*
 * In a forked child; does not return: its exit code is the machine's, 128 + the signal when one ended lodge-vm. The definition is in `def_fd`; lodge-vm's one
 * line goes to `ready_fd` whole; the leash is read. All three are the keeper's.
 */
_Noreturn void keeper_run(const struct launch *l, int def_fd, int ready_fd, int leash);

#endif
