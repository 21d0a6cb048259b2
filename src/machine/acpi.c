#include "machine/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/ged.h"
#include "machine/acpi_priv.h"
#include "machine/pc_map.h"
#include "machine/topology.h"

#define HEAD 36u /* of every table but RSDP and FACS */
#define RSDP_LEN 36u
#define FADT_LEN 276u
#define FACS_LEN 64u
#define APIC_ID_MAX 254u /* of a local APIC entry; beyond it x2APIC entries */

/* Flags of the FADT (table 5.35). */
enum {
	FADT_WBINVD = 1 << 0,
	FADT_PROC_C1 = 1 << 2,
	FADT_NO_FIXED_POWER_BUTTON = 1 << 4,
	FADT_NO_FIXED_SLEEP_BUTTON = 1 << 5,
	FADT_NO_FIXED_RTC_WAKE = 1 << 6,
	FADT_TIMER_32BIT = 1 << 8,
	FADT_RESET_REGISTER = 1 << 10,
	FADT_HW_REDUCED = 1 << 20,
};
enum { BOOT_NO_VGA = 1 << 2 };
enum { MADT_PCAT_COMPAT = 1 };
/* Interrupt flags of the MADT (table 5.51). */
enum { ACTIVE_HIGH = 1, LEVEL = 3 << 2 };

struct writer {
	struct acpi_tables *t;
	const struct acpi_opts *o;
	size_t cap;
	bool failed;
};

static uint8_t *add(struct writer *w, size_t n)
{
	struct acpi_tables *t = w->t;

	if (!w->failed && t->len + n > w->cap) {
		size_t cap = 2 * (t->len + n);
		uint8_t *p = realloc(t->blob, cap);

		w->failed = !p;
		if (p) {
			t->blob = p;
			w->cap = cap;
		}
	}
	if (w->failed)
		return NULL;
	if (!n)
		return t->blob; /* nothing yet: NULL, which nobody writes to */
	memset(t->blob + t->len, 0, n);
	t->len += n;
	return t->blob + t->len - n;
}

static void add8(struct writer *w, unsigned v)
{
	uint8_t *p = add(w, 1);

	if (p)
		*p = (uint8_t)v;
}

static void add16(struct writer *w, unsigned v)
{
	uint8_t *p = add(w, 2);

	if (p)
		put_le16(p, (uint16_t)v);
}

static void add32(struct writer *w, uint64_t v)
{
	uint8_t *p = add(w, 4);

	if (p)
		put_le32(p, (uint32_t)v);
}

static void add64(struct writer *w, uint64_t v)
{
	uint8_t *p = add(w, 8);

	if (p)
		put_le64(p, v);
}

static void bytes(struct writer *w, const void *b, size_t n)
{
	uint8_t *p = add(w, n);

	if (p)
		memcpy(p, b, n);
}

/* Aligned, so that a table that the guest maps is not torn in half. */
static void begin(struct writer *w, const char *name, unsigned align)
{
	struct acpi_table *table = &w->t->table[w->t->n++];

	add(w, (size_t)(align_up(w->t->len, align) - w->t->len));
	*table = (struct acpi_table){.off = (uint32_t)w->t->len};
	memcpy(table->name, name, 4);
}

/* Section 5.2.6. Length and checksum follow in finish(). */
static void header(struct writer *w, const char *name, unsigned revision)
{
	begin(w, name, 16);
	bytes(w, name, 4);
	add32(w, 0);
	add8(w, revision);
	add8(w, 0);
	bytes(w, "LODGE ", 6);
	bytes(w, "LODGEPC ", 8);
	add32(w, 1);
	bytes(w, "LDGE", 4);
	add32(w, 1);
}

