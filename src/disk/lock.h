/*
 * lock.h: one writer or many readers of an image file.
 *
 * An open file description lock over the whole file: it belongs to `fd`, not to the process, so that two machines in one process exclude each
 * other as well, and ends with the last duplicate of fd. -EBUSY with a message that names the other process where /proc shows it.
 */
#ifndef LODGE_DISK_LOCK_H
#define LODGE_DISK_LOCK_H

#include <stdbool.h>

struct err;

/*
 * May wait up to 20 s for the remains of a process that was killed; 3 s where there are processes that the caller may not look at (/proc/PID/fd), of which
 * one may hold it.
 */
int disk_lock(int fd, const char *path, bool write, struct err *e);
/* At once, also while a ring that is being taken down still refers to the file. Nothing may be in flight. */
void disk_unlock(int fd);

#endif
