/*
 * image.h: a vCPU's whole state as plain fields (decision D5), and the machine's that no single vCPU owns.
 *
 * What KVM hands out in its own structs is taken apart here, so that a saved machine does not depend on the layout of a kernel's interface
 * or of a processor's XSAVE area. Names follow the Intel SDM (volumes 1 and 3) and, for controllers, their data sheets.
 *
 *   KVM_GET_* --> image.c --> struct kvm_image --> state tables --> stream
 *
 * `whole` is false when something could not be read; such a state is refused at load.
 */
#ifndef LODGE_CPU_KVM_IMAGE_H
#define LODGE_CPU_KVM_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#define KVM_IMAGE_MSRS 512
#define KVM_TILEDATA_MAX 8192

struct kvm_i_regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags;
};

struct kvm_i_seg {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint8_t type, present, dpl, db, s, l, g, avl, unusable;
};

struct kvm_i_table {
	uint64_t base;
	uint16_t limit;
};

struct kvm_i_sregs {
	struct kvm_i_seg cs, ds, es, fs, gs, ss, tr, ldt;
	struct kvm_i_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
	uint64_t sregs2_flags, pdptrs[4];
	uint64_t interrupt_bitmap[4]; /* of KVM_GET_SREGS only */
};

/* x87, SSE and what XSAVE holds beyond (SDM volume 1, chapter 13); parts whose bit in xstate_bv is clear are zero. */
struct kvm_i_fp {
	uint16_t fcw, fsw, fop;
	uint8_t ftw; /* abridged */
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8 * 16], xmm[16 * 16];
	uint64_t xstate_bv, xcr0;
	uint8_t avx[256], bndregs[64], bndcsr[64], opmask[64], zmm_hi256[512], hi16_zmm[1024];
	uint8_t pkru[8], tilecfg[64];
	uint8_t *tiledata;
	uint32_t tiledata_len;
};

struct kvm_i_msr {
	uint32_t index;
	uint64_t value;
};

/* Local APIC (SDM volume 3, "Advanced Programmable Interrupt Controller"). */
struct kvm_i_lapic {
	uint32_t id, version, tpr, arb, ppr, ldr, dfr, svr;
	uint32_t isr[8], tmr[8], irr[8];
	uint32_t esr, lvt_cmci, icr_low, icr_high;
	uint32_t lvt_timer, lvt_thermal, lvt_perf, lvt_lint0, lvt_lint1, lvt_error;
	uint32_t timer_initial, timer_current, timer_divide;
};

struct kvm_i_events {
	uint8_t exception_injected, exception_nr, exception_has_error_code, exception_pending;
	uint8_t exception_has_payload;
	uint32_t exception_error_code;
	uint64_t exception_payload;
	uint8_t interrupt_injected, interrupt_nr, interrupt_soft, interrupt_shadow;
	uint8_t nmi_injected, nmi_pending, nmi_masked;
	uint8_t smi_smm, smi_pending, smi_inside_nmi, smi_latched_init;
	uint8_t triple_fault_pending;
	uint32_t sipi_vector, flags;
};

struct kvm_image {
	bool whole;
	struct kvm_i_regs regs;
	struct kvm_i_sregs sregs;
	struct kvm_i_fp fp;
	struct kvm_i_msr *msrs;
	uint32_t nmsrs;
	struct kvm_i_lapic lapic;
	struct kvm_i_events events;
	uint32_t mp_state, tsc_khz;
	uint64_t db[4], dr6, dr7;
};

/* i8259 (one of two), i8254 (one channel), IOAPIC (82093AA). */
struct kvm_i_pic {
	uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll;
	uint8_t special_mask, init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode;
	uint8_t init4, elcr, elcr_mask;
};

struct kvm_i_pit {
	uint32_t count;
	uint16_t latched_count;
	uint8_t count_latched, status_latched, status, read_state, write_state, write_latch;
	uint8_t rw_mode, mode, bcd, gate;
	int64_t count_load_time;
};

struct kvm_i_ioapic {
	uint64_t base;
	uint32_t ioregsel, id, irr;
	uint64_t redirect[24];
};

#define KVM_IMAGE_LEAVES 256
struct kvm_i_leaf {
	uint32_t function, index, eax, ebx, ecx, edx;
};

struct kvm_chips {
	bool whole, split, has_pit;
	struct kvm_i_pic pic[2];
	struct kvm_i_ioapic ioapic;
	struct kvm_i_pit pit[3];
	uint32_t pit_flags;
	uint64_t clock_ns; /* kvmclock */
	char model[64]; /* CPU model's name */
	struct kvm_i_leaf *cpuid; /* what CPUID says, but for what is each vCPU's own */
	uint32_t ncpuid;
};

#endif
