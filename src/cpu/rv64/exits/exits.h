/*
 * exits.h: how an rv64 hart's reasons to leave the guest reach the machine monitor.
 *
 *   secondary side (the hart's run loop)            |  primary side (the monitor)
 *   rv64_leave(): status registers of the hart      |
 *       cause, tval, htval, htinst, pc, arguments   |
 *   rv64_post(): copied to the next slot of the     |  rv64_take(): copied out once, checked (sequence, length,
 *       vCPU's ring in shared memory      ----------+->    vCPU), translated by rv64_causes: raw code -> primary code,
 *   rv64_note(): the same for what the guest was    |      identified by that (cpu/exit.h)
 *       given without leaving, when somebody asks   |
 *
 * The right side sees nothing of the hart but the ring: it knows RISC-V's codes, and is the only place that does. A record that is
 * damaged is dropped and counted; the hart then makes the instruction again, which has not retired, and leaves again.
 *
 * Sources: RISC-V privileged specification, "Machine Cause Register", "Trap Cause Codes", and for htval, htinst and their transformed instructions the
 * chapter on the hypervisor extension; codes of the primary ISA as in cpu/exit.h.
 *
 * Threads: a ring is the vCPU's thread's, both sides.
 */
#ifndef LODGE_CPU_RV64_EXITS_H
#define LODGE_CPU_RV64_EXITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu/exit.h"

/* Exceptions (privileged specification, table of mcause). */
enum {
	CAUSE_FETCH_MISALIGNED = 0,
	CAUSE_FETCH_ACCESS = 1,
	CAUSE_ILLEGAL = 2,
	CAUSE_BREAK = 3,
	CAUSE_LOAD_MISALIGNED = 4,
	CAUSE_LOAD_ACCESS = 5,
	CAUSE_STORE_MISALIGNED = 6,
	CAUSE_STORE_ACCESS = 7,
	CAUSE_ECALL_U = 8,
	CAUSE_ECALL_S = 9,
	CAUSE_ECALL_VS = 10,
	CAUSE_ECALL_M = 11,
	CAUSE_FETCH_PAGE = 12,
	CAUSE_LOAD_PAGE = 13,
	CAUSE_STORE_PAGE = 15,
	CAUSE_DOUBLE_TRAP = 16,
	CAUSE_SOFTWARE_CHECK = 18,
	CAUSE_HARDWARE = 19,
	CAUSE_FETCH_GUEST_PAGE = 20,
	CAUSE_LOAD_GUEST_PAGE = 21,
	CAUSE_VIRTUAL_INSN = 22,
	CAUSE_STORE_GUEST_PAGE = 23,
};
#define CAUSE_IRQ (1ull << 63)

enum { IRQ_SSI = 1, IRQ_MSI = 3, IRQ_STI = 5, IRQ_MTI = 7, IRQ_SEI = 9, IRQ_MEI = 11 };

/* SBI calls that leave the engine, or look as if they had. */
#define EXT_HSM 0x48534d
#define EXT_SRST 0x53525354
#define EXT_SUSP 0x53555350
#define EXT_DBCN 0x4442434e
enum { HSM_STOP = 1, HSM_SUSPEND = 3 };

/* The instructions of virtual-instruction exits. */
#define INSN_WFI 0x10500073u
#define INSN_WRS_NTO 0x00d00073u
#define INSN_WRS_STO 0x01d00073u
#define INSN_PAUSE 0x0100000fu

enum { RV64_FLAG_USER = 1, RV64_FLAG_PRESENT = 2 /* a page fault of a page that is there */ };

/* What a hart's registers say when it leaves. */
struct rv64_status {
	uint64_t cause, tval;
	uint64_t htval; /* guest-physical address >> 2 */
	uint64_t htinst; /* a load or store, transformed: opcode, width, register */
	uint64_t pc;
	uint64_t flags; /* RV64_FLAG_* */
	/*
	 * The registers that the cause speaks of: a0-a7 of a call; the data of a store; of wfi, and of a hart that waits in a call, the host time
	 * at which its timer fires; of what was given, how often (messages of an interrupt) and when.
	 */
	uint64_t reg[8];
};

enum { RV64_RECORD_EXIT = 0x5845, RV64_RECORD_NOTE = 0x544f };

struct rv64_record {
	uint64_t seq;
	uint32_t
		length; /* of the record: it does not change from one to the next, a damaged one does */
	uint16_t vcpu;
	uint16_t kind;
	struct rv64_status st;
};

#define RV64_RING 63u
struct rv64_ring {
	_Atomic uint64_t head; /* records posted so far; record n is in slot n % RV64_RING */
	_Atomic uint64_t tail; /* taken so far */
	uint64_t pad[14];
	struct rv64_record slot[RV64_RING];
};
_Static_assert(sizeof(struct rv64_ring) == 8192, "whole pages");

/* The table. Rows that have no vector and no basic exit reason are holes: their codes are unknown. */
struct rv64_cause {
	const char *name; /* NULL: a hole */
	uint16_t basic;
	uint8_t vector;
	uint32_t error; /* that part of a page fault's error code that the cause tells */
	/* Payload and qualification. False: the record contradicts itself. May be NULL. */
	bool (*detail)(const struct rv64_status *st, struct cpu_exit *x);
};
#define RV64_CAUSES 64
struct rv64_causes {
	struct rv64_cause exc[RV64_CAUSES], irq[RV64_CAUSES];
};
extern const struct rv64_causes rv64_causes;

/* NULL: no row, the code is unknown. Codes of 64 and more have none. */
const struct rv64_cause *rv64_cause(const struct rv64_causes *t, uint64_t cause);
/* Fills all of *x by the table; total. */
void rv64_translate(const struct rv64_causes *t, const struct rv64_status *st, struct cpu_exit *x);

/* The monitor's end of a ring. */
struct rv64_reader {
	struct rv64_ring *ring;
	const struct rv64_causes *causes;
	uint16_t vcpu;
	uint64_t next;
	uint64_t taken, dropped;
	const char *why; /* of the last that was dropped */
};

void rv64_post(struct rv64_ring *r, uint64_t *posted, uint16_t vcpu, uint16_t kind,
	const struct rv64_status *st);
/* True when a note might overwrite what nobody has taken: leave first. */
bool rv64_ring_full(const struct rv64_ring *r, uint64_t posted);
/* After a drop: the hart says where it goes on, and nothing from before counts any more. */
void rv64_agree(struct rv64_reader *q, uint64_t posted);
/*
 * Takes everything that was posted; notes go to `each` (may be NULL). True: *x is filled by the exit, which is the newest record. False: it
 * was damaged, and dropped; q->why.
 */
bool rv64_take(struct rv64_reader *q, struct cpu_exit *x,
	void (*each)(void *ctx, const struct cpu_note *n), void *ctx);

#endif
