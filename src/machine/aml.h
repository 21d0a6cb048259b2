/*
 * aml.h: a writer of ACPI Machine Language, the byte code of the DSDT.
 *
 * Calls with named operations in the order of the source; what has a body is closed by aml_end(), which puts the package length in
 * front of it. The first error sticks, later calls do nothing, and aml_finish() reports it: also a body that was never closed, a name
 * that is none, a package longer than its encoding takes.
 *
 *	struct aml a = {0};
 *	aml_scope(&a, "\\_SB");
 *	  aml_device(&a, "COM1");
 *	    aml_name(&a, "_HID");	aml_eisaid(&a, "PNP0501");
 *	    aml_name(&a, "_CRS");
 *	    aml_resources(&a);	aml_res_io(&a, 0x3f8, 8);	aml_res_irq(&a, 4, AML_IRQ_EDGE);	aml_end(&a);
 *	  aml_end(&a);
 *	aml_end(&a);
 *	rc = aml_finish(&a, e);		... a.p, a.n ...
 *	aml_free(&a);
 *
 * Source: ACPI 6.4, chapter 20 (encoding) and section 6.4 (resource descriptors).
 */
#ifndef LODGE_MACHINE_AML_H
#define LODGE_MACHINE_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define AML_DEPTH 16

struct aml_open {
	size_t at; /* where the package length goes */
	bool resources; /* a buffer of resource descriptors: end tag and size too */
};

struct aml {
	uint8_t *p;
	size_t n, cap;
	struct aml_open open[AML_DEPTH];
	unsigned depth;
	const char *wrong; /* NULL: nothing yet */
};

int aml_finish(struct aml *a, struct err *e);
void aml_free(struct aml *a);

/* Bodies: closed by aml_end(). Paths: "\\_SB.PCI0", "^PWRB", "_HID"; segments of up to four letters. */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *path);
void aml_method(struct aml *a, const char *path, unsigned args, bool serialized);
void aml_package(struct aml *a, unsigned elements);
void aml_if(struct aml *a); /* the predicate is the next term */
void aml_else(struct aml *a); /* right behind the end of an if */
void aml_resources(struct aml *a);
void aml_end(struct aml *a);

/* Name(path, <the next term>) */
void aml_name(struct aml *a, const char *path);

/* Terms. */
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *text);
void aml_eisaid(struct aml *a, const char *id); /* "PNP0A08" */
void aml_uuid(
	struct aml *a, const char *text); /* "33db4d5b-1ff7-401c-9657-7441c03dd766", as a buffer */
void aml_path(struct aml *a, const char *path); /* a reference to an object */
void aml_local(struct aml *a, unsigned n);
void aml_arg(struct aml *a, unsigned n);

/* Operations; what they take follows as terms. */
void aml_return(struct aml *a); /* a value */
void aml_store(struct aml *a); /* a value, a target */
void aml_and(struct aml *a); /* two values and a target, or aml_no_target() */
void aml_or(struct aml *a); /* the same */
void aml_no_target(struct aml *a);
void aml_equal(struct aml *a); /* two values */
void aml_not(struct aml *a); /* a value */
/* CreateDWordField: a name for the 32 bits at byte `at` of the method's argument. */
void aml_dword_field(struct aml *a, unsigned arg, unsigned at, const char *name);
void aml_notify(struct aml *a, const char *path, uint64_t value);

enum aml_space { AML_SYSTEM_MEMORY = 0, AML_SYSTEM_IO = 1 };
void aml_region(struct aml *a, const char *name, enum aml_space sp, uint64_t base, uint64_t len);
/* One field of `bits` at the start of a region, accessed in units of `bits` (8, 16, 32). */
void aml_field(struct aml *a, const char *region, const char *field, unsigned bits);

/* Resource descriptors, between aml_resources() and aml_end(). */
enum aml_irq { AML_IRQ_LEVEL, AML_IRQ_EDGE, AML_IRQ_LEVEL_SHARED };
enum aml_window { AML_WINDOW_MEM32, AML_WINDOW_MEM64, AML_WINDOW_MEM64_PREFETCH };
void aml_res_io(struct aml *a, uint16_t base, uint8_t len); /* fixed ports */
void aml_res_memory32(struct aml *a, uint32_t base, uint32_t len); /* fixed, read and write */
void aml_res_irq(struct aml *a, uint32_t gsi, enum aml_irq kind); /* active high, consumer */
/* What a bridge hands on: bus numbers, ports, memory. `last` inclusive. */
void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_memory_window(struct aml *a, enum aml_window w, uint64_t base, uint64_t len);

#endif