static uint8_t checksum(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;

	while (n--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

static void finish(struct writer *w)
{
	struct acpi_table *table = &w->t->table[w->t->n - 1];
	uint8_t *p = w->t->blob + table->off;

	if (w->failed)
		return;
	table->len = (uint32_t)(w->t->len - table->off);
	put_le32(p + 4, table->len);
	p[9] = 0;
	p[9] = checksum(p, table->len);
}

static uint64_t address_of(const struct writer *w, const char *name)
{
	for (unsigned i = 0; i < w->t->n; i++)
		if (!strcmp(w->t->table[i].name, name))
			return w->o->base + w->t->table[i].off;
	return 0;
}

/* Generic address structure (5.2.3.2). */
static void gas(uint8_t *p, enum aml_space sp, unsigned bits, uint64_t addr)
{
	p[0] = (uint8_t)sp;
	p[1] = (uint8_t)bits;
	p[2] = 0;
	p[3] = bits == 8 ? 1 : bits == 16 ? 2 : 3;
	put_le64(p + 4, addr);
}

static void fadt_full(uint8_t *p, uint64_t facs)
{
	const unsigned pm = PC_PORT_PM;

	put_le32(p + 36, (uint32_t)facs);
	put_le16(p + 46, ACPI_SCI_GSI);
	put_le32(p + 56, pm + ACPI_PM_EVENT);
	put_le32(p + 64, pm + ACPI_PM_CONTROL);
	put_le32(p + 76, pm + ACPI_PM_TIMER);
	p[88] = 4;
	p[89] = 2;
	p[91] = 4;
	put_le16(p + 96, 0x0fff); /* no C2 */
	put_le16(p + 98, 0x0fff); /* no C3 */
	gas(p + 148, AML_SYSTEM_IO, 32, pm + ACPI_PM_EVENT);
	gas(p + 172, AML_SYSTEM_IO, 16, pm + ACPI_PM_CONTROL);
	gas(p + 208, AML_SYSTEM_IO, 32, pm + ACPI_PM_TIMER);
}

/* Section 5.2.9. */
static void fadt(struct writer *w)
{
	uint32_t flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_FIXED_POWER_BUTTON |
			 FADT_NO_FIXED_SLEEP_BUTTON | FADT_NO_FIXED_RTC_WAKE | FADT_RESET_REGISTER;
	uint64_t regs = pc_map[PC_GED].base + GED_SLEEP_CONTROL;
	uint8_t *p;

	header(w, "FACP", 6);
	p = add(w, FADT_LEN - HEAD);
	if (!p)
		return;
	p -= HEAD;
	put_le32(p + 40, (uint32_t)address_of(w, "DSDT"));
	put_le64(p + 140, address_of(w, "DSDT"));
	put_le16(p + 109, BOOT_NO_VGA);
	gas(p + 116, AML_SYSTEM_MEMORY, 8, regs + 2);
	p[108] = 0x32; /* where the clock keeps the century */
	p[128] = GED_RESET_VALUE;
	p[131] = 3; /* ACPI 6.3 */
	if (w->o->full) {
		fadt_full(p, address_of(w, "FACS"));
		flags |= FADT_TIMER_32BIT;
	} else {
		flags |= FADT_HW_REDUCED;
		gas(p + 244, AML_SYSTEM_MEMORY, 8, regs);
		gas(p + 256, AML_SYSTEM_MEMORY, 8, regs + 1);
	}
	put_le32(p + 112, flags);
	memcpy(p + 268, "LODGE", 5);
	finish(w);
}

/* Section 5.2.10: no checksum. */
static void facs(struct writer *w)
{
	begin(w, "FACS", 64);
	bytes(w, "FACS", 4);
	add32(w, FACS_LEN);
	add(w, FACS_LEN - 8 - 32);
	add8(w, 2); /* version, at byte 32 */
	add(w, 31);
	w->t->table[w->t->n - 1].len = FACS_LEN;
}

static void override(struct writer *w, unsigned irq, unsigned gsi, unsigned flags)
{
	add8(w, 2);
	add8(w, 10);
	add8(w, 0); /* ISA */
	add8(w, irq);
	add32(w, gsi);
	add16(w, flags);
}

/* Section 5.2.12. */
static void madt(struct writer *w)
{
	const struct topology *t = w->o->topology;
	bool wide = false;

	header(w, "APIC", 5);
	add32(w, pc_map[PC_LAPIC].base);
	add32(w, w->o->full ? MADT_PCAT_COMPAT : 0);
	for (unsigned h = 0; h < t->harts; h++) {
		uint32_t id = w->o->apic_id[h];

		if (id <= APIC_ID_MAX) {
			add8(w, 0);
			add8(w, 8);
			add8(w, h);
			add8(w, id);
			add32(w, 1); /* enabled */
			continue;
		}
		wide = true;
		add8(w, 9);
		add8(w, 16);
		add16(w, 0);
		add32(w, id);
		add32(w, 1);
		add32(w, h);
	}
	add8(w, 1);
	add8(w, 12);
	add8(w, 0); /* id */
	add8(w, 0);
	add32(w, pc_map[PC_IOAPIC].base);
	add32(w, 0); /* first GSI */
	override(w, 0, 2, 0); /* the interval timer, where an engine has one */
	if (w->o->full)
		override(w, ACPI_SCI_GSI, ACPI_SCI_GSI, ACTIVE_HIGH | LEVEL);
	for (unsigned pin = 0; pin < 4; pin++)
		override(w, PC_GSI_PCI + pin, PC_GSI_PCI + pin, ACTIVE_HIGH | LEVEL);
	add8(w, 4); /* NMI of every local APIC: its input LINT1 */
	add8(w, 6);
	add8(w, 0xff);
	add16(w, 0);
	add8(w, 1);
	if (wide) {
		add8(w, 0xa);
		add8(w, 12);
		add16(w, 0);
		add32(w, UINT32_MAX);
		add8(w, 1);
		add(w, 3);
	}
	finish(w);
}

static void mcfg(struct writer *w)
{
	header(w, "MCFG", 1);
	add64(w, 0);
	add64(w, pc_map[PC_ECAM].base);
	add16(w, 0); /* segment */
	add8(w, 0);
	add8(w, PC_PCI_BUSES - 1);
	add32(w, 0);
	finish(w);
}

static void srat_cpu(struct writer *w, uint32_t id, unsigned node)
{
	if (id <= APIC_ID_MAX) {
		add8(w, 0);
		add8(w, 16);
		add8(w, node);
		add8(w, id);
		add32(w, 1);
		add(w, 8);
		return;
	}
	add8(w, 2);
	add8(w, 24);
	add16(w, 0);
	add32(w, node);
	add32(w, id);
	add32(w, 1);
	add(w, 8);
}

/* Section 5.2.16. */
static void srat(struct writer *w)
{
	const struct topology *t = w->o->topology;

	header(w, "SRAT", 3);
	add32(w, 1);
	add64(w, 0);
	for (unsigned h = 0; h < t->harts; h++)
		srat_cpu(w, w->o->apic_id[h], t->hart[h].node);
	for (unsigned n = 0; n < t->nodes; n++) {
		struct topology_range r[2];
		unsigned ranges = topology_node_ranges(t, n, r);

		for (unsigned i = 0; i < ranges; i++) {
			add8(w, 1);
			add8(w, 40);
			add32(w, n);
			add16(w, 0);
			add64(w, r[i].base);
			add64(w, r[i].len);
			add32(w, 0);
			add32(w, 1); /* enabled */
			add64(w, 0);
		}
	}
	finish(w);
}

/* Section 5.2.17. */
static void slit(struct writer *w)
{
	const struct topology *t = w->o->topology;

	header(w, "SLIT", 1);
	add64(w, t->nodes);
	for (unsigned n = 0; n < t->nodes; n++)
		bytes(w, t->distance[n], t->nodes);
	finish(w);
}

static void xsdt(struct writer *w)
{
	static const char *const listed[] = {"FACP", "APIC", "MCFG", "SRAT", "SLIT"};

	header(w, "XSDT", 1);
	for (size_t i = 0; i < ARRAY_SIZE(listed); i++) {
		uint64_t at = address_of(w, listed[i]);

		if (at)
			add64(w, at);
	}
	finish(w);
}

/* Section 5.2.5.3. */
static void rsdp(struct writer *w)
{
	uint8_t *p = w->t->blob;

	if (w->failed)
		return;
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "LODGE ", 6);
	p[15] = 2;
	put_le32(p + 20, RSDP_LEN);
	put_le64(p + 24, address_of(w, "XSDT"));
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_LEN);
	w->t->table[0].len = RSDP_LEN;
}

