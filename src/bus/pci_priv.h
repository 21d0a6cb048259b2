/*
 * pci_priv.h: what pci.c (host, config space, BARs) and pci_irq.c (MSI-X, INTx) share. Not for others.
 */
#ifndef LODGE_BUS_PCI_PRIV_H
#define LODGE_BUS_PCI_PRIV_H

#include "bus/pci.h"

#define PCI_SLOTS 32
#define PCI_FUNCS (PCI_SLOTS * 8)

struct pci_host {
	struct bus *bus;
	struct pci_host_opts opts;
	pthread_mutex_t lock; /* config space of every function */
	pthread_mutex_t intx_lock; /* pin levels and line counts */
	unsigned intx_count[4]; /* functions that hold the line up */
	struct pci_func *func[PCI_FUNCS];
	struct pci_func bridge;
	struct bus_region ecam, io;
};

/* Config space of the function changed: take over the MSI-X control bits, send what is due. Config lock held. */
void pci_msix_update(struct pci_func *f);
void pci_msix_reset(struct pci_func *f);
void pci_msix_free(struct pci_func *f);
/* Drives the line as level, command register and publication say. Config lock held or vCPUs stopped. */
void pci_intx_update(struct pci_func *f);
/* May the function issue memory requests? From the command register and the power state. */
bool pci_cfg_master(const struct pci_func *f);

#endif
