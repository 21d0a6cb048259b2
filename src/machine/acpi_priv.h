/*
 * acpi_priv.h: between acpi.c (fixed tables) and acpi_dsdt.c (AML). Not for others.
 */
#ifndef LODGE_MACHINE_ACPI_PRIV_H
#define LODGE_MACHINE_ACPI_PRIV_H

#include "machine/acpi.h"
#include "machine/aml.h"

#define ACPI_PM_EVENT 0 /* PM1a event block: status, enable */
#define ACPI_PM_CONTROL 4
#define ACPI_PM_TIMER 8
#define ACPI_PM_LEN 12
#define ACPI_SCI_GSI 10u
#define ACPI_S5_TYPE 5u

/* The body of the DSDT. */
int acpi_dsdt(const struct acpi_opts *o, struct aml *a, struct err *e);

#endif
