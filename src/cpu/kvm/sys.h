/*
 * sys.h: the way from the engine to the kernel: five calls, in a struct, so that a test can stand in between and let any of them
 * fail. Nothing else in this folder calls open(), ioctl() or mmap() on KVM's descriptors.
 *
 * Threads: the functions are called from any thread. All return 0 or more, or a negative errno.
 */
#ifndef LODGE_CPU_KVM_SYS_H
#define LODGE_CPU_KVM_SYS_H

#include <stddef.h>
#include <stdint.h>

struct kvm_sys {
	int (*open)(void *ctx, const char *path);
	int (*ioctl)(void *ctx, int fd, unsigned long nr, uintptr_t arg);
	/* `len` bytes of fd from `off`, shared, readable and writable. */
	int (*map)(void *ctx, int fd, size_t len, uint64_t off, void **out);
	void (*unmap)(void *ctx, void *p, size_t len);
	void (*close)(void *ctx, int fd);
	void *ctx;
};

/* The kernel itself. */
extern const struct kvm_sys kvm_sys_host;

/* The name of a request, for messages: "KVM_RUN"; "ioctl" when it is none of ours. */
const char *kvm_sys_name(unsigned long nr);

#endif
