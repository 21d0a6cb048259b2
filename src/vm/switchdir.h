/*
 * switchdir.h: where a switch of this host is found: <runtime place>/.switches/NAME.sock (cables, net/wire.h), NAME.ctl (control, rpc.h)
 * and NAME.lock, which its process holds. The dot keeps the folder from being taken for a machine's.
 */
#ifndef LODGE_VM_SWITCHDIR_H
#define LODGE_VM_SWITCHDIR_H

#include <stddef.h>

struct err;

/* suffix: "sock", "ctl", "lock"; NULL: the folder. Names are those of rundir_check_name(). */
int switch_path(const char *name, const char *suffix, char *path, size_t size, struct err *e);
/* Makes the folder, takes the lock (kept open as long as the switch lives), removes what a dead one left. -EBUSY: it runs already. */
int switch_claim(const char *name, int *lock_fd, struct err *e);

#endif
