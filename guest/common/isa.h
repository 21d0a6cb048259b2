/*
 * isa.h: what the tests of both engines (both.c) need of an ISA and its board. guest/rv64/isa.c on `virt` in M-mode, guest/x86/isa.c on `pc` in
 * ring 0 of long mode; nothing else differs.
 */
#ifndef GUEST_ISA_H
#define GUEST_ISA_H

#include "guest/common/text.h"

/* The board. */
extern const uint64_t isa_ram, isa_ecam, isa_pci_window;
extern const uint64_t isa_second; /* of isa_ticks(), about */

enum isa_event { EV_BREAK, EV_UNDEFINED, EV_PAGE, EV_TIMER, EV_IPI, EV_MESSAGE, EVENTS };
/* What traps and interrupts were taken, of all processors. */
extern volatile uint64_t isa_count[EVENTS];
extern volatile uint64_t isa_fault_address;
extern volatile int isa_fault_write;

uint64_t isa_ticks(void);
void isa_fence(void);

/* Make one; the handler counts it and goes on behind. */
void isa_break(void);
void isa_undefined(void);
void isa_touch(uint64_t address, int write); /* nothing is mapped there */
uint64_t isa_nowhere(void); /* such an address */

/* Interrupts come only in isa_wait(): it sleeps until something is pending, and takes it. */
void isa_timer_in(uint64_t microseconds);
void isa_wait(void);

/* What a device must write for EV_MESSAGE on processor 0. */
void isa_message(uint64_t *address, uint32_t *data);

/* Behind the RAM that follows isa_ram. */
uint64_t isa_memory_end(void);

#define ISA_VECTOR_WORDS 64
/* Into or out of this processor's floating-point or vector registers, which nothing else here uses. Returns how many words they are; v may be NULL. */
unsigned isa_vectors(int store, uint64_t *v);

/* Another processor runs fn(cpu), which must have returned from the one before; afterwards IPIs reach it while it is in isa_wait(). False: there is no such processor. */
int isa_start(unsigned cpu, void (*fn)(unsigned cpu));
void isa_ipi(unsigned cpu);

/* Does not return. RAM that no program is loaded to keeps its contents. */
void isa_reboot(void) __attribute__((noreturn));

/* A byte register of the UART that holds what is written. */
uint8_t isa_scratch(int write, uint8_t v);

/* What hostile.c goes over; a row without a name ends it. */
struct isa_window {
	const char *name;
	uint64_t base, size;
	uint32_t step;
	int readonly; /* a store there may stop this processor, as it should */
};
extern const struct isa_window isa_windows[];
/* May these bytes be written, or would that end the machine, or print? */
int isa_harmless(uint64_t at, unsigned bytes);
/* 1 << width bytes; a fault is skipped. Ports are memory from ISA_PORTS on. */
#define ISA_PORTS (1ul << 62)
void isa_load(uint64_t at, unsigned width);
void isa_store(uint64_t at, unsigned width, uint64_t v);
void isa_uart_again(void); /* whatever was done to it */

#endif
