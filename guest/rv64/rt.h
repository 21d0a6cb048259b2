/*
 * rt.h: what bare test programs have: the UART, the test finisher, a trap hook. Freestanding; M-mode on the `virt`
 * board (Lodge's and QEMU's alike).
 */
#ifndef GUEST_RT_H
#define GUEST_RT_H

#include <stdint.h>

#include "guest/common/text.h"

#define csr_read(name) \
	({ \
		uint64_t csr_v; \
		__asm__ volatile("csrr %0, " #name : "=r"(csr_v)); \
		csr_v; \
	})
#define csr_write(name, v) __asm__ volatile("csrw " #name ", %0" ::"r"((uint64_t)(v)) : "memory")
#define csr_set(name, v) __asm__ volatile("csrs " #name ", %0" ::"r"((uint64_t)(v)) : "memory")
#define csr_clear(name, v) __asm__ volatile("csrc " #name ", %0" ::"r"((uint64_t)(v)) : "memory")

/* Called for every trap unless the program defines its own; returns the pc to go on at. regs[n] is xn (not x2). */
uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs);

#endif