static int check(const struct acpi_opts *o, struct err *e)
{
	const struct topology *t = o->topology;

	if (o->base % 64 || o->base > UINT32_MAX)
		return err_set(e, -EINVAL, "ACPI tables at 0x%llx: not aligned, or above 4 GiB",
			(unsigned long long)o->base);
	for (unsigned i = 0; i < t->harts; i++)
		for (unsigned j = 0; j < i; j++)
			if (o->apic_id[i] == o->apic_id[j])
				return err_set(e, -EINVAL,
					"ACPI tables: vCPUs %u and %u have the same APIC id %u", j,
					i, o->apic_id[i]);
	return 0;
}

int acpi_build(const struct acpi_opts *o, struct acpi_tables *out, struct err *e)
{
	cleanup(aml_free) struct aml dsdt = {0};
	struct writer w = {.t = out, .o = o};
	int rc = check(o, e);

	*out = (struct acpi_tables){0};
	if (!rc)
		rc = acpi_dsdt(o, &dsdt, e);
	if (rc)
		return rc;
	begin(&w, "RSDP", 64);
	add(&w, RSDP_LEN);
	if (o->full)
		facs(&w);
	header(&w, "DSDT", 2);
	bytes(&w, dsdt.p, dsdt.n);
	finish(&w);
	fadt(&w);
	madt(&w);
	mcfg(&w);
	srat(&w);
	if (o->topology->nodes > 1)
		slit(&w);
	xsdt(&w);
	rsdp(&w);
	if (w.failed)
		rc = err_set(e, -ENOMEM, "ACPI tables: no memory");
	else if (out->len > o->max)
		rc = err_set(e, -E2BIG, "ACPI tables: %zu bytes, and there is room for %llu",
			out->len, (unsigned long long)o->max);
	if (rc)
		acpi_free(out);
	return rc;
}

void acpi_free(struct acpi_tables *t)
{
	free(t->blob);
	*t = (struct acpi_tables){0};
}
