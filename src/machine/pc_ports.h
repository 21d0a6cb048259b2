/*
 * pc_ports.h: the port pair by which a PC reaches PCI configuration space (PCI Local Bus 3.0, section 3.2.2.3.2), and the reset register
 * in between.
 *
 *	0xcf8  32 bits  enable << 31 | bus << 16 | device << 11 | function << 8 | register
 *	0xcf9   8 bits  bit 2: reboot
 *	0xcfc  any width, any alignment inside: the register's bytes
 */
#ifndef LODGE_MACHINE_PC_PORTS_H
#define LODGE_MACHINE_PC_PORTS_H

#include "base/state.h"
#include "bus/bus.h"

struct err;
struct pc_ports;
struct pci_host;

struct pc_ports_opts {
	struct bus *bus;
	struct pci_host *pci;
	uint16_t port;
	void (*system_event)(void *ctx, int event, uint64_t code);
	void *ctx;
};

int pc_ports_create(struct pc_ports **out, const struct pc_ports_opts *o, struct err *e);
void pc_ports_destroy(struct pc_ports *p);
void pc_ports_reset(struct pc_ports *p);
extern const struct state_desc pc_ports_state; /* object: the pc_ports */

#endif
