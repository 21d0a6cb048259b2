/*
 * rundir.h: where a running machine is found: <runtime place>/NAME (base/fsutil.h).
 *
 *   lock          held (flock) by the lodge-vm as long as it lives; two machines of one name exclude each other by it
 *   pid           of that lodge-vm, as text
 *   control.sock  vm/control/control.h
 *   vsock.sock    device/vsock/vsock_host.h; programs that serve the guest listen on vsock.sock_PORT beside it
 *   config.json   the definition it was started with
 *
 * Who finds a directory whose lock is free may take it over: it is what a dead machine left.
 */
#ifndef LODGE_VM_RUNDIR_H
#define LODGE_VM_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>

struct err;

/* Letters, digits, '.', '_', '-'; starts with a letter or digit; at most 63. -EINVAL with what is wrong. */
int rundir_check_name(const char *name, struct err *e);
/* Path of the directory, or of a file in it (file may be NULL). */
int rundir_path(const char *name, const char *file, char *path, size_t size, struct err *e);
/* Makes and locks the directory; clears what a dead machine left. *lock_fd stays open as long as the machine lives. -EBUSY: the name is taken. */
int rundir_claim(const char *name, int *lock_fd, struct err *e);
/* Removes the files and the directory; the lock goes with the process. */
void rundir_remove(const char *name);
bool rundir_alive(const char *name);
/* The pid of the machine, 0 when unknown. */
int rundir_pid(const char *name);

#endif
