/*
 * uffd.h: page faults of this process' own memory, served by it (userfaultfd): what is missing, what is write-protected, what is only in
 * the page cache (minor).
 *
 * For memory of frames.h (shared, from a memory file). A fault stops who made it, also the kernel on its behalf (a vCPU in KVM, a
 * read() into guest memory), until it is served. One thread reads the faults and calls `fault`, which serves them by the calls below.
 *
 *   WP       write tracking with a hook before the write (tracker_ops.before)
 *   MISSING  pages that come from somewhere else (a saved machine, another host)
 *   MINOR    the same where another mapping of the file is filled first
 *
 * What the host offers is found out when it is opened (uffd_open). Opening it needs vm.unprivileged_userfaultfd, CAP_SYS_PTRACE, or
 * access to /dev/userfaultfd, unless only faults of user space are to be served; it is done before the sandbox. Source: userfaultfd(2), ioctl_userfaultfd(2).
 *
 * Threads: any. Ownership: uffd_close() ends the thread; nobody may be waiting in a fault then (unregister first).
 */
#ifndef LODGE_MEMORY_UFFD_H
#define LODGE_MEMORY_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct uffd;

enum uffd_mode { UFFD_MISSING = 1, UFFD_WP = 2, UFFD_MINOR = 4 };
/* For uffd_open(): not the kernel's faults, which fail with EFAULT: for who makes pages, and waits for none. Linux 5.11. */
#define UFFD_USER 8u

struct uffd_fault {
	uintptr_t page; /* start of the 4 KiB page */
	enum uffd_mode kind;
	bool write;
};

/* -ENOTSUP names what is missing. `modes`: those that are wanted; all must be there for shared memory. */
int uffd_open(struct uffd **out, unsigned modes, struct err *e);
void uffd_close(struct uffd *u);
/* Which modes this host has for shared memory; 0: no userfaultfd, or not for us. */
unsigned uffd_modes(void);
/* Starts the thread. Once. */
int uffd_serve(struct uffd *u, void (*fault)(void *ctx, const struct uffd_fault *f), void *ctx,
	struct err *e);

/*
 * Instead of uffd_serve(), for a thread that waits for other things too: a descriptor that can be read when there are faults, and the
 * next ones, at most `max`; how many. It never waits.
 */
int uffd_fd(const struct uffd *u);
unsigned uffd_take(struct uffd *u, struct uffd_fault *f, unsigned max);

int uffd_register(struct uffd *u, void *p, size_t len, unsigned modes, struct err *e);
/* Also lets go who waits in the range. */
void uffd_unregister(struct uffd *u, void *p, size_t len);
/* Protects, or unprotects and lets go who waits. 0 or -errno. */
int uffd_protect(struct uffd *u, void *p, size_t len, bool on);
/* Serves a missing page: with the contents of `from` (a page), or zeroes (NULL). -EEXIST: somebody was faster. */
int uffd_fill(struct uffd *u, void *page, const void *from);
/*
 * Gives each page of the range that is missing what `from` has (NULL: zeroes, never protected), and leaves the others; all that waited go
 * on. `protect`: the new pages are write-protected. 0 or -errno.
 */
int uffd_fill_missing(struct uffd *u, void *to, const void *from, size_t len, bool protect);
/* How many bytes of that, from the start on, or -errno. -EEXIST: the first page is not missing. Nobody is let go. */
int64_t uffd_fill_some(struct uffd *u, void *to, const void *from, size_t len, bool protect);
/* Serves a minor fault: maps what the file has. */
int uffd_continue(struct uffd *u, void *page);

#endif
